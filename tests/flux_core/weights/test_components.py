"""A model's folder becomes its parts, or one error says what is wrong with which file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flux_core.catalog import (
    DEV,
    SCHNELL,
    AutoencoderConfig,
    ClipTextConfig,
    ModelSpec,
    T5Config,
    TransformerConfig,
)
from flux_core.errors import Corrupt, ModelMissing
from flux_core.models.autoencoder import Decoder, Encoder
from flux_core.models.clip import ClipText
from flux_core.models.t5 import T5Encoder
from flux_core.models.transformer import Transformer
from flux_core.request import Precision
from flux_core.weights import components
from flux_core.weights.diffusers_keys import ConvertedSource, autoencoder_recipes, transformer_recipes
from flux_core.weights.expected import check_strict, expected_shapes
from tests.support.numerics import BACKENDS, ArraySource, make_backend, random_weights

Tensors = dict[str, np.ndarray]

SPEC = replace(
    DEV,
    model="small",
    transformer=TransformerConfig(
        hidden_size=32, num_heads=2, depth=1, depth_single=1, mlp_hidden=48, context_in_dim=24, vec_in_dim=24,
        axes_dim=(4, 6, 6),
    ),
    autoencoder=AutoencoderConfig(channels=8, channel_multipliers=(1, 2), num_res_blocks=1, norm_groups=4),
    t5=T5Config(vocab_size=50, d_model=24, num_heads=3, d_kv=8, d_ff=40, num_layers=2),
    clip=ClipTextConfig(
        vocab_size=50, hidden_size=24, num_heads=3, mlp_hidden=48, num_layers=1, max_positions=9
    ),
)  # fmt: skip


def shapes_of(spec: ModelSpec) -> dict[str, dict[str, tuple[int, ...]]]:
    return {
        spec.files.transformer: expected_shapes(lambda ops, make: Transformer(ops, make, spec.transformer)),
        spec.files.autoencoder: expected_shapes(
            lambda ops, make: Encoder(ops, make, spec.autoencoder),
            lambda ops, make: Decoder(ops, make, spec.autoencoder),
        ),
        spec.files.t5: expected_shapes(lambda ops, make: T5Encoder(ops, make, spec.t5)),
        spec.files.clip: expected_shapes(lambda ops, make: ClipText(ops, make, spec.clip)),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, shapes in shapes_of(SPEC).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_file(random_weights(shapes), tmp_path / name)
    return tmp_path


def rewrite(path: Path, change: Callable[[Tensors], Tensors]) -> None:
    save_file(change(load_file(path)), path)


def pooled(folder: Path, backend: Any) -> np.ndarray:
    model = components.load_clip(SPEC, folder, backend, Precision.FP32)
    ids = (np.arange(9, dtype=np.int32)[None], np.arange(9, dtype=np.int32), np.array([8], np.int32))
    return backend.to_numpy(model(*map(backend.from_numpy, ids)))


def states(folder: Path, backend: Any) -> np.ndarray:
    model = components.load_t5(SPEC, folder, backend, Precision.FP32)
    ids = (np.arange(5, dtype=np.int32)[None], np.zeros((5, 5), np.int32))
    return backend.to_numpy(model(*map(backend.from_numpy, ids)))


def velocity(folder: Path, backend: Any) -> np.ndarray:
    model = components.load_transformer(SPEC, folder, backend, Precision.FP32)
    rng = np.random.default_rng(0)
    shapes = ((1, 4, 64), (1, 3, 24), (1, 24), (1,), (1,), (7, 8, 2))
    arrays = [rng.random(shape, dtype=np.float32) for shape in shapes]
    return backend.to_numpy(model(*map(backend.from_numpy, arrays)))


@pytest.mark.parametrize(
    ("spec", "tensors", "parameters"), [(DEV, 780, 11_901_408_320), (SCHNELL, 776, 11_891_178_560)]
)
def test_the_published_models_have_the_published_numbers(
    spec: ModelSpec, tensors: int, parameters: int
) -> None:
    counts = {
        name: (len(shapes), sum(int(np.prod(shape)) for shape in shapes.values()))
        for name, shapes in shapes_of(spec).items()
    }
    assert counts == {
        spec.files.transformer: (tensors, parameters),
        spec.files.autoencoder: (244, 83_819_683),
        spec.files.t5: (219, 4_762_310_656),
        spec.files.clip: (196, 123_060_480),
    }


@pytest.mark.parametrize("spec", [DEV, SCHNELL], ids=lambda spec: spec.model)
def test_the_diffusers_key_map_makes_every_published_tensor_and_no_other(spec: ModelSpec) -> None:
    shapes = shapes_of(spec)
    transformer, autoencoder = transformer_recipes(spec.transformer), autoencoder_recipes(spec.autoencoder)
    assert set(transformer) == set(shapes[spec.files.transformer])
    assert set(autoencoder) == set(shapes[spec.files.autoencoder])
    theirs = {part for recipe in transformer.values() for part in recipe.parts}
    assert len(theirs) == (1160 if spec.transformer.has_guidance else 1156)
    assert len({part for recipe in autoencoder.values() for part in recipe.parts}) == 244


@pytest.mark.parametrize("name", BACKENDS)
def test_every_part_loads_and_answers(folder: Path, name: str) -> None:
    backend = make_backend(name)
    with backend.session():
        assert velocity(folder, backend).shape == (1, 4, 64)
        assert states(folder, backend).shape == (1, 5, 24)
        assert pooled(folder, backend).shape == (1, 24)
        encoder = components.load_encoder(SPEC, folder, backend, Precision.AUTO)
        decoder = components.load_decoder(SPEC, folder, backend, Precision.AUTO)
        latents = encoder(backend.from_numpy(np.zeros((1, 8, 12, 3), np.float32)))
        assert backend.to_numpy(decoder(latents)).shape == (1, 8, 12, 3)


@pytest.mark.parametrize("name", BACKENDS)
def test_weights_in_bfloat16_load_in_float32(folder: Path, name: str) -> None:
    import torch
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    path = folder / SPEC.files.clip
    weights = {key: tensor.to(torch.bfloat16) for key, tensor in load_torch(path).items()}
    save_torch(weights, path)
    backend = make_backend(name)
    with backend.session():
        found = pooled(folder, backend)
        save_torch({key: tensor.float() for key, tensor in weights.items()}, path)
        assert np.array_equal(found, pooled(folder, backend))


def test_one_error_lists_what_is_missing_unexpected_and_misshapen(folder: Path) -> None:
    def spoil(weights: Tensors) -> Tensors:
        weights["img_in.weight"] = weights["img_in.weight"][:, :60].copy()
        del weights["txt_in.bias"]
        return {**weights, "lora.weight": np.zeros(3, np.float32)}

    rewrite(folder / SPEC.files.transformer, spoil)
    with pytest.raises(Corrupt) as caught:
        components.load_transformer(SPEC, folder, make_backend("torch"), Precision.FP32)
    message = caught.value.message
    assert str(folder / SPEC.files.transformer) in message
    assert "1 missing ('txt_in.bias')" in message
    assert "1 unexpected ('lora.weight')" in message
    assert "'img_in.weight' is [32, 60] and should be [32, 64]" in message


def test_a_wholly_different_file_gives_a_short_error() -> None:
    expected = shapes_of(DEV)[DEV.files.transformer]
    found = ArraySource({f"x{i}": np.zeros(1) for i in range(5000)}).names()
    with pytest.raises(Corrupt, match=r"780 missing \(.*, and 772 more\); 5000 unexpected") as caught:
        check_strict(expected, found, "f.safetensors")
    assert len(caught.value.message) < 1500


def test_guidance_must_match_the_model(folder: Path) -> None:
    schnell_like = replace(SPEC, transformer=replace(SPEC.transformer, has_guidance=False))
    with pytest.raises(Corrupt, match=r"4 unexpected \('guidance_in"):
        components.load_transformer(schnell_like, folder, make_backend("torch"), Precision.FP32)


def test_a_missing_part_is_named(folder: Path) -> None:
    (folder / SPEC.files.t5).unlink()
    with pytest.raises(ModelMissing, match=r"text_encoder_2.*model\.safetensors cannot be read"):
        components.load_t5(SPEC, folder, make_backend("torch"), Precision.FP32)


@pytest.mark.parametrize("name", BACKENDS)
def test_quantised_weights_are_refused_by_name(folder: Path, name: str) -> None:
    rewrite(
        folder / SPEC.files.clip,
        lambda weights: weights | {"text_model.final_layer_norm.bias": np.zeros(24, np.int8)},
    )
    with pytest.raises(Corrupt, match=r"'text_model.final_layer_norm.bias' is stored as I8"):
        components.load_clip(SPEC, folder, make_backend(name), Precision.FP32)


def test_a_diffusers_file_with_a_part_missing_is_reported_by_both_names() -> None:
    recipes = transformer_recipes(SPEC.transformer)
    source = ArraySource({part: np.zeros((1,)) for recipe in recipes.values() for part in recipe.parts})
    gone = "transformer_blocks.0.attn.to_k.weight"
    del source.arrays[gone]
    with pytest.raises(Corrupt, match=r"1 missing \('double_blocks.0.img_attn.qkv.weight'\)") as caught:
        check_strict(dict.fromkeys(recipes, (1,)), ConvertedSource(source, recipes).names(), "f")
    assert "2 unexpected ('transformer_blocks.0.attn.to_q.weight'" in caught.value.message


def test_diffusers_parts_of_different_width_are_refused() -> None:
    recipes = {
        key: r for key, r in transformer_recipes(SPEC.transformer).items() if key.endswith("0.linear1.weight")
    }
    (recipe,) = recipes.values()
    source = ArraySource({part: np.zeros((4, 4 + i)) for i, part in enumerate(recipe.parts)})
    with pytest.raises(Corrupt, match="differ in width and cannot form 'single_blocks.0.linear1.weight'"):
        ConvertedSource(source, recipes)
