"""Project files: OpenRaster that Krita and GIMP open, with our own data beside it in the same ZIP.

The standard part alone gives the right picture in any program: masks are applied to the layers' PNGs.
The part under `flowbrush/` keeps what the standard has no words for (masks, recipes, crops, the
selection) and is used only while it still describes the standard part, which is checked by hash; if
another program has written the file since, its version counts and the report says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from desktop.document.state import DocumentState
from desktop.files.png_cache import PngCache


@dataclass(frozen=True, slots=True)
class Opened:
    """A project as it was read.

    Attributes:
        state: The document.
        active_id: The layer that was active.
        warnings: What could not be kept or looks different, one English sentence each; usually empty.
    """

    state: DocumentState
    active_id: str | None
    warnings: tuple[str, ...]


def save_ora(
    state: DocumentState, path: Path, *, active_id: str | None = None, cache: PngCache | None = None
) -> tuple[str, ...]:
    """Writes a project atomically and keeps the version before it as a backup; any thread may call it.

    Args:
        state: What to save; call `document.mark_saved(state)` afterwards.
        path: The .ora file.
        active_id: The active layer.
        cache: Pass the same one at every save of a document and only changed layers are encoded again.

    Returns:
        What the standard part cannot show to other programs, one English sentence each.

    Raises:
        StorageFull: The disk is full; the old file is untouched.
        RequestInvalid: The folder is missing or may not be written.
    """
    raise NotImplementedError


def open_ora(path: Path, cache: PngCache | None = None) -> Opened:
    """Reads a project or any other program's OpenRaster file.

    Raises:
        RequestInvalid: The file does not exist or may not be read.
        Corrupt: It is no OpenRaster file, is damaged, or tries something that no honest file does.
    """
    raise NotImplementedError
