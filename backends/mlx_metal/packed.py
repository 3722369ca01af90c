"""Quantised weights on MLX: they stay as codes in memory and are decoded when a leaf computes.

`MlxBits` gives flux_core's schemes the array operations that MLX spells in its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from numpy.typing import NDArray

from flux_core.weights.quant import mlx_affine
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
        own = as_stored if self.scheme in MULTIPLY else mx.array
        self.companions = {name: own(np.array(value)) for name, value in raw.companions.items()}
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

    def matmul(self, x: mx.array) -> mx.array:
        """x [..., columns] -> x @ weight.T [..., rows] in x's dtype; without decoding where MLX can."""
        multiply = MULTIPLY.get(self.scheme)
        return x @ self(x.dtype).T if multiply is None else multiply(self, x)


def as_stored(values: NDArray[np.float32]) -> mx.array:
    """float32 numbers in the narrowest float dtype that holds each of them: the one they came from."""
    whole = mx.array(values)
    for dtype in (mx.bfloat16, mx.float16):
        narrow = whole.astype(dtype)
        if mx.array_equal(narrow.astype(mx.float32), whole).item():
            return narrow
    return whole


def _affine(width: int, group: int) -> Multiply:
    def multiply(weight: PackedWeight, x: mx.array) -> mx.array:
        # Metal's kernel adds up in float32; that of the CPU adds in x's own dtype, which costs bfloat16
        # nine percent over 3072 columns.
        wide = x if mx.default_device() == mx.Device(mx.gpu) else x.astype(mx.float32)
        return affine_product(weight, wide, width, group).astype(x.dtype)

    return multiply


def affine_product(weight: PackedWeight, x: mx.array, width: int, group: int) -> mx.array:
    """x [..., columns] @ weight.T, by MLX's kernel, in the common dtype of x and the scales.

    The scales keep the dtype they came in: bfloat16 has too few digits for float16's and float32's, and
    what one loses is in every product of its group.
    """
    scales, biases = weight.companions["scales"], weight.companions["biases"]
    common = mx.result_type(x, scales)
    return mx.quantized_matmul(
        x.astype(common),
        weight.codes.view(mx.uint32),
        scales.astype(common),
        biases.astype(common),
        transpose=True,
        group_size=group,
        bits=width,
    )


Multiply = Callable[[PackedWeight, mx.array], mx.array]
MULTIPLY: dict[str, Multiply] = {
    f"MLX{width}_G{group}": _affine(width, group)
    for width in mlx_affine.WIDTHS
    for group in mlx_affine.GROUPS
}
"""Schemes that MLX has a kernel of its own for, which reads the codes as they are."""
