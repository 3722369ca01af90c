"""Writes a safetensors file tensor by tensor, so that a file may be larger than memory.

Shapes and dtypes are known before a number is computed, so the header comes first and the data follows
as it is made. The file appears under its name only when it is whole.

Source: huggingface/safetensors README (format).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import Internal
from flux_core.storage import write_atomically
from flux_core.weights.header import shown
from flux_core.weights.tensors import BITS_OF_DTYPE

_ALIGNMENT = 8  # bytes: where the data begins


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor that will be written: its name, its dtype as safetensors spells it, its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * BITS_OF_DTYPE[self.dtype] // 8


def write_safetensors(
    path: Path, planned: Sequence[Planned], data: Iterable[NDArray[Any]], metadata: Mapping[str, str]
) -> int:
    """Writes the file.

    Args:
        path: Destination; replaced in one step.
        planned: Every tensor, in the order of `data`.
        data: The tensors' numbers in the dtypes and shapes that were planned, little-endian.
        metadata: Free text for the header.

    Returns:
        Bytes written.

    Raises:
        StorageFull: The disk is full; whatever was at `path` is untouched.
        RequestInvalid: The folder is missing or may not be written.
        Internal: `data` does not keep to the plan.
    """
    header = _header(planned, metadata)

    def write(file: BinaryIO) -> None:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for tensor, array in zip(planned, data, strict=True):
            if array.nbytes != tensor.num_bytes:
                what = (
                    f"{shown(tensor.name)} has {array.nbytes} bytes and was planned with {tensor.num_bytes}"
                )
                raise Internal(f"{what}.", "Please report this.")
            file.write(np.ascontiguousarray(array).data)

    write_atomically(path, write)
    return 8 + len(header) + sum(tensor.num_bytes for tensor in planned)


def _header(planned: Sequence[Planned], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for tensor in planned:
        end = at + tensor.num_bytes
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-(len(text) + 8) % _ALIGNMENT)
