"""The same tensors load to the same numbers from every layout in which they are published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file as save_torch

from flux_core.catalog import ModelSpec
from flux_core.errors import Corrupt
from flux_core.request import Precision
from flux_core.weights import components
from flux_core.weights.formats import matrix
from tests.support import layouts
from tests.support.layouts import SPEC, Tensors, Writer, weights_of
from tests.support.numerics import BACKENDS, make_backend

LAYOUTS: dict[str, dict[str, Writer]] = {
    "transformer": {
        "bfloat16": layouts.single_in_bf16,
        "model.diffusion_model. before every name": layouts.with_prefix("model.diffusion_model."),
        "diffusion_model. before every name": layouts.with_prefix("diffusion_model."),
        "norms called weight": layouts.renamed(lambda name: name.replace("_norm.scale", "_norm.weight")),
        "whole checkpoint": layouts.all_in_one("transformer"),
        "diffusers folder in shards": layouts.diffusers_transformer(),
        "diffusers folder in one file": layouts.diffusers_transformer(shard_size="10GB"),
        "numbered shards": layouts.numbered_shards,
        "numbered shards without an index": layouts.numbered_shards_without_index,
        "GGUF": layouts.gguf_file(in_bf16=True),
        "GGUF of the architecture cow": layouts.gguf_file(architecture="cow"),
        "GGUF with a prefix": layouts.gguf_file(lambda name: f"model.diffusion_model.{name}", "pig"),
    },
    "autoencoder": {
        "bfloat16": layouts.single_in_bf16,
        "vae. before every name": layouts.with_prefix("vae."),
        "first_stage_model. before every name": layouts.with_prefix("first_stage_model."),
        "whole checkpoint": layouts.all_in_one("autoencoder"),
        "diffusers folder": layouts.diffusers_autoencoder,
    },
    "t5": {
        "bfloat16": layouts.single_in_bf16,
        "whole checkpoint": layouts.all_in_one("t5"),
        "transformers folder in shards": layouts.transformers_t5,
        "embedding under its other name": layouts.renamed(
            lambda name: name.replace("shared.weight", "encoder.embed_tokens.weight")
        ),
        "embedding twice": layouts.beside({"encoder.embed_tokens.weight": np.ones((50, 24), np.float32)}),
        "with a decoder": layouts.beside(
            {"decoder.embed_tokens.weight": np.ones(3, np.float32), "lm_head.weight": np.ones(3, np.float32)}
        ),
        "GGUF": layouts.gguf_file(layouts.t5_name_in_gguf, "t5encoder"),
    },
    "clip": {
        "bfloat16": layouts.single_in_bf16,
        "whole checkpoint": layouts.all_in_one("clip"),
        "transformers folder": layouts.transformers_clip,
        "without its prefix": layouts.renamed(lambda name: name.removeprefix("text_model.")),
        "whole CLIP": layouts.beside(
            {
                "text_model.embeddings.position_ids": np.arange(9)[None],
                "text_projection.weight": np.zeros((24, 24), np.float32),
                "vision_model.post_layernorm.bias": np.zeros(3, np.float32),
                "logit_scale": np.zeros((), np.float32),
            }
        ),
    },
}
CASES = [(part, layout) for part, table in LAYOUTS.items() for layout in table]


def answer(part: str, spec: ModelSpec, folder: Path, backend: Any) -> np.ndarray:
    """What the part makes of fixed inputs."""
    rng = np.random.default_rng(0)

    def given(*shape: int) -> Any:
        return backend.from_numpy(rng.random(shape, dtype=np.float32))

    def whole(*arrays: np.ndarray) -> list[Any]:
        return [backend.from_numpy(array) for array in arrays]

    match part:
        case "transformer":
            model: Any = components.load_transformer(spec, folder, backend, Precision.FP32)
            shapes = ((1, 4, 64), (1, 3, 24), (1, 24), (1,), (1,), (7, 8, 2))
            found = model(*(given(*shape) for shape in shapes))
        case "autoencoder":
            encode = components.load_encoder(spec, folder, backend, Precision.FP32)
            decode = components.load_decoder(spec, folder, backend, Precision.FP32)
            found = decode(encode(given(1, 8, 12, 3)))
        case "t5":
            model = components.load_t5(spec, folder, backend, Precision.FP32)
            found = model(*whole(np.arange(5, dtype=np.int32)[None], np.zeros((5, 5), np.int32)))
        case _:
            model = components.load_clip(spec, folder, backend, Precision.FP32)
            ids, ends = np.arange(9, dtype=np.int32), np.array([8], np.int32)
            found = model(*whole(ids[None], ids, ends))
    return backend.to_numpy(found)


def spec_with(part: str, path: str) -> ModelSpec:
    return replace(SPEC, files=replace(SPEC.files, **{part: path}))


@pytest.fixture
def compare(tmp_path: Path) -> Callable[[str, Tensors, Writer, str], None]:
    """Asserts that the tensors in a layout give exactly what they give in a single file."""

    def compare(part: str, weights: Tensors, write: Writer, backend_name: str) -> None:
        plain, other = tmp_path / "plain", tmp_path / "other"
        plain.mkdir()
        other.mkdir()
        backend = make_backend(backend_name)
        with backend.session():
            expected = answer(part, spec_with(part, layouts.single(plain, weights)), plain, backend)
            found = answer(part, spec_with(part, write(other, weights)), other, backend)
        assert np.array_equal(found, expected)

    return compare


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("part", "layout"), CASES)
def test_a_layout_gives_the_numbers_of_the_single_file(
    part: str, layout: str, backend: str, compare: Callable[..., None]
) -> None:
    compare(part, weights_of(part), LAYOUTS[part][layout], backend)


def test_the_matrix_claims_the_layouts_that_are_tried_here() -> None:
    assert {part: tuple(table) for part, table in LAYOUTS.items()} == matrix.LAYOUTS


@pytest.mark.parametrize("backend", BACKENDS)
def test_parts_of_different_dtypes_are_joined_as_floats(backend: str, compare: Callable[..., None]) -> None:
    """An fp8 query beside a bfloat16 key and a float32 value, as partly quantised files have them."""

    def eight_bit(array: np.ndarray) -> np.ndarray:
        return torch.tensor(array).to(torch.float8_e4m3fn).float().numpy()

    def write(folder: Path, weights: Tensors) -> str:
        tensors: dict[str, torch.Tensor] = {}
        for name, array in layouts.transformer_as_diffusers(weights).items():
            dtype = {"to_q": torch.float8_e4m3fn, "to_k": torch.bfloat16}.get(name.split(".")[-2])
            tensors[name] = torch.tensor(array).to(dtype or torch.float32)
        save_torch(tensors, folder / "mixed.safetensors")
        return "mixed.safetensors"

    weights = weights_of("transformer")
    hidden = SPEC.transformer.hidden_size
    for name, array in weights.items():
        if "img_attn.qkv" in name or "linear1" in name:
            array[:hidden] = eight_bit(array[:hidden])
    compare("transformer", weights, write, backend)


@pytest.mark.parametrize("part", LAYOUTS)
def test_a_checkpoint_without_the_part_says_what_it_holds(tmp_path: Path, part: str) -> None:
    prefixes = {"transformer": "vae.", "autoencoder": "model.diffusion_model."}
    path = layouts.with_prefix(prefixes.get(part, "vae."))(tmp_path, {"x.weight": np.ones(3, np.float32)})
    with pytest.raises(Corrupt, match=r"holds no .*; it holds the (autoencoder|transformer)\."):
        answer(part, spec_with(part, path), tmp_path, make_backend("torch"))


def test_a_checkpoints_stray_tensors_are_reported(tmp_path: Path) -> None:
    inner = {f"model.diffusion_model.{name}": array for name, array in weights_of("transformer").items()}
    stray = {"model.diffusion_model.lora.weight": np.ones(1), "other.weight": np.ones(1)}
    path = layouts.single(tmp_path, inner | stray)
    with pytest.raises(Corrupt, match=r"2 unexpected \('lora.weight', 'other.weight'\)"):
        answer("transformer", spec_with("transformer", path), tmp_path, make_backend("torch"))
