"""LyCORIS' own wrapper, as SimpleTuner uses it: `lycoris_` and diffusers' name with underscores."""

from __future__ import annotations

from flux_core.catalog import ModelSpec
from flux_core.plan import Component
from flux_core.weights.lora.target import Named, diffusers_names, own_names, prefixed, underscored


def names(spec: ModelSpec) -> Named:
    """BFL's names too, for those who wrap BFL's model."""
    yield from prefixed(("lycoris_",), underscored(diffusers_names(spec)))
    yield from prefixed(("lycoris_",), underscored(own_names(spec, Component.TRANSFORMER)))
