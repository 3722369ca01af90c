"""Every family's names lead to the same layers, alphas follow the rules, and what does not fit is said."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from flux_core.catalog import DEV, SCHNELL
from flux_core.errors import Corrupt, RequestInvalid
from flux_core.plan import Component
from flux_core.weights.diffusers_keys import transformer_recipes
from flux_core.weights.lora.layers import layers_of
from flux_core.weights.lora.patches import Axis, Difference, Kronecker, LowRank, NormChange, Patch
from flux_core.weights.lora.read import Lora, describe, read_lora
from flux_core.weights.tensors import TensorInfo
from tests.support import lora_files
from tests.support.lora_files import KOHYA, PEFT, Arrays, Draw, MemorySource, delta_of

CASES = int(os.environ.get("FLOWBRUSH_FUZZ_CASES", "1000"))
SPEC = lora_files.small_spec()
DIM = SPEC.transformer.hidden_size
TRANSFORMER = lora_files.matrices(SPEC)
CLIP = lora_files.matrices(SPEC, Component.CLIP)
T5 = lora_files.matrices(SPEC, Component.T5)


def read(file: Arrays, metadata: dict[str, str] | None = None, spec=SPEC) -> Lora:
    return read_lora(MemorySource(file, metadata), spec, "style.safetensors")


def patches(file: Arrays, metadata: dict[str, str] | None = None, spec=SPEC) -> list[Patch]:
    return list(read(file, metadata, spec).patches())


def only(file: Arrays, metadata: dict[str, str] | None = None, spec=SPEC) -> Patch:
    (found,) = patches(file, metadata, spec)
    return found


def underscored(name: str) -> str:
    return name.replace(".", "_")


# Names

SPELLINGS: dict[str, tuple[dict[str, tuple[int, int]], Component, Callable[[str], str], tuple[str, str]]] = {
    "sd-scripts": (TRANSFORMER, Component.TRANSFORMER, lambda n: "lora_unet_" + underscored(n), KOHYA),
    "ComfyUI": (TRANSFORMER, Component.TRANSFORMER, lambda n: "diffusion_model." + n, PEFT),
    "ComfyUI, up and down": (TRANSFORMER, Component.TRANSFORMER, lambda n: "diffusion_model." + n, KOHYA),
    "fal": (TRANSFORMER, Component.TRANSFORMER, lambda n: "base_model.model." + n, PEFT),
    "BFL": (TRANSFORMER, Component.TRANSFORMER, lambda n: n, PEFT),
    "sd-scripts CLIP": (CLIP, Component.CLIP, lambda n: "lora_te1_" + underscored(n), KOHYA),
    "sd-scripts CLIP, old": (CLIP, Component.CLIP, lambda n: "lora_te_" + underscored(n), KOHYA),
    "sd-scripts T5": (T5, Component.T5, lambda n: "lora_te3_" + underscored(n), KOHYA),
    "OneTrainer T5": (T5, Component.T5, lambda n: "lora_te2_" + underscored(n), KOHYA),
    "diffusers CLIP": (CLIP, Component.CLIP, lambda n: "text_encoder." + n, PEFT),
    "transformers 5 CLIP": (CLIP, Component.CLIP, lambda n: n.replace("text_model", "text_encoder"), PEFT),
    "diffusers T5": (T5, Component.T5, lambda n: "text_encoder_2." + n, PEFT),
    "ComfyUI CLIP": (CLIP, Component.CLIP, lambda n: "text_encoders.clip_l.transformer." + n, KOHYA),
    "ComfyUI T5": (T5, Component.T5, lambda n: "text_encoders.t5xxl.transformer." + n, KOHYA),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_layer_is_found_by_its_own_name(spelling: str) -> None:
    layers, component, spell, names = SPELLINGS[spelling]
    draw, file = Draw(), {}
    for layer, (rows, columns) in layers.items():
        file |= draw.pair(spell(layer), rows, columns, 3, names)
    lora = read(file)
    assert lora.report.unmatched == ()
    assert lora.report.layers == {component: len(layers)}
    assert lora.report.ranks == (3,)
    for patch, (layer, (rows, columns)) in zip(lora.patches(), layers.items(), strict=True):
        assert (patch.layer, patch.component) == (layer, component)
        assert (patch.rows, patch.columns) == ((0, rows), columns)
        assert np.array_equal(
            delta_of(patch), file[spell(layer) + names[1]] @ file[spell(layer) + names[0]].astype(float)
        )


@pytest.mark.parametrize(
    "prefix", ["transformer.", "", "diffusion_model.", "lora_transformer_", "lycoris_", "lora_unet_"]
)
def test_parts_of_fused_layers_are_found_by_diffusers_names(prefix: str) -> None:
    """Every matrix by diffusers' name, its rows stacked, must be the layer's own delta."""
    draw, file = Draw(), {}
    true: dict[str, list[np.ndarray]] = {}
    swapped = set()
    for name, recipe in transformer_recipes(SPEC.transformer).items():
        layer = name.removesuffix(".weight")
        if layer not in TRANSFORMER:
            continue
        rows, columns = TRANSFORMER[layer]
        starts = [i * DIM for i in range(len(recipe.parts))]
        for part, start, stop in zip(recipe.parts, starts, [*starts[1:], rows], strict=True):
            module = (
                prefix + (underscored(part) if prefix.endswith("_") else part).removesuffix("weight")[:-1]
            )
            file |= draw.pair(module, stop - start, columns, 2, KOHYA)
            true.setdefault(layer, []).append(file[module + KOHYA[1]].astype(float) @ file[module + KOHYA[0]])
        if recipe.is_swapped:
            swapped.add(layer)
    lora = read(file)
    assert lora.report.unmatched == ()
    assert lora.report.layers == {Component.TRANSFORMER: len(TRANSFORMER)}
    assert swapped == {"final_layer.adaLN_modulation.1"}
    found = {layer: np.zeros(size) for layer, size in TRANSFORMER.items()}
    for patch in lora.patches():
        found[patch.layer][slice(*patch.rows)] += delta_of(patch)
    for layer, parts in true.items():
        expected = np.concatenate(parts)
        expected = np.roll(expected, len(expected) // 2, 0) if layer in swapped else expected
        assert np.allclose(found[layer], expected, atol=1e-6), layer


def test_every_layer_of_the_published_models_has_a_name_in_every_family() -> None:
    for spec, count in ((DEV, 314), (SCHNELL, 312)):
        assert len(lora_files.matrices(spec)) == count
        for prefix in ("lora_unet_", "diffusion_model."):
            spell = underscored if prefix.endswith("_") else str
            names = {
                f"{prefix}{spell(layer)}{end}": np.zeros((4, 4), np.float32)
                for layer in lora_files.matrices(spec)
                for end in PEFT
            }
            report = describe(MemorySource(names), spec)
            assert (report.unmatched, report.layers) == ((), {Component.TRANSFORMER: count})


@pytest.mark.parametrize(
    ("down", "up"),
    [
        (".lora_A.weight", ".lora_B.weight"),
        (".lora_A.default.weight", ".lora_B.default.weight"),
        (".lora_A.my-style_1.weight", ".lora_B.my-style_1.weight"),
        (".lora_A", ".lora_B"),
        (".lora_down.weight", ".lora_up.weight"),
        (".lora.down.weight", ".lora.up.weight"),
        ("_lora.down.weight", "_lora.up.weight"),
        (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    ],
)
def test_every_spelling_of_the_two_matrices_is_read(down: str, up: str) -> None:
    for module, size in (
        ("transformer.transformer_blocks.0.attn.to_q", DIM),
        ("text_encoder.text_model.encoder.layers.1.self_attn.q_proj", 36),
    ):
        found = only(Draw().pair(module, size, size, 2, (down, up)))
        assert found.rows == (0, size)


def test_old_text_encoder_files_name_projections_as_attention_processors_did() -> None:
    module = "text_encoder.text_model.encoder.layers.0.self_attn.to_out"
    file = Draw().pair(module, 36, 36, 2, ("_lora.down.weight", "_lora.up.weight"))
    assert only(file).layer == "text_model.encoder.layers.0.self_attn.out_proj"


def test_xlabs_changes_queries_keys_and_values_of_single_blocks_only() -> None:
    for prefix in ("", "diffusion_model."):
        file = {prefix + name: array for name, array in lora_files.xlabs(SPEC).items()}
        lora = read(file)
        assert lora.report.families == ("XLabs",)
        assert lora.report.unmatched == ()
        rows = {patch.layer: patch.rows for patch in lora.patches()}
        assert rows["single_blocks.2.linear1"] == (0, 3 * DIM)
        assert rows["double_blocks.1.txt_attn.qkv"] == (0, 3 * DIM)
        assert len(rows) == 2 * 4 + 3 * 2
        second = file[f"{prefix}double_blocks.0.processor.qkv_lora2.up.weight"]
        text = next(p for p in lora.patches() if p.layer == "double_blocks.0.txt_attn.qkv")
        assert isinstance(text.delta, LowRank)
        assert np.array_equal(text.delta.up, second)


def test_a_control_lora_brings_biases_norms_and_a_wider_img_in() -> None:
    file = lora_files.control(SPEC)
    lora = read(file)
    assert lora.report.unmatched == ()
    assert lora.channels == 128
    assert lora.report.kinds == ("LoRA", "norm")
    found = {patch.layer: patch for patch in lora.patches()}
    assert len(found) == len(TRANSFORMER) + len(lora_files.norms(SPEC))
    assert found["img_in"].columns == 128
    norm = found["double_blocks.0.txt_attn.norm.key_norm"].delta
    assert isinstance(norm, NormChange)
    assert norm.is_replacement
    assert isinstance(found["single_blocks.0.linear1"].delta, LowRank)
    assert found["single_blocks.0.linear1"].delta.bias is not None


def test_comfyui_writes_a_control_lora_with_its_own_words() -> None:
    module = "diffusion_model.img_in"
    file = Draw().pair(module, DIM, 128, 8, KOHYA) | {
        f"{module}.reshape_weight": np.array([DIM, 128], np.int64),
        f"{module}.diff_b": Draw().array(DIM),
        "diffusion_model.single_blocks.0.norm.query_norm.set_weight": Draw().array(16),
    }
    lora = read(file)
    assert lora.report.unmatched == ()
    assert lora.channels == 128
    assert [type(patch.delta) for patch in lora.patches()] == [LowRank, Difference, NormChange]


def test_the_published_control_lora_has_all_its_tensors_here() -> None:
    report = describe(_Names(_control_shapes()), DEV)
    assert len(report.matched) == 1094
    assert report.unmatched == ()
    assert report.ranks == (0, 64, 128)


def test_mixed_families_in_one_file_are_all_read() -> None:
    """OneTrainer with sd-scripts' CLIP."""
    draw = Draw()
    file = draw.pair("lora_transformer_transformer_blocks_0_attn_to_q", DIM, DIM, 2, KOHYA)
    file |= draw.pair("lora_te1_text_model_encoder_layers_0_mlp_fc1", 64, 36, 2, KOHYA)
    lora = read(file)
    assert set(lora.report.families) == {"OneTrainer", "sd-scripts (kohya)"}
    assert lora.components == {Component.TRANSFORMER, Component.CLIP}
    assert [p.layer for p in lora.patches(Component.CLIP)] == ["text_model.encoder.layers.0.mlp.fc1"]


