"""Reads GGUF files: everything is validated before anything is allocated, nothing is copied.

Quantised tensors keep their blocks and carry the name of ggml's type as dtype, which is the name of
the scheme that decodes them; the metadata (architecture, file type) is kept as text.

Source: ggml docs/gguf.md; city96's files for how FLUX.1 lies in it (the names of the published file).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flux_core.weights.gguf_header import parse_gguf
from flux_core.weights.mapped import open_mapped
from flux_core.weights.tensors import RawTensor, TensorInfo


class GgufFile:
    """A TensorSource over one file.

    Args:
        path: The file.

    Attributes:
        path: As given.
        metadata: Texts and numbers of the file's metadata, as text.

    Raises:
        ModelMissing: There is no such file, or it may not be read.
        Corrupt: It is truncated, damaged, lies about its contents, or stores a tensor in a type that is
            not read here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header, self._content = open_mapped(path, "GGUF file", parse_gguf)
        self._entries = header.entries
        self._names = {name: TensorInfo(e.storage.dtype, e.shape) for name, e in header.entries.items()}
        self.metadata = header.metadata

    def names(self) -> Mapping[str, TensorInfo]:
        return self._names

    def read(self, name: str) -> RawTensor:
        entry = self._entries[name]
        data = np.frombuffer(self._content, np.uint8, count=entry.end - entry.begin, offset=entry.begin)
        return RawTensor(name, entry.storage.dtype, entry.shape, data)
