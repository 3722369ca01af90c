"""Every family's names lead to the same layers, in every spelling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from flux_core.catalog import DEV, SCHNELL
from flux_core.plan import Component
from flux_core.weights.diffusers_keys import transformer_recipes
from flux_core.weights.lora.patches import Difference, LowRank, NormChange
from flux_core.weights.lora.read import describe
from tests.support import lora_files
from tests.support.lora_files import KOHYA, PEFT, Arrays, Draw, MemorySource, delta_of
from tests.support.lora_reading import DIM, SPEC, HeaderOnly, only, patches, read

TRANSFORMER = lora_files.matrices(SPEC)
CLIP = lora_files.matrices(SPEC, Component.CLIP)
T5 = lora_files.matrices(SPEC, Component.T5)


def underscored(name: str) -> str:
    return name.replace(".", "_")


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
    report = describe(HeaderOnly(_control_shapes()), DEV)
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


@pytest.mark.parametrize("channels", [64, 128, 384])
def test_an_ordinary_lora_reads_the_first_64_columns_of_a_wider_model(channels: int) -> None:
    wide = lora_files.small_spec(channels)
    file = lora_files.kohya(SPEC, ["img_in", "txt_in"])
    img, txt = patches(file, spec=wide)
    assert (img.columns, txt.columns) == (64, 20)


def test_schnell_has_no_place_for_guidance() -> None:
    spec = replace(lora_files.small_spec(has_guidance=False), title="Small schnell")
    report = read(lora_files.kohya(SPEC, ["guidance_in.in_layer", "txt_in"]), spec=spec).report
    assert len(report.unmatched) == 3


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
