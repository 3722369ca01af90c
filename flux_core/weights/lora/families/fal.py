"""fal's Kontext trainer, and PEFT models saved as they are: `base_model.model.` and BFL's name."""

from __future__ import annotations

from flux_core.catalog import ModelSpec
from flux_core.plan import Component
from flux_core.weights.lora.target import Named, own_names, prefixed


def names(spec: ModelSpec) -> Named:
    """The transformer only."""
    yield from prefixed(("base_model.model.",), own_names(spec, Component.TRANSFORMER))
