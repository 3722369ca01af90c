"""What a file that is no LoRA of FLUX.1 seems to be instead, so that the refusal can say so.

Told from names and from what the header says of itself; a LoRA of another model may share text encoders
with FLUX.1 (SDXL's first one is the same), so one such name is enough to refuse it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_OTHER_MODELS: tuple[tuple[str, str], ...] = (
    ("a LoRA of Stable Diffusion", r"(?:down|input|mid|middle|up|output)_blocks?[._]"),
    ("a LoRA of Stable Diffusion XL", r"lora_te2_text_model_|text_encoder_2\.text_model\.|clip_g\."),
    ("a LoRA of Stable Diffusion 3", r"joint_blocks[._]\d|text_encoder_3\."),
    (
        "a LoRA of FLUX.2",
        r"(?:single|double)_stream_modulation|to_qkv_mlp_proj|ff(?:_context)?[._]linear_(?:in|out)",
    ),
    ("a LoRA of Chroma", r"distilled_guidance_layer"),
    ("a LoRA of Qwen-Image", r"transformer_blocks[._]\d+[._](?:img|txt)_(?:mlp[._]net|mod[._]1)"),
    ("a LoRA of HunyuanVideo", r"token_refiner|double_blocks[._]19[._]"),
    ("a LoRA of Wan", r"blocks[._]\d+[._](?:self|cross)_attn[._](?:q|k|v|o|k_img|v_img)(?:[._]|$)"),
    ("an IP-Adapter", r"ip_adapter|image_proj\."),
    ("a ControlNet", r"controlnet_(?:single_)?blocks|controlnet_x_embedder|input_hint_block"),
    ("a whole model, not a LoRA", r"(?:qkv|linear[12]|to_[qkv]|q_proj|img_in|x_embedder)\.weight$"),
)
_PATTERNS = tuple((what, re.compile(pattern)) for what, pattern in _OTHER_MODELS)
_TOLD_BY = ("modelspec.architecture", "ss_base_model_version")
_OTHER_WORDS = (
    "stable-diffusion",
    "sdxl",
    "sd_",
    "sd3",
    "flux-2",
    "flux2",
    "hunyuan",
    "wan",
    "qwen",
    "chroma",
)
_LORA_WORDS = re.compile(r"lora|hada_w|lokr_|\.diff\b|dora_scale")


def other_model(names: Iterable[str], metadata: Mapping[str, str]) -> str | None:
    """What the names that mean nothing to FLUX.1, or the header, show that the file is; None if nothing."""
    for key in _TOLD_BY:
        said = metadata.get(key, "").lower()
        if said.startswith(_OTHER_WORDS):
            return f"a LoRA of {said[:40]!r}, as its header says"
    listed = [name for name in names if len(name) <= 400]
    for what, pattern in _PATTERNS:
        if any(pattern.search(name) for name in listed):
            return what
    return None


def nature(names: Iterable[str]) -> str:
    """What a file is of which no tensor could be used, as the end of a sentence."""
    listed = [name for name in names if len(name) <= 400]
    if not listed:
        return "an empty file"
    if any(_LORA_WORDS.search(name) for name in listed):
        return "a LoRA of a model that is not known here"
    return "no LoRA"
