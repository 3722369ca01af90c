"""What a checkpoint offers a backend: names, shapes, and bytes that are not yet numbers.

A reader of any file format is a `TensorSource`; a backend turns `RawTensor` bytes into its own arrays
without a detour where it can. `RenamedSource` gives the same bytes under the names a model asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import Corrupt

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
    """dtype name as safetensors spells it ("BF16"), and shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A tensor as it lies in its file.

    Attributes:
        name: As asked for.
        dtype: As in TensorInfo.
        shape: Row-major.
        data: [bytes] little-endian; may be a view of a memory-mapped file, so never write to it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    def to_numpy(self) -> NDArray[np.float32]:
        """The values as float32; a view where the file holds float32.

        Raises:
            Corrupt: The dtype is not a plain floating one.
        """
        if self.dtype == "BF16":
            words: NDArray[Any] = self.data.view("<u2").astype(np.uint32) << np.uint32(16)
            return words.view(np.float32).reshape(self.shape)
        if self.dtype not in _NUMPY_FLOATS:
            raise Corrupt(
                f"Tensor {self.name!r} is stored as {self.dtype}, where F32, F16 or BF16 is needed.",
                "Get the unquantised file.",
            )
        return self.data.view(_NUMPY_FLOATS[self.dtype]).astype(np.float32, copy=False).reshape(self.shape)


class TensorSource(Protocol):
    """Anything that holds named tensors."""

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
        self._source = source
        self._original = dict(original)
        self._names = {new: infos[old] for new, old in original.items()}

    def names(self) -> Mapping[str, TensorInfo]:
        return self._names

    def read(self, name: str) -> RawTensor:
        return replace(self._source.read(self._original[name]), name=name)


def count_blocks(names: Iterable[str], prefix: str) -> int:
    """How many different numbers follow the prefix: `count_blocks(["a.0.x", "a.1.x"], "a.")` is 2."""
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)}
    return sum(number.isdecimal() for number in numbers)
