"""BFL's own module names without a prefix: the control LoRAs (Canny-dev-lora, Depth-dev-lora).

They change every matrix, with a bias on the up side, and bring their own query and key norms.
"""

from __future__ import annotations

from flux_core.catalog import ModelSpec
from flux_core.plan import Component
from flux_core.weights.lora.target import Named, own_names


def names(spec: ModelSpec) -> Named:
    """The transformer only."""
    yield from own_names(spec, Component.TRANSFORMER)
