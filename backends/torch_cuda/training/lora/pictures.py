"""A folder of pictures with captions beside them, read, checked and brought to sizes that the model takes.

Everything that can be wrong with a folder is found here, before a weight is read. Pictures keep their
proportions: each is scaled by one factor and loses less than 16 pixels of its length or height.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flux_core.conditioning.pixels import on_white
from flux_core.errors import Corrupt, RequestInvalid
from flux_core.imaging import codec, sizes
from flux_core.request import MAX_PROMPT_CHARS, SIZE_MULTIPLE_PX

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
MAX_PICTURES = 10_000
_MAX_FILE_BYTES = 2**30
_SMALLEST_SHARE = 0.25  # of the wanted area; less would have to be enlarged, or teach at a very small size
_SHOWN = 3

Pixels = NDArray[np.uint8]
Size = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A picture to learn from.

    Attributes:
        name: Of its file.
        pixels: [height, width, 3], sRGB, upright, on white; both sides multiples of 16.
        caption: What the model is told that it shows.
        stamp: Equal only for the same file with the same caption.
    """

    name: str
    pixels: Pixels
    caption: str
    stamp: str

    @property
    def size(self) -> Size:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


def read_folder(
    folder: Path,
    trigger: str,
    size_px: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Example, ...]:
    """Every picture directly in a folder, in the order of their names.

    Args:
        folder: Files a.png, b.jpg, c.webp; words for a.png are in a.txt.
        trigger: The caption of pictures that have none, put before captions that do not have it.
        size_px: Side of the square whose area they are brought to; smaller ones are not enlarged.
        on_progress: Told (done, total); raise from it to stop.

    Raises:
        RequestInvalid: There is no folder, no picture, one that cannot be read or is too small, or one
            without words.
        Corrupt: A picture is damaged.
    """
    paths = _pictures_in(folder)
    captions = {path: caption_of(path, trigger) for path in paths}
    silent = [path.name for path in paths if not captions[path]]
    if silent:
        listed = ", ".join(silent[:_SHOWN]) + (" and more" if len(silent) > _SHOWN else "")
        raise RequestInvalid(
            f"{len(silent)} of {len(paths)} pictures have no caption: {listed}.",
            f"Write {Path(silent[0]).stem}.txt beside each, or give words for all with --trigger.",
        )
    examples: list[Example] = []
    for count, path in enumerate(paths):
        on_progress(count, len(paths))
        examples.append(_example(path, captions[path], size_px))
    on_progress(len(paths), len(paths))
    return tuple(examples)


def caption_of(picture: Path, trigger: str) -> str:
    """The words beside a picture, after the trigger unless they have it; "" if there are neither.

    Raises:
        RequestInvalid: The file of the caption cannot be read, is no text, or is too long.
    """
    path = picture.with_suffix(".txt")
    text = ""
    if path.exists():
        try:
            if path.stat().st_size > 4 * MAX_PROMPT_CHARS:
                raise RequestInvalid(f"The caption {path.name} is too long.", "Write what the picture shows.")
            text = " ".join(path.read_text("utf-8-sig").split())
        except (OSError, UnicodeDecodeError) as err:
            reason = (err.strerror or str(err)).lower() if isinstance(err, OSError) else "it is no UTF-8 text"
            raise RequestInvalid(
                f"The caption {path.name} cannot be read: {reason}.", "Write it again."
            ) from err
        if len(text) > MAX_PROMPT_CHARS:
            raise RequestInvalid(f"The caption {path.name} is too long.", "Write what the picture shows.")
    if not trigger or trigger.lower() in text.lower():
        return text
    return f"{trigger}, {text}" if text else trigger


def bucket(width_px: int, height_px: int, size_px: int) -> Size:
    """The width and height that a picture trains at: at most size_px squared, and never enlarged."""
    factor = min(1.0, math.sqrt(size_px * size_px / (width_px * height_px)))
    return _multiple(width_px * factor), _multiple(height_px * factor)


def stamp_of(examples: tuple[Example, ...]) -> str:
    """Equal only for the same pictures with the same captions at the same sizes."""
    text = "\n".join(f"{each.name} {each.size} {each.stamp}" for each in examples)
    return hashlib.sha256(text.encode()).hexdigest()


def _pictures_in(folder: Path) -> list[Path]:
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file())
    except OSError as err:
        reason = (err.strerror or str(err)).lower()
        raise RequestInvalid(f"The folder {folder} cannot be read: {reason}.", "Check its name.") from err
    paths = [path for path in paths if not path.name.startswith(".")]
    if not paths:
        raise RequestInvalid(
            f"{folder} holds no picture (PNG, JPEG or WebP).",
            "Put pictures into it, with their captions beside them: a.png and a.txt.",
        )
    if len(paths) > MAX_PICTURES:
        raise RequestInvalid(
            f"{folder} holds {len(paths)} pictures, more than the {MAX_PICTURES} that are kept in memory.",
            "Choose the best of them.",
        )
    return paths


def _example(path: Path, caption: str, size_px: int) -> Example:
    data = _bytes_of(path)
    flat = np.asarray(on_white(codec.decode(data, path.name)))
    height, width = flat.shape[:2]
    if width * height < _SMALLEST_SHARE * size_px * size_px or min(width, height) < SIZE_MULTIPLE_PX:
        raise RequestInvalid(
            f"{path.name} is {width} x {height} pixels, too small to train at {size_px}.",
            "Choose a smaller --size, enlarge the picture, or take it out of the folder.",
        )
    fitted = sizes.fit((width, height), bucket(width, height, size_px), "crop")
    pixels = np.ascontiguousarray(sizes.fit_picture(flat, fitted))
    stamp = hashlib.sha256(data + b"\0" + caption.encode()).hexdigest()
    return Example(path.name, pixels, caption, stamp)


def _bytes_of(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise Corrupt(f"{path.name} is larger than 1 GB.", "Use a smaller file.")
        return path.read_bytes()
    except OSError as err:
        reason = (err.strerror or str(err)).lower()
        raise RequestInvalid(f"{path.name} cannot be read: {reason}.", "Check the file.") from err


def _multiple(side_px: float) -> int:
    """Rounded down, so that scaling never enlarges; half a pixel of rounding counts as none."""
    return max(int((side_px + 0.5) // SIZE_MULTIPLE_PX), 1) * SIZE_MULTIPLE_PX
