"""Quantised weights on MLX: they stay as codes in memory and are decoded when a leaf computes.

`MlxBits` gives flux_core's schemes the array operations that MLX spells in its own way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from numpy.typing import NDArray

from flux_core.weights.quant.schemes import decode
from flux_core.weights.tensors import RawTensor


class MlxBits:
    """flux_core.weights.quant.bits.Bits on MLX."""

    def lookup(self, table: NDArray[np.float32], codes: mx.array) -> mx.array:
        return mx.array(table)[codes]

    def halves(self, x: mx.array) -> mx.array:
        return mx.contiguous(x).view(mx.float16).astype(mx.float32)

    def signed(self, x: mx.array) -> mx.array:
        return x.view(mx.int8).astype(mx.int32)

    def ints(self, x: mx.array) -> mx.array:
        return x.astype(mx.int32)

    def floats(self, x: mx.array) -> mx.array:
        return x.astype(mx.float32)

    def concat(self, arrays: Sequence[mx.array], axis: int) -> mx.array:
        return mx.concatenate(list(arrays), axis=axis)

    def stack(self, arrays: Sequence[mx.array], axis: int) -> mx.array:
        return mx.stack(list(arrays), axis=axis)


BITS = MlxBits()


class PackedWeight(nn.Module):
    """A quantised weight [rows, ...] in its scheme's own form.

    Args:
        raw: A tensor whose dtype is a scheme.
        codes: [rows, row_bytes] uint8, where somebody has read them already.

    Attributes:
        scheme: Name in flux_core.weights.quant.schemes.SCHEMES.
        shape: Of the values.
    """

    def __init__(self, raw: RawTensor, codes: mx.array | None = None) -> None:
        super().__init__()
        self.scheme = raw.dtype
        self.shape = raw.shape
        self.codes = mx.array(raw.data.reshape(raw.num_rows, -1)) if codes is None else codes
        self.companions = {name: mx.array(np.array(value)) for name, value in raw.companions.items()}
        mx.eval(self.codes, self.companions)  # now, so that the bytes they came from are not held

    def __call__(self, dtype: mx.Dtype) -> mx.array:
        """All values [rows, ...]."""
        return decode(self.scheme, self.codes, self.companions, BITS).reshape(self.shape).astype(dtype)

    def rows(self, index: mx.array, dtype: mx.Dtype) -> mx.array:
        """Values of some rows: integers [...] -> [..., columns]; decodes no other row."""
        flat = index.reshape(-1)
        companions: dict[str, Any] = {name: value[flat] for name, value in self.companions.items()}
        decoded: mx.array = decode(self.scheme, self.codes[flat], companions, BITS)
        return decoded.reshape(*index.shape, -1).astype(dtype)