def test_the_rare_layers_that_diffusers_loses_are_found() -> None:
    layers = [
        "img_in",
        "txt_in",
        "time_in.in_layer",
        "vector_in.out_layer",
        "guidance_in.in_layer",
        "final_layer.linear",
    ]
    found = patches(lora_files.kohya(SPEC, layers, rank=4, alpha=2.0))
    assert [p.layer for p in found] == layers
    assert [p.delta.scale for p in found if isinstance(p.delta, LowRank)] == [0.5] * 6


# Alphas

MODULE = "transformer.transformer_blocks.0.attn.to_k"


def pair(module: str = MODULE, rank: int = 4) -> Arrays:
    return Draw().pair(module, DIM, DIM, rank, PEFT)


def scale(file: Arrays, metadata: dict[str, str] | None = None) -> float:
    delta = only(file, metadata).delta
    assert not isinstance(delta, Difference | NormChange)
    return delta.scale


def header(**config: object) -> dict[str, str]:
    return {
        "lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in config.items()})
    }


def test_alpha_is_divided_by_the_rank_and_missing_means_one() -> None:
    assert scale(pair()) == 1.0
    for alpha in (np.array(2.0, np.float32), np.array([2.0], np.float16), np.array(2, np.int64)):
        assert scale(pair() | {f"{MODULE}.alpha": alpha}) == 0.5


