"""Quantised weights on torch: they stay as codes in memory and are decoded when a leaf computes.

On a processor, where nothing computes from codes, a small part of a model keeps what it has decoded.

`TorchBits` gives flux_core's schemes the array operations that torch spells in its own way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flux_core.weights.quant.schemes import decode
from flux_core.weights.tensors import RawTensor


class TorchBits:
    """flux_core.weights.quant.bits.Bits on torch; tables are kept per device."""

    def __init__(self) -> None:
        self._tables: dict[tuple[int, torch.device], Tensor] = {}

    def lookup(self, table: NDArray[np.float32], codes: Tensor) -> Tensor:
        key = (id(table), codes.device)
        if key not in self._tables:
            self._tables[key] = torch.from_numpy(table).to(codes.device)
        return self._tables[key][codes.int()]

    def halves(self, x: Tensor) -> Tensor:
        return x.contiguous().view(torch.float16).float()

    def signed(self, x: Tensor) -> Tensor:
        return x.view(torch.int8).int()

    def ints(self, x: Tensor) -> Tensor:
        return x.int()

    def floats(self, x: Tensor) -> Tensor:
        return x.float()

    def concat(self, arrays: Sequence[Tensor], axis: int) -> Tensor:
        return torch.cat(list(arrays), dim=axis)

    def stack(self, arrays: Sequence[Tensor], axis: int) -> Tensor:
        return torch.stack(list(arrays), dim=axis)


BITS = TorchBits()
_CHUNK_VALUES = 2**24


class PackedWeight(nn.Module):
    """A quantised weight [rows, ...] in its scheme's own form.

    Args:
        scheme: Name in flux_core.weights.quant.schemes.SCHEMES.
        shape: Of the values.
        codes: [rows, row_bytes] uint8.
        companions: What the scheme needs beside them, each with as many rows, on the same device.
        kept_dtype: The dtype in which all values are kept once they have been decoded; None keeps none.

    Attributes:
        scheme, shape: As given.
    """

    def __init__(
        self,
        scheme: str,
        shape: tuple[int, ...],
        codes: Tensor,
        companions: Mapping[str, Tensor],
        kept_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._kept_dtype = kept_dtype
        self._kept: Tensor | None = None
        self.scheme = scheme
        self.shape = shape
        self.register_buffer("codes", codes)
        self._companions = tuple(companions)
        self._elsewhere: dict[str, Callable[[], Tensor]] = {}
        for name, value in companions.items():
            self.register_buffer(name, value)

    @classmethod
    def of(cls, raw: RawTensor, codes: Tensor, kept_dtype: torch.dtype | None = None) -> Self:
        """Of a tensor whose dtype is a scheme; its codes [rows, row_bytes] are on their device already."""
        companions = {
            name: torch.from_numpy(np.array(value)).to(codes.device) for name, value in raw.companions.items()
        }
        return cls(raw.dtype, raw.shape, codes, companions, kept_dtype)

    def part(self, name: str) -> Tensor:
        """The codes or a companion, by its name, on the device."""
        return self._elsewhere[name]() if name in self._elsewhere else getattr(self, name)

    def hand_over(self, keep: Callable[[Tensor], Callable[[], Tensor]]) -> None:
        """Leaves codes and companions to somebody who gives them back on the device at every use."""
        self._kept_dtype = None
        for name in ("codes", *self._companions):
            self._elsewhere[name] = keep(self.get_buffer(name))
            delattr(self, name)

    def forward(self, dtype: torch.dtype) -> Tensor:
        """All values [rows, ...]; not to be written to, since they may be kept."""
        if dtype != self._kept_dtype:
            return self._all(dtype)
        if self._kept is None:
            with torch.inference_mode(False), torch.no_grad():  # so that training may use it, too
                self._kept = self._all(dtype)
        return self._kept

    def _all(self, dtype: torch.dtype) -> Tensor:
        """A part of the rows at a time, so that what decoding needs stays small."""
        rows, columns = self.shape[0], math.prod(self.shape[1:])
        step = max(1, _CHUNK_VALUES // columns)
        if rows <= step:
            return self._decoded(slice(None)).reshape(self.shape).to(dtype)
        values = torch.empty((rows, columns), dtype=dtype, device=self.part("codes").device)
        for start in range(0, rows, step):
            values[start : start + step] = self._decoded(slice(start, start + step))
        return values.reshape(self.shape)

    def rows(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Values of some rows: integers [...] -> [..., columns]; decodes no other row."""
        return self._decoded(index.reshape(-1)).reshape(*index.shape, -1).to(dtype)

    def _decoded(self, which: Tensor | slice) -> Tensor:
        companions = {name: self.part(name)[which] for name in self._companions}
        codes = self.part("codes")[which]
        if self.scheme in DECODE:
            return DECODE[self.scheme](codes, companions)
        return decode(self.scheme, codes, companions, BITS)


def _eight_bit_float(dtype: torch.dtype) -> Decode:
    def cast(codes: Tensor, companions: Mapping[str, Tensor]) -> Tensor:
        values = codes.view(dtype).float()
        return values * companions["scale"] if companions else values

    return cast


Decode = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
DECODE: dict[str, Decode] = {
    "F8_E4M3": _eight_bit_float(torch.float8_e4m3fn),
    "F8_E4M3_SCALED": _eight_bit_float(torch.float8_e4m3fn),
    "F8_E5M2": _eight_bit_float(torch.float8_e5m2),
    "F8_E5M2_SCALED": _eight_bit_float(torch.float8_e5m2),
}
"""Schemes that torch has a dtype of its own for: one cast instead of a table and its index."""
