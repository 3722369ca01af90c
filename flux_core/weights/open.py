"""From a path to a source of tensors, whatever kind of file it is."""

from __future__ import annotations

from pathlib import Path

from flux_core.weights.formats.registry import unpacked
from flux_core.weights.safetensors_file import SafetensorsFile
from flux_core.weights.tensors import TensorSource


def open_source(path: Path) -> TensorSource:
    """Opens a weights file; nothing is loaded.

    Raises:
        ModelMissing: There is no such file, or it may not be read.
        Corrupt: It is damaged, or of a kind that is not read; the message says which.
    """
    return unpacked(SafetensorsFile(path))
