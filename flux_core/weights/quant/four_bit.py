"""Four-bit codes that stand for the sixteen numbers of a fixed table, with a scale for each group.

NF4 and FP4 of bitsandbytes share a largest magnitude per 64 (or more) values; NVFP4 has an eight-bit
float per 16 values and one number above them all. The high nibble of a byte is the earlier value in all.

Source: Dettmers et al. 2023 (QLoRA, appendix E) and bitsandbytes functional.py get_4bit_type; OCP
microscaling formats 1.0 (E2M1) and NVIDIA's description of NVFP4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.weights.quant.bits import Bits
from flux_core.weights.quant.fp8 import E4M3_VALUES

NF4_VALUES: NDArray[np.float32] = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)
"""Quantiles of the normal distribution, by code."""


def _signed(magnitudes: list[float]) -> NDArray[np.float32]:
    """Eight magnitudes -> sixteen values; the top bit of a code is the sign."""
    positive = np.array(magnitudes, np.float32)
    return np.concatenate([positive, -positive])


FP4_VALUES = _signed([x / 12.0 for x in (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)])
"""bitsandbytes' own 4-bit float, by code; not E2M1."""
E2M1_VALUES = _signed([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def decode_nf4(bits: Bits, rows: Any, companions: Mapping[str, Any]) -> Any:
    """[rows, columns/2] codes, `absmax` [rows, groups] float32 -> values."""
    return _grouped(bits, NF4_VALUES, rows, companions["absmax"])


def decode_fp4(bits: Bits, rows: Any, companions: Mapping[str, Any]) -> Any:
    """[rows, columns/2] codes, `absmax` [rows, groups] float32 -> values."""
    return _grouped(bits, FP4_VALUES, rows, companions["absmax"])


def decode_nvfp4(bits: Bits, rows: Any, companions: Mapping[str, Any]) -> Any:
    """[rows, columns/2] codes -> values.

    Args:
        bits: The backend's operations.
        rows: Codes.
        companions: `scale` [rows, columns/16] E4M3 codes in row order; `tensor_scale` [rows, 1] float32.
    """
    scales = bits.lookup(E4M3_VALUES, companions["scale"]) * companions["tensor_scale"]
    return _grouped(bits, E2M1_VALUES, rows, scales)


def _grouped(bits: Bits, table: NDArray[np.float32], rows: Any, scales: Any) -> Any:
    codes = bits.stack([rows >> 4, rows & 15], axis=2)  # [R, columns/2, 2]
    values = bits.lookup(table, codes).reshape(*scales.shape, -1)  # [R, groups, group]
    return (values * scales[..., None]).reshape(rows.shape[0], -1)
