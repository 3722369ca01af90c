"""OneTrainer: `lora_transformer_` and diffusers' name with underscores; T5 is `lora_te2_`."""

from __future__ import annotations

from flux_core.catalog import ModelSpec
from flux_core.plan import Component
from flux_core.weights.lora.target import Named, diffusers_names, own_names, prefixed, underscored


def names(spec: ModelSpec) -> Named:
    """CLIP is spelled as sd-scripts does."""
    yield from prefixed(("lora_transformer_",), underscored(diffusers_names(spec)))
    yield from prefixed(("lora_te2_",), underscored(own_names(spec, Component.T5)))
