"""ComfyUI's generic form, also BFL's models under PEFT: `diffusion_model.` and BFL's name, dots kept.

Text encoders have the prefixes of an all-in-one checkpoint.
"""

from __future__ import annotations

from flux_core.catalog import ModelSpec
from flux_core.plan import Component
from flux_core.weights.lora.target import Named, own_names, prefixed

_PREFIXES = ("diffusion_model.", "model.diffusion_model.", "transformer.")


def names(spec: ModelSpec) -> Named:
    """BFL's names behind `transformer.` are no diffusers names, so they cannot be mistaken."""
    yield from prefixed(_PREFIXES, own_names(spec, Component.TRANSFORMER))
    yield from prefixed(("text_encoders.clip_l.transformer.",), own_names(spec, Component.CLIP))
    yield from prefixed(("text_encoders.t5xxl.transformer.",), own_names(spec, Component.T5))
