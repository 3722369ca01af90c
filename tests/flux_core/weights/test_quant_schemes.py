"""Every scheme decodes as its own library does, on NumPy, torch and MLX; leaves compute from its codes."""

from __future__ import annotations

import re
import tracemalloc
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
import torch
from gguf import quants

from backends.mlx_metal.packed import MULTIPLY
from flux_core.request import Precision
from flux_core.weights.quant import four_bit, fp8
from flux_core.weights.quant.schemes import SCHEMES
from flux_core.weights.tensors import RawTensor, cut_rows, stacked_rows, swapped_halves
from tests.support.numerics import BACKENDS, distance, make_backend, to_bf16
from tests.support.quantised import GGUF_TYPES, OneSource, random_tensor

ROWS, COLUMNS = 8, 512
FOUR_BIT = {"nf4": four_bit.NF4_VALUES, "fp4": four_bit.FP4_VALUES}


@pytest.mark.parametrize(
    ("table", "dtype"), [(fp8.E4M3_VALUES, torch.float8_e4m3fn), (fp8.E5M2_VALUES, torch.float8_e5m2)]
)
def test_the_table_of_an_eight_bit_float_is_torchs(table: np.ndarray, dtype: torch.dtype) -> None:
    peer = torch.arange(256, dtype=torch.uint8).view(dtype).float().numpy()
    assert np.array_equal(table, peer, equal_nan=True)


@pytest.mark.parametrize("kind", FOUR_BIT)
def test_the_table_of_a_four_bit_code_is_bitsandbytes(kind: str) -> None:
    from bitsandbytes.functional import get_4bit_type

    assert np.array_equal(FOUR_BIT[kind], get_4bit_type(kind, device="cpu").numpy())


@pytest.mark.parametrize("scheme", GGUF_TYPES)
def test_a_gguf_block_decodes_as_gguf_does(scheme: str) -> None:
    raw = random_tensor(scheme, shape=(64, 1024))
    peer = quants.dequantize(raw.data.reshape(64, -1), gguf.GGMLQuantizationType[scheme])
    assert np.array_equal(raw.to_numpy(), peer)


@pytest.mark.parametrize("scheme", ["NF4", "FP4"])
def test_four_bit_codes_decode_as_bitsandbytes_does(scheme: str) -> None:
    from bitsandbytes.functional import QuantState, dequantize_4bit

    raw = random_tensor(scheme, shape=(64, 256))
    state = QuantState(
        absmax=torch.from_numpy(raw.companions["absmax"].reshape(-1)),
        shape=torch.Size(raw.shape),
        dtype=torch.float32,
        blocksize=64,
        quant_type=scheme.lower(),
        code=torch.from_numpy(FOUR_BIT[scheme.lower()]),
    )
    peer = dequantize_4bit(torch.from_numpy(raw.data).reshape(-1, 1), state).numpy()
    assert np.array_equal(raw.to_numpy(), peer)


