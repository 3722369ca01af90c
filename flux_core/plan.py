"""What a request needs: its stages in order, the part of the model each one uses, and what that weighs.

This is the table of FLUX.1's components: nothing is loaded that a task does not need. A part is used by one
stage only, so each may be freed as soon as its stage is over, and the peak is then the heaviest stage instead
of the sum. Weights are counted from the model definitions themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from flux_core.catalog import (
    PARTS,
    ClipVisionConfig,
    ControlNetConfig,
    IpAdapterConfig,
    Kind,
    ModelSpec,
    ReduxConfig,
    SiglipConfig,
    Taef1Config,
)
from flux_core.catalog.spec import PartConfig
from flux_core.messages import Stage
from flux_core.models.autoencoder import Decoder as FullDecoder
from flux_core.models.autoencoder import Encoder
from flux_core.models.clip import ClipText
from flux_core.models.clip_vision import ClipVision
from flux_core.models.controlnet import ControlNet
from flux_core.models.ip_adapter import IpAdapter
from flux_core.models.redux import Redux
from flux_core.models.siglip import SiglipVision
from flux_core.models.t5 import T5Encoder
from flux_core.models.taef1 import Taef1Decoder
from flux_core.models.transformer import Transformer
from flux_core.ops import LeafFactory
from flux_core.request import ControlKind, ControlUse, Decoder, GenerationRequest, Task
from flux_core.weights.expected import expected_shapes


class Component(StrEnum):
    """A part that is loaded and freed on its own."""

    CLIP = "clip"
    T5 = "t5"
    SIGLIP = "siglip"
    REDUX = "redux"
    CLIP_VISION = "clip_vision"
    IP_ADAPTER = "ip_adapter"
    DEPTH_ESTIMATOR = "depth_estimator"
    UPSCALER = "upscaler"
    VAE_ENCODER = "vae_encoder"
    CONTROLNET = "controlnet"
    TRANSFORMER = "transformer"
    VAE_DECODER = "vae_decoder"
    FAST_DECODER = "fast_decoder"
    HELPER = "helper"  # what looks at pictures: one of flux_core.catalog.helpers


class PartKey(NamedTuple):
    """One part of a job: what it is, and whose, where there may be several ("" for the model's own)."""

    component: Component
    name: str = ""


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One part in its stage.

    Attributes:
        stage: What the person is told.
        component: The part; no step of a later stage needs it.
        name: A row of the catalog or a file, as the request names it; "" for the model's own.
        weight_bytes: Size of that part's weights in memory; 0 where nobody knows before its file is here.
    """

    stage: Stage
    component: Component
    name: str
    weight_bytes: int

    @property
    def key(self) -> PartKey:
        return PartKey(self.component, self.name)


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a job, in the order they run."""

    steps: tuple[PlanStep, ...]

    @property
    def components(self) -> tuple[Component, ...]:
        return tuple(step.component for step in self.steps)

    @property
    def keys(self) -> tuple[PartKey, ...]:
        return tuple(step.key for step in self.steps)

    @property
    def resident_bytes(self) -> int:
        """Weights in memory when every part is kept for the next job."""
        return sum(step.weight_bytes for step in self.steps)

    @property
    def sequential_bytes(self) -> int:
        """Weights in memory at the worst moment when each part is freed after its use.

        Only those of the walk are in memory together: the transformer and what steers it.
        """
        walking = sum(step.weight_bytes for step in self.steps if step.stage is Stage.DENOISING)
        others = (step.weight_bytes for step in self.steps if step.stage is not Stage.DENOISING)
        return max(walking, *others, 0)


def make_plan(
    request: GenerationRequest,
    spec: ModelSpec,
    bytes_per_value: int,
    found: Mapping[PartKey, PartConfig] | None = None,
) -> Plan:
    """Plans a job.

    Args:
        request: What to do.
        spec: The model's row of the catalog.
        bytes_per_value: 4 for float32, 2 for bfloat16.
        found: The numbers of the parts beside the model whose files are here; those of the catalog
            stand in for the others.
    """
    found = found or {}

    def weigh(key: PartKey) -> int:
        config = found.get(key) or _published(key)
        return _count(spec, key.component, config) * bytes_per_value

    return Plan(tuple(PlanStep(stage, *key, weigh(key)) for stage, key in _needed(request, spec, found)))


def _needed(
    request: GenerationRequest, spec: ModelSpec, found: Mapping[PartKey, PartConfig]
) -> Iterator[tuple[Stage, PartKey]]:
    """The table: every part that a request needs, in the order they are used."""
    encoding, denoising = Stage.ENCODING, Stage.DENOISING
    if request.task is Task.LOOK:
        yield encoding, PartKey(Component.HELPER)
        return
    yield encoding, PartKey(Component.CLIP)
    if not request.is_clip_only:
        yield encoding, PartKey(Component.T5)
    for eye, adapter in _eyes(request, spec, found):
        yield encoding, eye
        yield encoding, adapter
    if any(use.kind is ControlKind.DEPTH and not use.is_map for use in request.controls):
        yield encoding, PartKey(Component.DEPTH_ESTIMATOR)
    if request.upscaler:
        yield encoding, PartKey(Component.UPSCALER, request.upscaler)
    if needs_encoder(request, found):
        yield encoding, PartKey(Component.VAE_ENCODER)
    for name in dict.fromkeys(use.model for use in request.controls):
        if is_kind(name, Kind.CONTROLNET, Component.CONTROLNET, found):
            yield denoising, PartKey(Component.CONTROLNET, name)
    yield denoising, PartKey(Component.TRANSFORMER)
    if request.decoder is Decoder.FAST:
        yield Stage.DECODING, PartKey(Component.FAST_DECODER, spec.fast_decoder)
    else:
        yield Stage.DECODING, PartKey(Component.VAE_DECODER)


def _eyes(
    request: GenerationRequest, spec: ModelSpec, found: Mapping[PartKey, PartConfig]
) -> Iterator[tuple[PartKey, PartKey]]:
    """Of each adapter that reads pictures, once: the encoder that it sees with, and itself."""
    for name in dict.fromkeys(use.adapter or spec.redux for use in request.pictures):
        if is_kind(name, Kind.IP_ADAPTER, Component.IP_ADAPTER, found):
            yield PartKey(Component.CLIP_VISION, name), PartKey(Component.IP_ADAPTER, name)
        else:
            yield PartKey(Component.SIGLIP, name), PartKey(Component.REDUX, name)


def is_kind(name: str, kind: Kind, component: Component, found: Mapping[PartKey, PartConfig]) -> bool:
    """Whether a name is a row of this kind, or a file that was found to be such a part."""
    row = PARTS.get(name)
    return row.kind is kind if row is not None else PartKey(component, name) in found


def needs_encoder(request: GenerationRequest, found: Mapping[PartKey, PartConfig]) -> bool:
    """Whether a picture of the request goes through the autoencoder."""
    if request.image is not None or request.references:
        return True

    def is_latent(use: ControlUse) -> bool:
        key = PartKey(Component.CONTROLNET, use.model)
        config = found.get(key) or _published(key)
        return not (isinstance(config, ControlNetConfig) and config.is_pixel_hint)

    return any(is_latent(use) for use in request.controls)


def _published(key: PartKey) -> PartConfig | None:
    """The numbers that the catalog knows of a part beside the model."""
    row = PARTS.get(key.name)
    if row is not None and key.component in (Component.SIGLIP, Component.CLIP_VISION):
        row = next((PARTS[need] for need in row.needs if PARTS[need].kind is Kind.IMAGE_ENCODER), None)
    return row.config if row is not None else None


def num_values(spec: ModelSpec, component: Component) -> int:
    """Number of weights of a part of the model's own."""
    return _count(spec, component, None)


def _count(spec: ModelSpec, component: Component, config: PartConfig | None) -> int:
    def build(ops: Any, make: LeafFactory) -> object:
        match component, config:
            case Component.CLIP, _:
                return ClipText(ops, make, spec.clip)
            case Component.T5, _:
                return T5Encoder(ops, make, spec.t5)
            case Component.VAE_ENCODER, _:
                return Encoder(ops, make, spec.autoencoder)
            case Component.TRANSFORMER, _:
                return Transformer(ops, make, spec.transformer)
            case Component.VAE_DECODER, _:
                return FullDecoder(ops, make, spec.autoencoder)
            case Component.SIGLIP, SiglipConfig():
                return SiglipVision(ops, make, config)
            case Component.REDUX, ReduxConfig():
                return Redux(ops, make, config)
            case Component.CLIP_VISION, ClipVisionConfig():
                return ClipVision(ops, make, config)
            case Component.IP_ADAPTER, IpAdapterConfig():
                return IpAdapter(ops, make, config)
            case Component.CONTROLNET, ControlNetConfig():
                return ControlNet(ops, make, config)
            case Component.FAST_DECODER, Taef1Config():
                return Taef1Decoder(ops, make, config)
            case _:
                return None

    return sum(math.prod(shape) for shape in expected_shapes(build).values())
