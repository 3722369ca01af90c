"""A PEFT adapter, added to the weights of a helper that is about to run.

A helper lives for one look, so its adapter need not come off again, and no library beside safetensors is
needed. Only plain LoRA is read, which is what helpers are published with.

Source: Hu et al. 2021; peft's adapter_config.json.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from backends.torch_cuda.vision import library
from flux_core.errors import Corrupt, RequestInvalid

_PREFIX = "base_model.model."
_OTHER_KINDS = (
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "use_bdlora",
    "fan_in_fan_out",
)


def add_adapter(model: Any, folder: Path, title: str) -> None:
    """Adds scale * up @ down to every weight that the adapter has a pair for.

    Args:
        model: In memory, of any dtype and device.
        folder: Holds adapter_config.json and adapter_model.safetensors.
        title: What to call the helper in an error.

    Raises:
        Corrupt: A pair is incomplete or fits no weight of the model, or the file is damaged.
        RequestInvalid: The adapter is more than plain LoRA.
    """
    settings = library.read_settings(folder, "adapter_config.json", title)
    other = [key for key in _OTHER_KINDS if settings.get(key)]
    if other or settings.get("bias", "none") != "none":
        raise RequestInvalid(
            f"The adapter of {title} uses {', '.join(other) or 'biases'}, which is not read here.",
            "Use the adapter that was published with the model.",
        )
    with library.explained(folder.parent, title):
        tensors = load_file(folder / "adapter_model.safetensors")
        rank, alpha = int(settings["r"]), float(settings["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    weights: dict[str, Tensor] = dict(model.named_parameters())
    with torch.no_grad():
        for name in {key.removeprefix(_PREFIX).rpartition(".lora_")[0] for key in tensors}:
            down = tensors.pop(f"{_PREFIX}{name}.lora_A.weight", None)
            up = tensors.pop(f"{_PREFIX}{name}.lora_B.weight", None)
            weight = weights.get(f"{name}.weight")
            if down is None or up is None or weight is None:
                raise Corrupt(f"{title}: its adapter does not fit its {name[:80]!r}.", "Get both again.")
            if (up.shape[0], down.shape[1]) != tuple(weight.shape) or up.shape[1] != down.shape[0]:
                raise Corrupt(f"{title}: its adapter has another size than {name[:80]!r}.", "Get both again.")
            change = up.to(weight.device).float() @ down.to(weight.device).float()
            weight.add_((scale * change).to(weight.dtype))
    if tensors:
        raise Corrupt(f"{title}: its adapter holds {min(tensors)[:80]!r}, which is no LoRA.", "Get it again.")
