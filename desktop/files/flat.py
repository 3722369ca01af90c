"""Flat pictures: opened as a document of one layer, and the composite exported with its metadata.

Any picture that flux_core.imaging.codec reads can be opened; colours become sRGB and the camera's turn is
applied. Exports are PNG, JPEG or WebP by the name's ending.
"""

from __future__ import annotations

from pathlib import Path

from desktop.document.state import DocumentState
from desktop.files.ora import Opened


def open_picture(path: Path) -> Opened:
    """Opens a PNG, JPEG, WebP, TIFF, BMP, GIF or AVIF as a document of one layer.

    Raises:
        RequestInvalid: No such file, not a picture, or too large.
        Corrupt: Truncated or damaged.
        OutOfMemory: The machine cannot hold it.
    """
    raise NotImplementedError


def export_picture(state: DocumentState, path: Path, *, quality: int = 92, has_metadata: bool = True) -> None:
    """Writes the composite as PNG, JPEG or WebP, atomically.

    Args:
        state: What to export.
        path: Its ending (.png, .jpg, .jpeg, .webp) says the format. JPEG lies on white.
        quality: 1..100 for JPEG and WebP; WebP at 100 is lossless.
        has_metadata: Whether the recipes of visible generated layers and the mark that a model had a
            part in the picture are written into the file.

    Raises:
        RequestInvalid: Unknown ending, a size the format cannot hold, or a folder that refuses.
        StorageFull: The disk is full; the old file is untouched.
    """
    raise NotImplementedError
