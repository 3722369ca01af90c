"""From numbers to codes: the schemes that Flowbrush writes itself, in NumPy, row by row.

Rows are independent, so a caller may hand over a few at a time and never needs a whole matrix as floats.
Each encoder rounds as the scheme's own library does, and its tests compare the codes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.weights.quant.four_bit import NF4_VALUES
from flux_core.weights.quant.fp8 import E4M3_MAX

Encoded = tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]
"""Codes [rows, row_bytes] and the companions of the scheme."""
Encode = Callable[[NDArray[np.float32]], Encoded]
"""float32 [rows, columns], all finite -> Encoded."""

_MLX_GROUP = 64
_MLX_EPS = 1e-7
_STEP_2_9 = np.float32(2**14)
_NF4_BINS = 1024


def to_e4m3(x: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The nearest E4M3 code of every number, ties to even, beyond 448 the largest.

    Source: OCP 8-bit floating point specification; equal to torch's cast.
    """
    magnitude = np.minimum(np.abs(x), np.float32(E4M3_MAX))
    words = magnitude.view(np.uint32)
    even = (words >> np.uint32(20)) & np.uint32(1)
    normal = ((words + np.uint32(0x7FFFF) + even) >> np.uint32(20)) - np.uint32((127 - 7) << 3)
    # Below 2^-6 all steps are 2^-9: beside 2^14 a float32 has just that step, and rounds to it itself.
    low = (magnitude + _STEP_2_9).view(np.uint32) - _STEP_2_9.view(np.uint32)
    codes = np.where(magnitude < np.float32(2**-6), low, normal).astype(np.uint8)
    return codes | (np.signbit(x).view(np.uint8) << np.uint8(7))


def encode_fp8(values: NDArray[np.float32]) -> Encoded:
    """F8_E4M3_SCALED: the largest magnitude of each row becomes 448."""
    peak = np.abs(values).max(axis=1, keepdims=True)
    scale: NDArray[np.float32] = np.where(peak > 0, peak / E4M3_MAX, 1).astype(np.float32)
    return to_e4m3(values / scale), {"scale": scale}


def encode_nf4(values: NDArray[np.float32]) -> Encoded:
    """NF4: the nearest of sixteen quantiles, relative to the largest magnitude of each 64 values."""
    rows, columns = values.shape
    blocks = values.reshape(rows, columns // 64, 64)
    absmax = np.abs(blocks).max(axis=2)  # [rows, columns / 64]
    is_normal = absmax >= np.finfo(np.float32).tiny  # less has no finite inverse, and counts as nothing
    inverse = np.divide(1, absmax, out=np.zeros_like(absmax), where=is_normal)
    codes = _nearest_nf4(blocks * inverse[..., None]).reshape(rows, columns)
    return _nibbles(codes[:, 1::2], codes[:, 0::2]), {"absmax": absmax}


def _nf4_tables() -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Borders between neighbouring values (and an end), and how many lie below each of 1024 bins."""
    borders = (NF4_VALUES[1:] + NF4_VALUES[:-1]) / 2
    starts = np.arange(_NF4_BINS + 1) * (2 / _NF4_BINS) - 1
    below = np.searchsorted(borders, starts - 1e-4).astype(
        np.uint8
    )  # a little less: bins are found in float32
    return np.append(borders, np.inf).astype(np.float32), below


_NF4_BORDERS, _NF4_BELOW = _nf4_tables()


def _nearest_nf4(x: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Codes of numbers in [-1, 1]; no bin holds two borders, so one comparison settles each."""
    bins = ((x + np.float32(1)) * np.float32(_NF4_BINS / 2)).astype(np.int32)
    codes = _NF4_BELOW[np.clip(bins, 0, _NF4_BINS)]
    return codes + (x > _NF4_BORDERS[codes]).view(np.uint8)


def encode_mlx(width: int, values: NDArray[np.float32]) -> Encoded:
    """MLX affine with groups of 64 and bfloat16 scales; the end of larger magnitude is hit exactly.

    Source: ml-explore/mlx, mx.quantize. Codes are chosen for the scale and offset as they are stored,
    after rounding to bfloat16; MLX chooses them before.
    """
    rows, columns = values.shape
    groups = values.reshape(rows, columns // _MLX_GROUP, _MLX_GROUP)
    low: NDArray[np.float32] = groups.min(axis=2)
    high: NDArray[np.float32] = groups.max(axis=2)
    top = np.float32(2**width - 1)
    is_low = np.abs(low) > np.abs(high)
    scale = np.maximum((high - low) / top, np.float32(_MLX_EPS)) * np.where(is_low, 1, -1).astype(np.float32)
    edge: NDArray[np.float32] = np.where(is_low, low, high)
    steps: NDArray[np.float32] = np.rint(edge / scale)
    scale: NDArray[np.float32] = np.where(steps != 0, edge / np.where(steps != 0, steps, 1), scale)
    scales = from_bf16(to_bf16(scale))
    biases = from_bf16(to_bf16(edge * (steps != 0)))
    codes = np.clip(np.rint((groups - biases[..., None]) / scales[..., None]), 0, top).astype(np.uint8)
    codes = codes.reshape(rows, columns)
    packed = codes if width == 8 else _nibbles(codes[:, 0::2], codes[:, 1::2])
    return packed, {"scales": scales, "biases": biases}


def _nibbles(low: NDArray[np.uint8], high: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return low | (high << np.uint8(4))


ENCODERS: dict[str, Encode] = {
    "F8_E4M3_SCALED": encode_fp8,
    "NF4": encode_nf4,
    "MLX4_G64": partial(encode_mlx, 4),
    "MLX8_G64": partial(encode_mlx, 8),
}


def to_bf16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The nearest bfloat16 of finite numbers, ties to even, as its sixteen bits."""
    words = x.view(np.uint32)
    return ((words + 0x7FFF + ((words >> 16) & 1)) >> 16).astype("<u2")


def from_bf16(words: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The numbers that bfloat16's bits stand for."""
    return (words.astype(np.uint32) << 16).view(np.float32)
