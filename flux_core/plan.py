"""What a request needs: its stages in order, the part of the model each one uses, and what that weighs.

A part is used by one stage only, so each may be freed as soon as its stage is over, and the peak is
then the heaviest part instead of the sum. Weights are counted from the model definitions themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from flux_core.catalog import ModelSpec
from flux_core.messages import Stage
from flux_core.models.autoencoder import Decoder, Encoder
from flux_core.models.clip import ClipText
from flux_core.models.t5 import T5Encoder
from flux_core.models.transformer import Transformer
from flux_core.ops import LeafFactory
from flux_core.request import GenerationRequest, Task
from flux_core.weights.expected import expected_shapes


class Component(StrEnum):
    """A part of a model that is loaded and freed on its own."""

    CLIP = "clip"
    T5 = "t5"
    VAE_ENCODER = "vae_encoder"
    TRANSFORMER = "transformer"
    VAE_DECODER = "vae_decoder"


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One stage of a job.

    Attributes:
        stage: What the person is told.
        component: The part it needs; no later step needs it.
        weight_bytes: Size of that part's weights in memory.
    """

    stage: Stage
    component: Component
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a job, in the order they run."""

    steps: tuple[PlanStep, ...]

    @property
    def components(self) -> tuple[Component, ...]:
        return tuple(step.component for step in self.steps)

    @property
    def resident_bytes(self) -> int:
        """Weights in memory when every part is kept for the next job."""
        return sum(step.weight_bytes for step in self.steps)

    @property
    def sequential_bytes(self) -> int:
        """Weights in memory at the worst moment when each part is freed after its step."""
        return max(step.weight_bytes for step in self.steps)


def make_plan(request: GenerationRequest, spec: ModelSpec, bytes_per_value: int) -> Plan:
    """Plans a job.

    Args:
        request: What to do.
        spec: The model's row of the catalog.
        bytes_per_value: 4 for float32, 2 for bfloat16.
    """
    stages = [(Stage.ENCODING, Component.CLIP), (Stage.ENCODING, Component.T5)]
    if request.task is not Task.GENERATE:
        stages.append((Stage.ENCODING, Component.VAE_ENCODER))
    stages += [(Stage.DENOISING, Component.TRANSFORMER), (Stage.DECODING, Component.VAE_DECODER)]
    return Plan(
        tuple(PlanStep(stage, part, num_values(spec, part) * bytes_per_value) for stage, part in stages)
    )


def num_values(spec: ModelSpec, component: Component) -> int:
    """Number of weights of a part."""

    def build(ops: Any, make: LeafFactory) -> object:
        match component:
            case Component.CLIP:
                return ClipText(ops, make, spec.clip)
            case Component.T5:
                return T5Encoder(ops, make, spec.t5)
            case Component.VAE_ENCODER:
                return Encoder(ops, make, spec.autoencoder)
            case Component.TRANSFORMER:
                return Transformer(ops, make, spec.transformer)
            case Component.VAE_DECODER:
                return Decoder(ops, make, spec.autoencoder)

    return sum(math.prod(shape) for shape in expected_shapes(build).values())
