"""Reads safetensors files: everything is validated before anything is allocated, nothing is copied.

The file is memory-mapped; tensors are views that keep the map alive, so a source may be dropped as
soon as a model is built. A damaged or lying file gives one `Corrupt` that names it and the tensor.

Source: huggingface/safetensors README (format); the limit of 100 MB is the format's own.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flux_core.errors import Corrupt, ModelMissing
from flux_core.weights.header import Header, parse_header
from flux_core.weights.tensors import RawTensor, TensorInfo

MAX_HEADER_BYTES = 100_000_000
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0  # MAP_NORESERVE


class SafetensorsFile:
    """A TensorSource over one file.

    Args:
        path: The file.

    Attributes:
        path: As given.
        metadata: The free text of the header.

    Raises:
        ModelMissing: There is no such file, or it may not be read.
        Corrupt: It is truncated, damaged, or lies about its contents.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            header_bytes, header, self._map = _open(path)
        except OSError as err:
            reason = os.strerror(err.errno) if err.errno else str(err)
            raise ModelMissing(
                f"{path} cannot be read: {reason}.", "Put the file there, or choose another model."
            ) from None
        except ValueError as err:
            raise Corrupt(
                f"{path} is not a sound safetensors file: {err}.", "Download or export it again."
            ) from None
        self._data_start = 8 + header_bytes
        self._entries = header.entries
        self._names = {name: TensorInfo(e.dtype, e.shape) for name, e in header.entries.items()}
        self.metadata = header.metadata

    def names(self) -> Mapping[str, TensorInfo]:
        return self._names

    def read(self, name: str) -> RawTensor:
        entry = self._entries[name]
        data = np.frombuffer(
            self._map, np.uint8, count=entry.end - entry.begin, offset=self._data_start + entry.begin
        )
        return RawTensor(name, entry.dtype, entry.shape, data)


def _open(path: Path) -> tuple[int, Header, mmap.mmap]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            raise ValueError(f"it has {size} bytes, fewer than the 8 that say how long its header is")
        header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > MAX_HEADER_BYTES:
            raise ValueError(f"it claims a header of {header_bytes} bytes, more than {MAX_HEADER_BYTES}")
        if header_bytes > size - 8:
            raise ValueError(f"it claims a header of {header_bytes} bytes, but only {size - 8} follow")
        header = parse_header(file.read(header_bytes), size - 8 - header_bytes)
        return header_bytes, header, _map(file.fileno(), size)


def _map(descriptor: int, size: int) -> mmap.mmap:
    """A private map: its pages may be handed to libraries that insist on writable memory.

    A write would never reach the file, and none happens, so no memory is reserved for copies: Linux would
    refuse to map a file larger than the machine's memory.
    """
    if os.name != "posix":
        return mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY)
    flags = mmap.MAP_PRIVATE | _NO_RESERVE
    return mmap.mmap(descriptor, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
