"""The layers of a model that a LoRA may change, found by building it with a factory that takes notes.

Sizes come from the model definitions themselves, so a file is judged before a byte of it is read.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from flux_core.catalog import ModelSpec
from flux_core.models.clip import ClipText
from flux_core.models.t5 import T5Encoder
from flux_core.models.transformer import Transformer
from flux_core.plan import Component
from flux_core.weights.expected import Recorder


@dataclass(frozen=True, slots=True)
class Layer:
    """A matrix or a norm.

    Attributes:
        component: Where it is.
        name: Checkpoint name, without ".weight".
        rows: Outputs of a matrix, length of a norm.
        columns: Inputs of a matrix, 0 for a norm.
        key: What the checkpoint calls the weight: "weight" or "scale".
        has_bias: Whether a norm adds something; matrices always may.
    """

    component: Component
    name: str
    rows: int
    columns: int
    key: str = "weight"
    has_bias: bool = True

    @property
    def is_norm(self) -> bool:
        return self.columns == 0


Layers = dict[Component, tuple[Layer, ...]]


@functools.cache
def layers_of(spec: ModelSpec) -> Layers:
    """Every layer of the transformer and of both text encoders; do not change what it gives."""
    found: Layers = {}
    builds = (
        (Component.TRANSFORMER, Transformer, spec.transformer),
        (Component.CLIP, ClipText, spec.clip),
        (Component.T5, T5Encoder, spec.t5),
    )
    for component, build, config in builds:
        notes = _Notes(component)
        make: Any = build
        make(None, notes, config)
        found[component] = tuple(notes.layers)
    return found


class _Notes(Recorder):
    """A LeafFactory that lists matrices and norms; tables and convolutions are not changed by LoRAs."""

    def __init__(self, component: Component) -> None:
        super().__init__()
        self.component = component
        self.layers: list[Layer] = []

    def linear(self, name: str, in_dim: int, out_dim: int, bias: bool = True) -> None:
        self.layers.append(Layer(self.component, name, out_dim, in_dim))

    def rms_norm(self, name: str, dim: int, eps: float, key: str = "weight") -> None:
        self.layers.append(Layer(self.component, name, dim, 0, key, has_bias=False))

    def layer_norm(self, name: str, dim: int, eps: float) -> None:
        self.layers.append(Layer(self.component, name, dim, 0))
