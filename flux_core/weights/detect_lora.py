"""Which spelling a LoRA has and what it changes, told from its names; reading it is another module's work.

The order of the tests matters, because several spellings share endings. A file counts as a LoRA when it
holds low-rank pairs or their relatives (LoHa, LoKr, differences), and as FLUX.1's when at least one of its
names is a module of FLUX.1 or of its text encoders.

Source: research on kohya, PEFT, XLabs, BFL, LyCORIS and OneTrainer key conventions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from flux_core.weights.layout import Names

_PAIR = re.compile(
    r"[._]lora_(?:up|down|mid|[AB])(?:\.|$)|\.lora\.(?:up|down)\.|lora_linear_layer\.|_lora\d?\.(?:up|down)\."
    r"|\.hada_w[12]|\.lokr_w[12]|\.lora_magnitude_vector|\.diff(?:_b)?$"
)
_TRANSFORMER = re.compile(
    r"double_blocks|single_blocks|transformer_blocks|img_in|txt_in|final_layer|x_embedder|context_embedder"
    r"|proj_out|time_text_embed"
)
_CLIP = re.compile(r"^lora_te1?_text_model|^text_encoder\.|^text_encoders\.clip_l\.")
_T5 = re.compile(r"^lora_te[23]_encoder_block|^text_encoder_2\.|^text_encoders\.t5xxl\.")

_ALGORITHMS = (
    (".hada_w", "LoHa"),
    (".lokr_w", "LoKr"),
    (".dora_scale", "DoRA"),
    ("lora_magnitude_vector", "DoRA"),
)


@dataclass(frozen=True, slots=True)
class DetectedLora:
    """What a LoRA file is.

    Attributes:
        naming: Whose spelling: "kohya", "diffusers or PEFT", "XLabs", "BFL control", ...
        title: For a person.
        is_control: Whether it is BFL's control LoRA, which also replaces norms and widens the input.
        notes: What is unusual.
    """

    naming: str
    title: str
    is_control: bool = False
    notes: tuple[str, ...] = ()


def is_lora(names: Iterable[str]) -> bool:
    """Whether any name is that of a LoRA's or a relative's tensor, whatever model it is for."""
    return any(_PAIR.search(name) for name in names)


def detect_lora(tensors: Names) -> DetectedLora | None:
    """What a LoRA is; None if the file is no LoRA of FLUX.1."""
    if tensors.has_suffix(".qweight") or not is_lora(tensors):
        return None
    targets = _targets(tensors)
    if not targets:
        return None
    naming = _naming(tensors)
    kinds = dict.fromkeys(kind for mark, kind in _ALGORITHMS if tensors.has_part(mark))
    is_control = naming == "BFL control"
    what = "FLUX.1 control LoRA" if is_control else f"FLUX.1 {' and '.join(kinds) or 'LoRA'}"
    notes = () if "the transformer" in targets else (f"It changes {' and '.join(targets)} only.",)
    return DetectedLora(naming, f"{what} for {' and '.join(targets)}", is_control, notes)


def _targets(tensors: Names) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for name in tensors:
        if _CLIP.match(name):
            found["CLIP"] = None
        elif _T5.match(name):
            found["T5"] = None
        elif _TRANSFORMER.search(name):
            found["the transformer"] = None
    order = ("the transformer", "CLIP", "T5")
    return tuple(target for target in order if target in found)


def _naming(tensors: Names) -> str:
    if tensors.has_prefix("lycoris_"):
        return "LyCORIS"
    if tensors.has_prefix("lora_transformer_"):
        return "OneTrainer"
    if tensors.has_prefix("lora_unet_") or tensors.has_prefix("lora_te"):
        return "kohya"
    if tensors.has_part(".processor."):
        return "XLabs"
    if tensors.has_suffix("query_norm.scale") and tensors.has_part(".lora_A."):
        return "BFL control"
    if tensors.has_prefix("base_model.model."):
        return "PEFT (base_model)"
    if tensors.has_prefix("diffusion_model."):
        return "ComfyUI"
    return "diffusers or PEFT"
