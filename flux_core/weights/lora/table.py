"""Every module name that a LoRA file may use, by family. A new family is one file and one row here."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from flux_core.catalog import ModelSpec
from flux_core.weights.lora.families import bfl, comfy, diffusers, fal, kohya, lycoris, onetrainer, xlabs
from flux_core.weights.lora.target import Names, Target

FAMILIES: dict[str, Names] = {
    "sd-scripts (kohya)": kohya.names,
    "diffusers": diffusers.names,
    "OneTrainer": onetrainer.names,
    "ComfyUI": comfy.names,
    "PEFT on BFL's model": fal.names,
    "XLabs": xlabs.names,
    "LyCORIS": lycoris.names,
    "BFL": bfl.names,
}


@functools.cache
def targets_of(spec: ModelSpec) -> Mapping[str, tuple[str, Target]]:
    """Module name -> (family, target); where two families share a spelling it means the same in both."""
    table: dict[str, tuple[str, Target]] = {}
    for family, names in FAMILIES.items():
        for name, target in names(spec):
            table.setdefault(name, (family, target))
    return table
