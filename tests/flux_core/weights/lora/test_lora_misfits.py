"""What does not fit is named or refused, whatever the file is."""

from __future__ import annotations

import os

import numpy as np
import pytest

from flux_core.errors import Corrupt, RequestInvalid
from flux_core.weights.detect import detect
from flux_core.weights.lora.layers import layers_of
from flux_core.weights.lora.patches import Axis, NormChange, Patch
from flux_core.weights.lora.read import describe, read_lora
from flux_core.weights.tensors import TensorInfo
from tests.support import lora_files
from tests.support.lora_files import KOHYA, PEFT, Arrays, Draw, MemorySource, delta_of
from tests.support.lora_reading import DIM, MODULE, SPEC, HeaderOnly, lokr, pair, patches, read

CASES = int(os.environ.get("FLOWBRUSH_FUZZ_CASES", "1000"))
"""Files of random damage; 100000 take some minutes."""


def test_what_has_no_place_is_named_and_the_rest_is_used() -> None:
    file = pair() | {
        f"transformer.transformer_blocks.{i}.attn.to_k.lora_A.weight": Draw().array(4, DIM)
        for i in range(7, 12)
    }
    file |= {
        f"{MODULE}.oft_blocks": Draw().array(2, 2),
        "transformer.transformer_blocks.1.attn.to_q.lora_A.weight": Draw().array(4, DIM),
    }
    report = read(file).report
    assert len(report.matched) == 2
    assert len(report.unmatched) == 7
    warning = report.warning("style.safetensors")
    assert warning is not None
    assert warning.startswith("style.safetensors: 7 of its 9 tensors were left out")
    assert "and 4 more" in warning
    assert read(pair()).report.warning("x") is None


UNREAD: dict[str, dict[str, tuple[int, ...]]] = {
    "GLoRA": {f"{part}.weight": (4, DIM) for part in ("a1", "a2", "b1", "b2")},
    "OFT": {"oft_blocks": (4, 12, 12), "alpha": ()},
    "BOFT": {"oft_blocks": (2, 4, 12, 12), "rescale": (DIM, 1)},
    "Tucker decomposition": {
        "lora_down.weight": (4, DIM),
        "lora_up.weight": (DIM, 4),
        "lora_mid.weight": (4, 4, 1, 1),
        "alpha": (),
    },
}


@pytest.mark.parametrize("kind", UNREAD)
@pytest.mark.parametrize("module", ["lycoris_transformer_blocks_0_attn_to_k", MODULE])
def test_an_adapter_of_a_kind_that_is_not_read_is_refused_by_the_name_of_its_kind(
    kind: str, module: str
) -> None:
    file = {f"{module}.{end}": Draw().array(*shape) for end, shape in UNREAD[kind].items()}
    with pytest.raises(RequestInvalid, match=rf"^style\.safetensors is an adapter of the kind {kind}, which"):
        read(file)
    report = read(file | pair("transformer.transformer_blocks.1.attn.to_k")).report
    assert report.unread == (kind,)
    assert set(report.unmatched) == set(file)
    assert f"since {kind} is not read" in (report.warning("x") or "")


@pytest.mark.parametrize("kind", ["GLoRA", "OFT", "BOFT"])
def test_detection_names_a_kind_that_is_not_read(kind: str) -> None:
    module = "lycoris_transformer_blocks_0_attn_to_k"
    infos = {f"{module}.{end}": TensorInfo("F32", shape) for end, shape in UNREAD[kind].items()}
    with pytest.raises(RequestInvalid, match=rf"^style\.safetensors is an adapter of the kind {kind}, which"):
        detect(infos, "somewhere/style.safetensors")


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1, 1)])
def test_alpha_may_be_one_number_of_whatever_shape(shape: tuple[int, ...]) -> None:
    file = lora_files.Draw().pair(MODULE, DIM, DIM, 4, KOHYA) | {
        f"{MODULE}.alpha": np.full(shape, 2.0, np.float32)
    }
    (patch,) = patches(file)
    assert patch.delta.scale == 0.5
    file[f"{MODULE}.alpha"] = np.full(shape, 2, np.int64)
    (patch,) = patches(file)
    assert patch.delta.scale == 0.5