def test_alphas_of_the_header_count_where_the_file_has_no_tensor_for_them() -> None:
    assert scale(pair(), header(r=4, lora_alpha=8)) == 2.0
    assert scale(pair(), header(r=4, lora_alpha=8, use_rslora=True)) == 4.0
    assert scale(pair(), header(r=4, lora_alpha=8, alpha_pattern={"attn.to_k": 1})) == 0.25
    assert scale(pair(), header(r=4, lora_alpha=8, alpha_pattern={"attn.to_q": 1})) == 2.0
    assert scale(pair() | {f"{MODULE}.alpha": np.array(4.0, np.float32)}, header(r=4, lora_alpha=8)) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '"x"',
        "[" * 5000,
        json.dumps({"transformer.lora_alpha": "8"}),
        '{"transformer.lora_alpha": NaN}',
        '{"transformer.alpha_pattern": [1]}',
    ],
)
def test_a_header_that_makes_no_sense_says_nothing(text: str) -> None:
    assert scale(pair(), {"lora_adapter_metadata": text}) == 1.0


def lokr(*names: str, alpha: float | None = 2.0) -> Arrays:
    shapes = {"w1": (6, 8), "w1_a": (6, 2), "w1_b": (2, 8), "w2": (8, 6), "w2_a": (8, 4), "w2_b": (4, 6)}
    module = "lycoris_transformer_blocks_0_attn_to_k"
    file = {f"{module}.lokr_{name}": Draw(i).array(*shapes[name]) for i, name in enumerate(names)}
    return file if alpha is None else file | {f"{module}.alpha": np.array(alpha, np.float32)}


