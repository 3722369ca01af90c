"""Project files: OpenRaster that Krita and GIMP open, with our own data beside it in the same ZIP.

The standard part alone gives the right picture in any program: masks are applied to the layers' PNGs.
The part under `flowbrush/` keeps what the standard has no words for (masks, recipes, crops, the
selection) and is used only while it still describes the standard part, which is checked by hash; if
another program has written the file since, its version counts and the report says so.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from desktop.document.state import DocumentState
from desktop.document.tiles import Pixels
from desktop.files import archive, disk
from desktop.files.archive import HINT, ZipSource
from desktop.files.own_part import DOCUMENT_NAME, DocumentPart, OwnWriter, parse_document, read_own
from desktop.files.png_cache import PngCache
from desktop.files.rasters import PixelBudget
from desktop.files.standard_part import StandardWriter, merged_picture, read_standard
from flux_core.errors import Corrupt
from flux_core.imaging.codec import decode
from flux_core.storage import write_atomically

MIMETYPE = "image/openraster"
THUMBNAIL_PX = 256


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
    """Writes a project atomically and keeps the versions before it as backups; any thread may call it.

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
    encoder = (cache or PngCache()).start()
    standard = StandardWriter(state, active_id, encoder)
    stack = standard.stack_xml()
    own = OwnWriter(state, active_id, encoder)
    hashes = {"stack.xml": hashlib.sha256(stack).hexdigest()}
    hashes |= {name: encoded.sha256 for name, encoded in standard.parts.items()}
    document = own.document(hashes)
    merged = merged_picture(state, encoder)
    thumbnail = encoder.encode(
        "thumbnail",
        (state.layers, state.size),
        lambda: (_thumbnail(decode(merged.png, "the merged picture")), state.canvas),
    )
    encoder.finish()
    parts = {"stack.xml": stack, "Thumbnails/thumbnail.png": thumbnail.png, "mergedimage.png": merged.png}
    parts |= {name: encoded.png for name, encoded in standard.parts.items()}
    parts |= own.parts
    parts[DOCUMENT_NAME] = document.model_dump_json().encode()

    def write(file: BinaryIO) -> None:
        archive.write_zip(file, MIMETYPE, parts)
        disk.back_up(path)  # only once there was room for all of the new file

    write_atomically(path, write)
    return tuple(standard.warnings)


def open_ora(path: Path, cache: PngCache | None = None) -> Opened:
    """Reads a project or any other program's OpenRaster file.

    Args:
        path: The .ora file.
        cache: Filled with the layers as they lie in the file, so that the first save is quick.

    Raises:
        RequestInvalid: The file does not exist or may not be read.
        Corrupt: It is no OpenRaster file, is damaged, or tries something that no honest file does.
        OutOfMemory: It holds more pixels than can be held.
    """
    with archive.open_zip(path) as source:
        warnings = _check_mimetype(source, path.name)
        if "stack.xml" not in source.names:
            raise Corrupt(f"{path.name} has no stack.xml, so it is no OpenRaster file.", HINT)
        try:
            document = _own_document(source, path.name, warnings)
            if document is not None:
                state = read_own(document, source, path.name, PixelBudget(cache))
                return Opened(state, document.active_id, tuple(warnings))
        except Corrupt as err:
            warnings.append(
                f"Masks and recipes could not be read; the layers look as other programs see them. {err}"
            )
        state, active_id, notes = read_standard(source, path.name, PixelBudget(cache))
        return Opened(state, active_id, (*warnings, *notes))


def _check_mimetype(source: ZipSource, title: str) -> list[str]:
    if "mimetype" not in source.names:
        return [f"{title} does not say that it is an OpenRaster file."]
    mimetype = source.read("mimetype")[:100].strip()
    if mimetype != MIMETYPE.encode():
        raise Corrupt(f"{title} is no OpenRaster file.", "Open it in the program that wrote it.")
    return []


def _own_document(source: ZipSource, title: str, warnings: list[str]) -> DocumentPart | None:
    """Our description if there is one that still fits the standard part."""
    if DOCUMENT_NAME not in source.names:
        return None
    document = parse_document(source.read(DOCUMENT_NAME), title)
    expected = document.standard
    present = {name for name in source.names if name == "stack.xml" or name.startswith("data/")}
    is_same = present == expected.keys() and all(
        hashlib.sha256(source.read(name)).hexdigest() == expected[name] for name in present
    )
    if is_same:
        return document
    warnings.append(
        f"Another program has changed {title}; its layers are used, without earlier masks and recipes."
    )
    return None


def _thumbnail(pixels: Pixels) -> Pixels:
    """At most 256 x 256, aspect kept."""
    small = Image.fromarray(pixels).convert("RGBa")  # premultiplied, so that clear pixels lend no colour
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), reducing_gap=2.0)
    return np.array(small.convert("RGBA"))
