"""Reads safetensors files: everything is validated before anything is allocated, nothing is copied.

The file is memory-mapped; tensors are views that keep the map alive, so a source may be dropped as
soon as a model is built. A damaged or lying file gives one `Corrupt` that names it and the tensor.

Source: huggingface/safetensors README (format); the limit of 100 MB is the format's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flux_core.weights.header import Header, parse_header
from flux_core.weights.mapped import Content, open_mapped
from flux_core.weights.tensors import RawTensor, TensorInfo

MAX_HEADER_BYTES = 100_000_000


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
        (header_bytes, header), self._content = open_mapped(path, "safetensors file", _parse)
        self._data_start = 8 + header_bytes
        self._entries = header.entries
        self._names = {name: TensorInfo(e.dtype, e.shape) for name, e in header.entries.items()}
        self.metadata = header.metadata

    def names(self) -> Mapping[str, TensorInfo]:
        return self._names

    def read(self, name: str) -> RawTensor:
        entry = self._entries[name]
        data = np.frombuffer(
            self._content, np.uint8, count=entry.end - entry.begin, offset=self._data_start + entry.begin
        )
        return RawTensor(name, entry.dtype, entry.shape, data)


def _parse(content: Content) -> tuple[int, Header]:
    size = len(content)
    if size < 8:
        raise ValueError(f"it has {size} bytes, fewer than the 8 that say how long its header is")
    header_bytes = int.from_bytes(content[:8], "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise ValueError(f"it claims a header of {header_bytes} bytes, more than {MAX_HEADER_BYTES}")
    if header_bytes > size - 8:
        raise ValueError(f"it claims a header of {header_bytes} bytes, but only {size - 8} follow")
    return header_bytes, parse_header(content[8 : 8 + header_bytes], size - 8 - header_bytes)