def test_lokr_counts_alpha_once_and_not_at_all_where_both_factors_are_full() -> None:
    assert scale(lokr("w1", "w2")) == 1.0
    assert scale(lokr("w1", "w2_a", "w2_b")) == 0.5
    assert scale(lokr("w1_a", "w1_b", "w2")) == 1.0  # 2 of rank 2
    assert scale(lokr("w1_a", "w1_b", "w2_a", "w2_b")) == 0.5
    assert scale(lokr("w1", "w2_a", "w2_b", alpha=None)) == 1.0


def test_a_decomposed_first_factor_is_multiplied_out() -> None:
    file = lokr("w1_a", "w1_b", "w2")
    delta = only(file).delta
    assert isinstance(delta, Kronecker)
    w1_a, w1_b = (file[f"lycoris_transformer_blocks_0_attn_to_k.lokr_w1_{x}"] for x in "ab")
    assert np.array_equal(delta.w1, w1_a @ w1_b)


# DoRA, differences, norms


@pytest.mark.parametrize(
    "name",
    [
        "dora_scale",
        "lora_magnitude_vector",
        "lora_magnitude_vector.weight",
        "lora_magnitude_vector.default.weight",
    ],
)
@pytest.mark.parametrize(
    ("shape", "axis"), [((DIM,), Axis.ROWS), ((DIM, 1), Axis.ROWS), ((1, DIM), Axis.COLUMNS)]
)
def test_dora_lengths_are_kept_on_their_axis(name: str, shape: tuple[int, ...], axis: Axis) -> None:
    lengths = Draw(9).array(*shape)
    magnitude = only(pair() | {f"{MODULE}.{name}": lengths}).magnitude
    assert magnitude is not None
    assert magnitude.axis is axis
    assert np.array_equal(magnitude.values, lengths.reshape(-1))


