"""Eight-bit floats: plain casts, and casts with a scale for each row (or the whole tensor).

Every code has one value, so decoding is a table of 256 numbers, the same on every backend, including
those that have no such dtype.

Source: OCP 8-bit floating point specification (E4M3 "fn": no infinity, NaN at 0x7f and 0xff; E5M2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.weights.quant.bits import Bits

E4M3_MAX = 448.0
E5M2_MAX = 57344.0


def _table(exponent_bits: int, mantissa_bits: int, has_infinity: bool) -> NDArray[np.float32]:
    codes: NDArray[np.int64] = np.arange(256)
    top = 2**exponent_bits - 1
    bias = 2 ** (exponent_bits - 1) - 1
    sign = 1.0 - 2.0 * (codes >> 7)
    exponent = (codes >> mantissa_bits) & top
    mantissa = (codes & (2**mantissa_bits - 1)) / 2**mantissa_bits
    is_normal = (exponent > 0).astype(np.float64)
    value = sign * (is_normal + mantissa) * 2.0 ** (np.maximum(exponent, 1) - bias)
    if has_infinity:
        value[exponent == top] = np.nan
        value[(exponent == top) & (mantissa == 0)] = np.inf
        value *= np.where(np.isinf(value), sign, 1.0)
    else:
        value[(codes & 0x7F) == 0x7F] = np.nan
    return value.astype(np.float32)


E4M3_VALUES = _table(4, 3, has_infinity=False)
E5M2_VALUES = _table(5, 2, has_infinity=True)


def decode_e4m3(bits: Bits, rows: Any, companions: Mapping[str, Any]) -> Any:
    """[rows, columns] codes -> values."""
    return bits.lookup(E4M3_VALUES, rows)


def decode_e5m2(bits: Bits, rows: Any, companions: Mapping[str, Any]) -> Any:
    """[rows, columns] codes -> values."""
    return bits.lookup(E5M2_VALUES, rows)


def decode_e4m3_scaled(bits: Bits, rows: Any, companions: Mapping[str, Any]) -> Any:
    """[rows, columns] codes times companion `scale` [rows, 1] float32 -> values."""
    return bits.lookup(E4M3_VALUES, rows) * companions["scale"]


def decode_e5m2_scaled(bits: Bits, rows: Any, companions: Mapping[str, Any]) -> Any:
    """[rows, columns] codes times companion `scale` [rows, 1] float32 -> values."""
    return bits.lookup(E5M2_VALUES, rows) * companions["scale"]
