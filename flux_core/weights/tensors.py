"""What a checkpoint offers a backend: names, shapes, and bytes that are not yet numbers.

A reader of any file format is a `TensorSource`; a backend turns `RawTensor` bytes into its own arrays
without a detour where it can. A quantised tensor is one whose dtype names a scheme of weights.quant:
its bytes are rows of blocks, so cutting and stacking along the first axis never looks inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import Corrupt
from flux_core.weights.fetch import concatenated
from flux_core.weights.quant.schemes import SCHEMES, decode

BITS_OF_DTYPE: dict[str, int] = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "U16": 16,
    "I16": 16,
    "U32": 32,
    "I32": 32,
    "U64": 64,
    "I64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F16": 16,
    "BF16": 16,
    "F32": 32,
    "F64": 64,
    "C64": 64,
}
"""Every dtype of the safetensors format, with its width in bits."""

_NUMPY_FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """dtype name as safetensors spells it ("BF16") or the name of a scheme ("Q4_K"), and logical shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A tensor as it lies in its file.

    Attributes:
        name: As asked for.
        dtype: As in TensorInfo.
        shape: Row-major; of the values, not of the codes.
        data: [bytes] little-endian; may be a view of a memory-mapped file, so never write to it. Of a
            quantised tensor: shape[0] rows of codes, one after the other.
        companions: What a scheme needs beside the codes (scales, offsets), by the scheme's own names;
            each has shape[0] rows.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]
    companions: Mapping[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])

    @property
    def is_quantised(self) -> bool:
        return self.dtype in SCHEMES

    @property
    def num_rows(self) -> int:
        """Length of the first axis; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    def to_numpy(self) -> NDArray[np.float32]:
        """The values as float32; a view where the file holds float32.

        Raises:
            Corrupt: The dtype is neither a plain floating one nor a known scheme.
        """
        if 0 in self.shape:
            return np.zeros(self.shape, np.float32)
        if self.is_quantised:
            rows = self.data.reshape(self.num_rows, -1)
            return decode(self.dtype, rows, self.companions).reshape(self.shape)
        if self.dtype == "BF16":
            words: NDArray[Any] = np.left_shift(self.data.view("<u2"), 16, dtype=np.uint32)
            return words.view(np.float32).reshape(self.shape)
        if self.dtype not in _NUMPY_FLOATS:
            raise Corrupt(
                f"Tensor {self.name!r} is stored as {self.dtype}, which is no form of weights known here.",
                "Get the file in bfloat16, or in a quantised form that `flowbrush models inspect` knows.",
            )
        return self.data.view(_NUMPY_FLOATS[self.dtype]).astype(np.float32, copy=False).reshape(self.shape)


def as_float(raw: RawTensor) -> RawTensor:
    """The same values in float32.

    Raises:
        Corrupt: As RawTensor.to_numpy.
    """
    values = np.ascontiguousarray(raw.to_numpy())
    return RawTensor(raw.name, "F32", raw.shape, values.reshape(-1).view(np.uint8))


def stacked_rows(name: str, parts: Sequence[RawTensor]) -> RawTensor:
    """Tensors of one width, one after the other along the first axis.

    Where their dtypes differ (a GGUF file mixes its types, fp8 lies beside bfloat16) the values become
    float32; `stacked_dtype` says so beforehand.
    """
    if len(parts) == 1:
        return replace(parts[0], name=name)
    if any(part.dtype != parts[0].dtype for part in parts):
        parts = [as_float(part) for part in parts]
    first = parts[0]
    return RawTensor(
        name,
        first.dtype,
        (sum(part.num_rows for part in parts), *first.shape[1:]),
        concatenated([part.data for part in parts]),
        {key: concatenated([part.companions[key] for part in parts]) for key in first.companions},
    )


def stacked_dtype(dtypes: Sequence[str]) -> str:
    """The dtype that stacked_rows gives tensors of these dtypes."""
    return dtypes[0] if len(set(dtypes)) == 1 else "F32"


def cut_rows(raw: RawTensor, start: int, stop: int) -> RawTensor:
    """Rows start to stop of the first axis; views, never copies."""
    row_bytes = raw.data.size // max(raw.num_rows, 1)
    return replace(
        raw,
        shape=(stop - start, *raw.shape[1:]),
        data=raw.data[start * row_bytes : stop * row_bytes],
        companions={key: value[start:stop] for key, value in raw.companions.items()},
    )


def swapped_halves(raw: RawTensor) -> RawTensor:
    """The second half of the rows before the first."""
    half = raw.num_rows // 2
    return stacked_rows(raw.name, [cut_rows(raw, half, raw.num_rows), cut_rows(raw, 0, half)])


class TensorSource(Protocol):
    """Anything that holds named tensors."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Free text of the file's header, by key; empty where a format has none."""
        ...

    def names(self) -> Mapping[str, TensorInfo]:
        """Every tensor, without reading any."""
        ...

    def read(self, name: str) -> RawTensor:
        """One tensor of `names()`."""
        ...


class RenamedSource:
    """Some tensors of another source under other names.

    Args:
        source: Where they lie.
        original: New name -> name in `source`.
    """

    def __init__(self, source: TensorSource, original: Mapping[str, str]) -> None:
        infos = source.names()
        self.metadata = source.metadata
        self._source = source
        self._original = dict(original)
        self._names = {new: infos[old] for new, old in original.items()}

    def names(self) -> Mapping[str, TensorInfo]:
        return self._names

    def read(self, name: str) -> RawTensor:
        return replace(self._source.read(self._original[name]), name=name)


def in_order(source: TensorSource, names: Iterable[str]) -> TensorSource:
    """The same tensors, those of `names` first and in that order: a reader then knows what comes next."""
    found = source.names()
    return RenamedSource(source, {name: name for name in dict.fromkeys([*names, *found]) if name in found})


def count_blocks(names: Iterable[str], prefix: str) -> int:
    """How many different numbers follow the prefix: `count_blocks(["a.0.x", "a.1.x"], "a.")` is 2."""
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)}
    return sum(number.isdecimal() for number in numbers)