@pytest.mark.parametrize("scheme", MULTIPLY)
def test_mlx_codes_decode_as_mlx_does_to_the_last_place(scheme: str) -> None:
    width, group = map(int, re.findall(r"\d+", scheme))
    weight = np.random.default_rng(0).standard_normal((16, 512)).astype(np.float32)
    codes, scales, biases = mx.quantize(mx.array(weight), group_size=group, bits=width)
    companions = {"scales": np.array(scales), "biases": np.array(biases)}
    raw = RawTensor("w", scheme, (16, 512), np.array(codes).view(np.uint8).reshape(-1), companions)
    peer = np.array(mx.dequantize(codes, scales, biases, group_size=group, bits=width))
    assert np.abs(raw.to_numpy() - peer).max() <= np.spacing(np.float32(np.abs(peer).max()))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_linear_leaf_computes_from_codes_what_the_oracle_computes_from_their_values(
    scheme: str, backend: str
) -> None:
    raw = random_tensor(scheme)
    plain = RawTensor(raw.name, "F32", raw.shape, raw.to_numpy().reshape(-1).view(np.uint8))
    x = np.random.default_rng(1).standard_normal((3, COLUMNS)).astype(np.float32)
    results = []
    for tensor in (raw, plain):
        device: Any = make_backend(backend)
        with device.session():
            leaf = device.leaves(OneSource(tensor), Precision.FP32).linear("layer", COLUMNS, ROWS, bias=False)
            results.append(device.to_numpy(leaf(device.from_numpy(x))))
    oracle = x.astype(np.float64) @ raw.to_numpy().astype(np.float64).T
    assert distance(results[0], oracle) < 1e-5
    if backend == "torch" or scheme not in MULTIPLY:
        assert np.array_equal(*results)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_embedding_leaf_gives_rows_of_the_decoded_table(scheme: str, backend: str) -> None:
    raw = random_tensor(scheme, "table.weight")
    index = np.array([[3, 0], [7, 3]], np.int32)
    device: Any = make_backend(backend)
    with device.session():
        leaf = device.leaves(OneSource(raw), Precision.FP32).embedding("table", ROWS, COLUMNS)
        found = device.to_numpy(leaf(device.from_numpy(index)))
    assert np.array_equal(found, raw.to_numpy()[index])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_of_an_fp8_table_that_overflowed_when_it_was_cast_is_zero_there(backend: str) -> None:
    codes = np.array([[0x38, 0x7F, 0xFF, 0xB8]], np.uint8)  # 1, NaN, NaN, -1
    device: Any = make_backend(backend)
    with device.session():
        source = OneSource(RawTensor("table.weight", "F8_E4M3", (1, 4), codes.reshape(-1)))
        leaf = device.leaves(source, Precision.FP32).embedding("table", 1, 4)
        found = device.to_numpy(leaf(device.from_numpy(np.zeros(1, np.int32))))
    assert np.array_equal(found, [[1, 0, 0, -1]])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_in_bfloat16_a_leaf_is_as_near_the_oracle_as_rounding_lets_it_be(scheme: str, backend: str) -> None:
    raw = random_tensor(scheme)
    x = to_bf16(np.random.default_rng(1).standard_normal((3, COLUMNS)))
    device: Any = make_backend(backend)
    with device.session():
        leaf = device.leaves(OneSource(raw), Precision.BF16).linear("layer", COLUMNS, ROWS, bias=False)
        found = device.to_numpy(leaf(device.cast(device.from_numpy(x), Precision.BF16)))
    assert distance(found, x.astype(np.float64) @ raw.to_numpy().astype(np.float64).T) < 1e-2


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_leaf_that_cannot_compute_from_codes_decodes_them_when_it_loads(scheme: str, backend: str) -> None:
    kernel = random_tensor(scheme, "conv.weight")
    bias = random_tensor(scheme, "conv.bias", shape=(1, COLUMNS))
    source = OneSource(
        RawTensor("conv.weight", scheme, (ROWS, COLUMNS, 1, 1), kernel.data, kernel.companions),
        RawTensor("conv.bias", "F32", (ROWS,), bias.to_numpy()[0, :ROWS].copy().view(np.uint8)),
    )
    x = np.random.default_rng(1).standard_normal((1, 2, 3, COLUMNS)).astype(np.float32)
    device: Any = make_backend(backend)
    with device.session():
        leaf = device.leaves(source, Precision.FP32).conv2d("conv", COLUMNS, ROWS, 1)
        found = device.to_numpy(leaf(device.from_numpy(x)))
    assert distance(found, x.astype(np.float64) @ kernel.to_numpy().T + bias.to_numpy()[0, :ROWS]) < 1e-5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_decoding_needs_less_than_four_times_the_values(scheme: str) -> None:
    raw = random_tensor(scheme, shape=(256, 2048))
    tracemalloc.start()
    values = raw.to_numpy()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * values.nbytes


def test_a_large_weight_is_decoded_in_parts_to_the_same_values() -> None:
    raw = random_tensor("F8_E4M3_SCALED", shape=(4100, 4352))  # more than one part, and no whole number
    device: Any = make_backend("torch")
    with device.session():
        leaf = device.leaves(OneSource(raw), Precision.FP32).linear("layer", 4352, 4100, bias=False)
        assert np.array_equal(device.to_numpy(leaf.weight_in(torch.float32)), raw.to_numpy())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", [(0, 512), (8, 0)])
def test_a_tensor_without_values_has_none(scheme: str, shape: tuple[int, int]) -> None:
    assert RawTensor("w", scheme, shape, np.zeros(0, np.uint8)).to_numpy().shape == shape


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rows_are_cut_stacked_and_swapped_without_decoding(scheme: str) -> None:
    one, two = random_tensor(scheme, seed=1), random_tensor(scheme, seed=2)
    both = stacked_rows("both", [one, two])
    assert both.shape == (2 * ROWS, COLUMNS)
    assert np.array_equal(both.to_numpy(), np.concatenate([one.to_numpy(), two.to_numpy()]))
    assert np.array_equal(cut_rows(both, 3, 11).to_numpy(), both.to_numpy()[3:11])
    assert np.array_equal(swapped_halves(both).to_numpy(), np.roll(both.to_numpy(), ROWS, axis=0))
