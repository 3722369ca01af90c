"""A part that stands beside a model loads from any of its spellings, or one error says what is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from flux_core.catalog import (
    ClipVisionConfig,
    ControlNetConfig,
    IpAdapterConfig,
    ReduxConfig,
    SiglipConfig,
    Taef1Config,
    TransformerConfig,
)
from flux_core.errors import Corrupt, ModelMissing
from flux_core.models.clip_vision import ClipVision
from flux_core.models.controlnet import ControlNet
from flux_core.models.ip_adapter import IpAdapter
from flux_core.models.redux import Redux
from flux_core.models.siglip import SiglipVision
from flux_core.models.taef1 import Taef1Decoder, Taef1Encoder
from flux_core.request import Precision
from flux_core.weights import extra_components as extra
from flux_core.weights.expected import Shape, expected_shapes
from flux_core.weights.safetensors_file import SafetensorsFile
from flux_core.weights.tensors import RawTensor, TensorInfo
from tests.support.numerics import BACKENDS, ArraySource, make_backend, random_weights

FUZZ_CASES = int(os.environ.get("FLOWBRUSH_FUZZ_CASES", "150"))
"""For each part; 6000 were run once."""

BLOCKS = TransformerConfig(
    hidden_size=32, num_heads=2, depth=2, depth_single=1, mlp_hidden=48, context_in_dim=20, vec_in_dim=12,
    axes_dim=(4, 6, 6),
)  # fmt: skip
SIGLIP = SiglipConfig(24, 3, 40, num_layers=2, image_px=17, patch_px=5, has_head=True)
CLIP = ClipVisionConfig(24, 3, 40, num_layers=2, image_px=15, patch_px=5, projection_dim=10)
IP_ADAPTER = IpAdapterConfig(3, image_dim=10, context_in_dim=20, hidden_size=32, num_heads=2, depth=2)


@dataclass(frozen=True)
class Part:
    """A small part: its model, and how it is loaded from a file or from tensors."""

    title: str
    model: Any
    config: Any
    load: Callable[..., Any]
    like: Any = None

    @property
    def shapes(self) -> dict[str, Shape]:
        return expected_shapes(lambda ops, make: self.model(ops, make, self.config))

    def loaded(self, file: Any, backend_name: str = "torch", precision: Precision = Precision.FP32) -> Any:
        return self.load(file, make_backend(backend_name), precision, self.like)


PARTS = (
    Part("SigLIP", SiglipVision, SIGLIP, extra.load_siglip, SIGLIP),
    Part("Redux", Redux, ReduxConfig(24, 20), extra.load_redux, ReduxConfig(24, 20)),
    Part("CLIP vision", ClipVision, CLIP, extra.load_clip_vision, replace(ClipVisionConfig(), num_heads=3,
        hidden_size=24)),
    Part("IP-Adapter", IpAdapter, IP_ADAPTER, extra.load_ip_adapter, replace(IP_ADAPTER, num_tokens=4)),
    Part("TAEF1 encoder", Taef1Encoder, Taef1Config(8, 16, 1), extra.load_taef1_encoder),
    Part("TAEF1 decoder", Taef1Decoder, Taef1Config(8, 16, 2), extra.load_taef1_decoder),
    Part("union", ControlNet, ControlNetConfig(BLOCKS, num_modes=3), extra.load_controlnet, BLOCKS),
    Part(
        "XLabs ControlNet",
        ControlNet,
        ControlNetConfig(replace(BLOCKS, depth_single=0), is_pixel_hint=True),
        extra.load_controlnet,
        BLOCKS,
    ),
)  # fmt: skip


class Accepted(Exception):
    """A tensor was read, so the strict check found a sound file."""


class ShapesOnly:
    """A TensorSource that knows names and shapes."""

    metadata: Mapping[str, str] = {}

    def __init__(self, shapes: dict[str, Shape]) -> None:
        self._names = {name: TensorInfo("F32", shape) for name, shape in shapes.items()}

    def names(self) -> dict[str, TensorInfo]:
        return self._names

    def read(self, name: str) -> RawTensor:
        raise Accepted


@pytest.mark.parametrize("backend_name", BACKENDS)
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.title)
def test_a_part_tells_its_configuration_by_its_shapes(part: Part, backend_name: str) -> None:
    backend = make_backend(backend_name)
    with backend.session():
        model = part.loaded(ArraySource(random_weights(part.shapes)), backend_name, Precision.BF16)
    if hasattr(model, "config"):
        assert model.config == part.config


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.title)
def test_a_file_that_lacks_a_tensor_or_has_one_too_many_is_refused(part: Part, tmp_path: Path) -> None:
    weights = random_weights(part.shapes)
    path = tmp_path / "part.safetensors"
    *_, last = weights
    save_file({name: w for name, w in weights.items() if name != last}, path)
    with pytest.raises(Corrupt) as caught:
        part.loaded(path)
    assert str(path) in caught.value.message
    save_file({**weights, "something.else": np.zeros(1, np.float32)}, path)
    for file in (path, SafetensorsFile(path)):
        with pytest.raises(Corrupt, match=r"part.safetensors .*1 unexpected \('something.else'\)"):
            part.loaded(file)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.title)
def test_an_unrelated_or_missing_file_is_one_sentence(part: Part, tmp_path: Path) -> None:
    strange = ArraySource({"img_inn.weight": np.zeros(3)})
    with pytest.raises(Corrupt, match=r"does not hold an? |does not hold the ") as caught:
        part.load(strange, make_backend("torch"), Precision.FP32)
    assert caught.value.message.count(".") <= 4
    assert caught.value.hint
    with pytest.raises(ModelMissing):
        part.loaded(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.title)
def test_whatever_the_shapes_claim_the_answer_is_a_typed_error(part: Part) -> None:
    rng = np.random.default_rng(0)
    for _ in range(FUZZ_CASES):
        shapes = part.shapes
        for name in rng.choice(list(shapes), size=rng.integers(1, 4), replace=False):
            name = str(name)
            shape = list(shapes.pop(name))
            match int(rng.integers(5)):
                case 0:
                    continue  # lost
                case 1:
                    shape[rng.integers(len(shape))] = int(rng.choice([0, 1, 7, 10**6]))
                case 2:
                    shape = shape[1:]
                case 3:
                    shape = [*shape, 2]
                case _:
                    name = name.replace(".0.", f".{10**20}.", 1) + "x"
            shapes[name] = tuple(shape)
        with pytest.raises((Corrupt, Accepted)):  # a few changes make another sound configuration
            part.loaded(ShapesOnly(shapes))


def test_a_controlnet_for_another_transformer_is_refused_by_its_widths() -> None:
    (union,) = (part for part in PARTS if part.title == "union")
    with pytest.raises(Corrupt, match=r"'img_in.weight' is \[32, 64\] and should be \[3072, 64\]"):
        extra.load_controlnet(ShapesOnly(union.shapes), make_backend("torch"), Precision.FP32)


def test_a_controlnet_for_fill_sees_the_noisy_latents_alone() -> None:
    (union,) = (part for part in PARTS if part.title == "union")
    fill = replace(BLOCKS, in_channels=384)
    model = extra.load_controlnet(
        ArraySource(random_weights(union.shapes)), make_backend("torch"), Precision.FP32, fill
    )
    assert model.config == union.config
