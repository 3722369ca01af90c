"""What a file's tensors mean: alphas, DoRA's lengths, halves, differences and norms."""

from __future__ import annotations

import json

import numpy as np
import pytest

from flux_core.weights.lora.patches import Axis, Difference, Kronecker, LowRank, NormChange
from tests.support.lora_files import Arrays, Draw, delta_of
from tests.support.lora_reading import DIM, MODULE, lokr, only, pair, patches, read


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
        assert np.array_equal(theirs.delta.bias, np.roll(bias, DIM))
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