@pytest.mark.parametrize("kind", ["LoRA", "LoRA with bias", "LoHa", "LoKr", "difference", "DoRA"])
def test_the_final_modulation_of_diffusers_has_its_halves_the_other_way_round(kind: str) -> None:
    draw, rows = Draw(2), 2 * DIM
    tensors = {
        "LoRA": {"lora_A.weight": draw.array(3, DIM), "lora_B.weight": draw.array(rows, 3)},
        "LoHa": {
            "hada_w1_a": draw.array(rows, 2),
            "hada_w1_b": draw.array(2, DIM),
            "hada_w2_a": draw.array(rows, 2),
            "hada_w2_b": draw.array(2, DIM),
        },
        "LoKr": {"lokr_w1": draw.array(3, 4), "lokr_w2": draw.array(rows // 3, DIM // 4)},
        "difference": {"diff": draw.array(rows, DIM), "diff_b": draw.array(rows)},
    }
    tensors["LoRA with bias"] = tensors["LoRA"] | {"lora_B.bias": draw.array(rows)}
    tensors["DoRA"] = tensors["LoRA"] | {"dora_scale": draw.array(rows, 1)}
    theirs = only({f"transformer.norm_out.linear.{name}": array for name, array in tensors[kind].items()})
    ours = only(
        {
            f"diffusion_model.final_layer.adaLN_modulation.1.{name}": array
            for name, array in tensors[kind].items()
        }
    )
    assert theirs.layer == ours.layer == "final_layer.adaLN_modulation.1"
    assert np.allclose(delta_of(theirs), np.roll(delta_of(ours), DIM, axis=0), atol=1e-6)
    bias = getattr(ours.delta, "bias", None)
    if bias is not None:
        assert np.array_equal(theirs.delta.bias, np.roll(bias, DIM))  # pyright: ignore
    if ours.magnitude is not None and theirs.magnitude is not None:
        assert np.array_equal(theirs.magnitude.values, np.roll(ours.magnitude.values, DIM))


def test_differences_of_weights_biases_and_norms_are_read() -> None:
    draw = Draw()
    file = {
        "diffusion_model.double_blocks.0.img_attn.proj.diff": draw.array(DIM, DIM),
        "diffusion_model.double_blocks.0.img_attn.proj.diff_b": draw.array(DIM),
        "diffusion_model.txt_in.diff_b": draw.array(DIM),
        "diffusion_model.single_blocks.0.norm.query_norm.scale.diff": draw.array(16),
        "diffusion_model.single_blocks.0.norm.key_norm.set_weight": draw.array(16),
        "lora_te1_text_model_encoder_layers_0_layer_norm1.w_norm": draw.array(36),
        "lora_te1_text_model_encoder_layers_0_layer_norm1.b_norm": draw.array(36),
    }
    lora = read(file)
    assert lora.report.unmatched == ()
    found = {patch.layer: patch.delta for patch in lora.patches()}
    proj, txt = found["double_blocks.0.img_attn.proj"], found["txt_in"]
    assert isinstance(proj, Difference)
    assert isinstance(txt, Difference)
    assert (proj.weight is None, proj.bias is None, txt.weight is None) == (False, False, True)
    changes = [found[name] for name in list(found)[2:]]
    assert [
        (c.is_replacement, c.weight is None, c.bias is None) for c in changes if isinstance(c, NormChange)
    ] == [
        (False, False, True),
        (True, False, True),
        (False, False, False),
    ]


def test_a_bias_beside_a_lora_is_a_patch_of_its_own() -> None:
    file = pair("diffusion_model.double_blocks.0.img_attn.proj") | {
        "diffusion_model.double_blocks.0.img_attn.proj.diff_b": Draw().array(DIM)
    }
    assert [type(patch.delta) for patch in patches(file)] == [LowRank, Difference]


# Widths of img_in


@pytest.mark.parametrize("channels", [64, 128, 384])
def test_an_ordinary_lora_reads_the_first_64_columns_of_a_wider_model(channels: int) -> None:
    wide = lora_files.small_spec(channels)
    file = lora_files.kohya(SPEC, ["img_in", "txt_in"])
    img, txt = patches(file, spec=wide)
    assert (img.columns, txt.columns) == (64, 20)


# What does not fit


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
    source = _Names(MISSHAPEN[kind])  # reading it fails
    with pytest.raises(RequestInvalid, match="does not fit Small FLUX"):
        read_lora(source, SPEC, "style.safetensors")
    describe(source, SPEC)


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


class _Names(MemorySource):
    """A file of which nothing but the header may be read."""

    def __init__(self, arrays: Arrays) -> None:
        super().__init__({})
        self.infos = {name: TensorInfo("F32", array.shape) for name, array in arrays.items()}

    def read(self, name: str):
        raise AssertionError(f"{name} was read")


def _control_shapes() -> Arrays:
    """BFL's wrapper around every matrix of the full model, without its memory."""
    empty = np.broadcast_to(np.float32(0), (1,))
    file: Arrays = {}
    for layer, (rows, columns) in lora_files.matrices(DEV).items():
        inputs = 128 if layer == "img_in" else columns
        rank = min(128, inputs, rows)
        file[f"{layer}.lora_A.weight"] = np.broadcast_to(empty, (rank, inputs))
        file[f"{layer}.lora_B.weight"] = np.broadcast_to(empty, (rows, rank))
        file[f"{layer}.lora_B.bias"] = np.broadcast_to(empty, (rows,))
    return file | {
        f"{norm}.scale": np.broadcast_to(empty, (dim,)) for norm, dim in lora_files.norms(DEV).items()
    }


def test_schnell_has_no_place_for_guidance() -> None:
    spec = replace(lora_files.small_spec(has_guidance=False), title="Small schnell")
    report = read(lora_files.kohya(SPEC, ["guidance_in.in_layer", "txt_in"]), spec=spec).report
    assert len(report.unmatched) == 3