FOREIGN: dict[str, tuple[Arrays, dict[str, str], str]] = {
    "SDXL": (
        Draw().pair("lora_unet_down_blocks_1_attentions_0_proj_in", 4, 4, 2, KOHYA)
        | Draw().pair("lora_te1_text_model_encoder_layers_0_mlp_fc1", 64, 36, 2, KOHYA),
        {},
        "Stable Diffusion",
    ),
    "FLUX.2": (Draw().pair("diffusion_model.double_stream_modulation_img.lin", 4, 4, 2, PEFT), {}, "FLUX.2"),
    "FLUX.2 of diffusers": (
        Draw().pair("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj", 4, 4, 2, PEFT) | pair(),
        {},
        "FLUX.2",
    ),
    "HunyuanVideo": (
        Draw().pair("lora_unet_double_blocks_19_img_attn_qkv", 144, DIM, 2, KOHYA) | pair(),
        {},
        "HunyuanVideo",
    ),
    "Wan": (Draw().pair("diffusion_model.blocks.0.self_attn.q", 4, 4, 2, PEFT), {}, "Wan"),
    "Qwen-Image": (
        Draw().pair("transformer.transformer_blocks.0.img_mlp.net.2", 4, 4, 2, PEFT) | pair(),
        {},
        "Qwen",
    ),
    "its own word": (
        lora_files.kohya(SPEC, ["txt_in"]),
        {"modelspec.architecture": "hunyuan-video/lora"},
        "hunyuan-video",
    ),
    "whole model": (
        {
            "double_blocks.0.img_attn.qkv.weight": Draw().array(144, 48),
            "double_blocks.0.img_attn.norm.query_norm.scale": Draw().array(16),
        },
        {},
        "whole model",
    ),
    "ControlNet": ({"controlnet_blocks.0.weight": Draw().array(4, 4)}, {}, "ControlNet"),
    "unknown LoRA": (Draw().pair("transformer.something.else", 4, 4, 2, PEFT), {}, "not known here"),
    "no LoRA": ({"x": Draw().array(4)}, {}, "no LoRA"),
    "nothing": ({}, {}, "empty"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_for_something_else_is_refused_in_a_sentence_that_says_what_it_seems_to_be(kind: str) -> None:
    file, metadata, word = FOREIGN[kind]
    with pytest.raises(RequestInvalid) as caught:
        read(file, metadata)
    assert describe(MemorySource(file, metadata), SPEC).suspicion in caught.value.message
    assert word in caught.value.message
    assert "Small FLUX" in caught.value.message
    assert caught.value.hint


def test_headers_of_flux_files_are_no_reason_to_refuse() -> None:
    for said in ("flux-1-dev/lora", "Flux.1-dev", "flux1", ""):
        assert read(pair(), {"modelspec.architecture": said, "ss_base_model_version": said}).report.matched


MISSHAPEN: dict[str, Arrays] = {
    "rank of the two": {
        f"{MODULE}.lora_A.weight": Draw().array(4, DIM),
        f"{MODULE}.lora_B.weight": Draw().array(DIM, 3),
    },
    "inputs": {
        f"{MODULE}.lora_A.weight": Draw().array(4, DIM + 1),
        f"{MODULE}.lora_B.weight": Draw().array(DIM, 4),
    },
    "outputs": {
        f"{MODULE}.lora_A.weight": Draw().array(4, DIM),
        f"{MODULE}.lora_B.weight": Draw().array(DIM + 1, 4),
    },
    "three axes": {
        f"{MODULE}.lora_A.weight": Draw().array(4, DIM, 3),
        f"{MODULE}.lora_B.weight": Draw().array(DIM, 4),
    },
    "one axis": {f"{MODULE}.lora_A.weight": Draw().array(DIM), f"{MODULE}.lora_B.weight": Draw().array(DIM)},
    "no axis": {
        f"{MODULE}.lora_A.weight": np.array(1, np.float32),
        f"{MODULE}.lora_B.weight": np.array(1, np.float32),
    },
    "rank 0": {
        f"{MODULE}.lora_A.weight": Draw().array(0, DIM),
        f"{MODULE}.lora_B.weight": Draw().array(DIM, 0),
    },
    "lengths": pair() | {f"{MODULE}.dora_scale": Draw().array(DIM + 1)},
    "kron": {f"{MODULE}.lokr_w1": Draw().array(6, 8), f"{MODULE}.lokr_w2": Draw().array(9, 6)},
    "kron of one axis": {f"{MODULE}.lokr_w1": Draw().array(48), f"{MODULE}.lokr_w2": Draw().array(1)},
    "kron's inner length": lokr("w1", "w2_a")
    | {"lycoris_transformer_blocks_0_attn_to_k.lokr_w2_b": Draw().array(3, 6)},
    "hada": {
        f"{MODULE}.hada_w1_a": Draw().array(DIM, 2),
        f"{MODULE}.hada_w1_b": Draw().array(2, DIM),
        f"{MODULE}.hada_w2_a": Draw().array(DIM, 2),
        f"{MODULE}.hada_w2_b": Draw().array(2, 7),
    },
    "alphas": pair() | {f"{MODULE}.alpha": Draw().array(2)},
    "bias": pair() | {f"{MODULE}.lora_B.bias": Draw().array(3)},
    "difference": {f"{MODULE}.diff": Draw().array(DIM, 3)},
    "norm": {"double_blocks.0.img_attn.norm.query_norm.scale": Draw().array(17)},
    "a huge img_in": Draw().pair("img_in", DIM, 4096, 1, PEFT),
}


@pytest.mark.parametrize("kind", MISSHAPEN)
def test_shapes_that_do_not_fit_are_refused_before_a_value_is_read(kind: str) -> None:
    source = HeaderOnly(MISSHAPEN[kind])  # reading it fails
    with pytest.raises(RequestInvalid, match="does not fit Small FLUX"):
        read_lora(source, SPEC, "style.safetensors")
    assert describe(source, SPEC).misfit


def test_values_that_are_not_numbers_are_refused() -> None:
    file = pair()
    file[f"{MODULE}.lora_A.weight"][1, 2] = np.nan
    with pytest.raises(Corrupt, match="not numbers"):
        patches(file)
    with pytest.raises(Corrupt, match="not numbers"):
        patches(pair() | {f"{MODULE}.alpha": np.array(np.inf, np.float32)})


def test_names_of_any_length_and_kind_do_no_harm() -> None:
    names = [
        "a" * 100_000 + ".lora_A.weight",
        ".lora_A.weight",
        "lora_A",
        ".",
        "transformer." * 50,
        "\0.alpha",
        "é.lora_up",
    ]
    report = describe(MemorySource({name: np.zeros((2, 2), np.float32) for name in names}), SPEC)
    assert len(report.unmatched) == len(names)
    with pytest.raises(RequestInvalid) as caught:
        read({name: np.zeros((2, 2), np.float32) for name in names})
    assert len(caught.value.message) < 200


def test_random_damage_is_a_typed_error_or_patches_of_the_right_shape() -> None:
    """Names mixed up, shapes changed, tensors dropped."""
    rng = np.random.default_rng(0)
    whole = lora_files.control(SPEC) | pair() | lokr("w1", "w2_a", "w2_b") | MISSHAPEN["hada"]
    whole[f"{MODULE}.dora_scale"] = Draw().array(DIM, 1)
    keys = list(whole)
    modules: dict[str, list[str]] = {}
    for key in keys:
        modules.setdefault(key.partition(".lora")[0].partition(".lokr")[0].partition(".hada")[0], []).append(
            key
        )
    outcomes = {"read": 0, "refused": 0}
    for _ in range(CASES):
        file = {}
        for key in [k for m in rng.choice(list(modules), 3) for k in modules[str(m)]]:
            array = whole[rng.choice(keys)] if rng.random() < 0.05 else whole[key]
            array = array.T if rng.random() < 0.05 else array
            array = array[: len(array) // 2] if array.ndim and rng.random() < 0.05 else array
            if rng.random() > 0.05:
                file[key] = array
        try:
            for patch in patches(file):
                _check_shapes(patch)
            outcomes["read"] += 1
        except (RequestInvalid, Corrupt):
            outcomes["refused"] += 1
    assert min(outcomes.values()) > CASES // 10, outcomes


def _check_shapes(patch: Patch) -> None:
    """Whatever came through must be what a leaf can compute with."""
    layer = next(layer for layer in layers_of(SPEC)[patch.component] if layer.name == patch.layer)
    first, last = patch.rows
    assert 0 <= first < last <= layer.rows
    if isinstance(patch.delta, NormChange):
        assert patch.delta.weight is None or patch.delta.weight.shape == (layer.rows,)
        return
    assert delta_of(patch).shape == (last - first, patch.columns)
    assert patch.columns == layer.columns or layer.name == "img_in"
    if patch.magnitude is not None:
        count = last - first if patch.magnitude.axis is Axis.ROWS else patch.columns
        assert patch.magnitude.values.shape == (count,)
