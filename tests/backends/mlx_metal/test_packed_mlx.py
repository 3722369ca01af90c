"""MLX's own kernel multiplies with the scales that the file has, in whatever dtype they came."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from backends.mlx_metal.packed import PackedWeight, affine_product
from flux_core.weights.tensors import RawTensor

ROWS, COLUMNS, GROUP = 16, 128, 64


def packed(dtype: mx.Dtype) -> PackedWeight:
    """A random matrix in four bits whose scales have every digit of a dtype."""
    values = mx.array(np.random.default_rng(0).standard_normal((ROWS, COLUMNS), np.float32))
    codes, *companions = mx.quantize(values.astype(dtype), group_size=GROUP, bits=4)
    scales, biases = (np.array(each.astype(mx.float32)) for each in companions)
    raw = RawTensor(
        "w",
        "MLX4_G64",
        (ROWS, COLUMNS),
        np.array(codes).view(np.uint8).reshape(-1),
        {"scales": scales, "biases": biases},
    )
    return PackedWeight(raw)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
def test_scales_keep_their_dtype_and_are_not_rounded_to_that_of_the_input(dtype: mx.Dtype) -> None:
    weight = packed(dtype)
    assert weight.companions["scales"].dtype == dtype
    x = mx.array(np.random.default_rng(1).standard_normal((5, COLUMNS), np.float32)).astype(mx.bfloat16)
    product = affine_product(weight, x, 4, GROUP)
    if dtype != mx.bfloat16:  # where all is bfloat16, MLX's processor kernel also adds up in it
        exact = np.array(x.astype(mx.float32)) @ np.array(weight(mx.float32)).T
        assert product.dtype == mx.float32
        assert np.abs(np.array(product) - exact).max() < 1e-5 * np.abs(exact).max()


def test_decoding_gives_the_same_numbers_from_narrow_scales() -> None:
    weight = packed(mx.float16)
    wide = {name: value.astype(mx.float32) for name, value in weight.companions.items()}
    narrow_first = np.array(weight(mx.float32))
    weight.companions = wide
    assert np.array_equal(narrow_first, np.array(weight(mx.float32)))
