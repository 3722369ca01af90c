"""Where the model looks: boxes, and sizes whose scale is exact.

The model paints a piece of the picture at a size of its own. The piece is chosen so that both sides
are scaled by exactly the same factor, because a stretch of half a percent already shifts an edge by
a pixel. Everything here is whole numbers, so the way there and the way back cancel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flux_core.request import SIZE_MULTIPLE_PX

_WASTE_WEIGHT = 1.0  # price of looking at more of the picture than asked, per log area
_DETAIL_WEIGHT = 0.5  # price of painting with fewer pixels than the model could, per log area


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of whole pixels; x1 and y1 are just outside. May reach beyond a picture."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    def contains(self, other: Box) -> bool:
        """Whether `other` lies inside."""
        return self.x0 <= other.x0 and self.y0 <= other.y0 and other.x1 <= self.x1 and other.y1 <= self.y1

    def clipped(self, width_px: int, height_px: int) -> Box:
        """The part inside a picture of this size."""
        return Box(max(self.x0, 0), max(self.y0, 0), min(self.x1, width_px), min(self.y1, height_px))

    def padded(self, margin_px: int) -> Box:
        """The box with `margin_px` more on every side."""
        return Box(self.x0 - margin_px, self.y0 - margin_px, self.x1 + margin_px, self.y1 + margin_px)


@dataclass(frozen=True, slots=True)
class WorkSize:
    """What the model can paint.

    Attributes:
        best_area_px: Area it paints best; never exceeded.
        min_side_px, max_side_px: Limits of each side; reached by looking at more, never by stretching.
        max_upscale: Largest factor by which a piece is enlarged for the model.
    """

    best_area_px: int
    min_side_px: int
    max_side_px: int
    max_upscale: float = 2.0


def fit_box(core: Box, context_px: int, picture: tuple[int, int], work: WorkSize) -> tuple[Box, int, int]:
    """Chooses the piece of the picture to send and the size to send it at.

    Args:
        core: What will be repainted, inside the picture.
        context_px: How much to show around it on each side, where the picture has it.
        picture: Width and height of the picture.
        work: What the model can paint.

    Returns:
        (box, width, height): The box contains `core` and is shifted to stay inside the picture; it
        reaches beyond only where the picture is smaller than the box. width / box.width equals
        height / box.height exactly and is at most `work.max_upscale`; both are multiples of 16.
    """
    wanted = core.padded(context_px).clipped(*picture)
    a, b = _side_ratios(work)  # sides of the working size in units of 16 px
    divisor = np.gcd(a, b)
    a_unit, b_unit = a // divisor, b // divisor
    units = np.maximum(-(-wanted.width // a_unit), -(-wanted.height // b_unit))
    units = np.maximum(units, np.ceil(SIZE_MULTIPLE_PX * divisor / work.max_upscale).astype(np.int64))
    waste = np.log((a_unit * units) * (b_unit * units) / (wanted.width * wanted.height))
    detail = np.log(work.best_area_px / (a * b * SIZE_MULTIPLE_PX**2))
    best = int(np.argmin(_WASTE_WEIGHT * waste + _DETAIL_WEIGHT * np.maximum(detail, 0.0)))
    width, height = int(a_unit[best] * units[best]), int(b_unit[best] * units[best])
    x0 = _placed(core.x0, core.x1, width, picture[0])
    y0 = _placed(core.y0, core.y1, height, picture[1])
    box = Box(x0, y0, x0 + width, y0 + height)
    return box, int(a[best]) * SIZE_MULTIPLE_PX, int(b[best]) * SIZE_MULTIPLE_PX


def crop(pixels: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """The piece [box.height, box.width, ...]; outside the picture its edge is repeated."""
    height, width = pixels.shape[:2]
    inside = box.clipped(width, height)
    piece = pixels[inside.y0 : inside.y1, inside.x0 : inside.x1]
    if inside == box:
        return piece
    rows = (inside.y0 - box.y0, box.y1 - inside.y1)
    columns = (inside.x0 - box.x0, box.x1 - inside.x1)
    return np.pad(piece, (rows, columns, (0, 0))[: pixels.ndim], mode="edge")


def resize(
    pixels: NDArray[np.uint8],
    width_px: int,
    height_px: int,
    source: tuple[float, float, float, float] | None = None,
) -> NDArray[np.uint8]:
    """Lanczos, with the centres of both grids aligned: no shift in either direction.

    Args:
        pixels: [h, w] or [h, w, 3].
        width_px: Width of the result.
        height_px: Height of the result.
        source: The part (x0, y0, x1, y1) of `pixels` to scale, in pixels and fractions of them; the
            result is the same piece of what scaling everything would have given.
    """
    if source is None and pixels.shape[:2] == (height_px, width_px):
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.array(image.resize((width_px, height_px), Image.Resampling.LANCZOS, box=source))


def _side_ratios(work: WorkSize) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every working size there is, as two lists of sides in units of 16 px."""
    low = -(-work.min_side_px // SIZE_MULTIPLE_PX)
    sides = np.arange(low, max(work.max_side_px // SIZE_MULTIPLE_PX, low) + 1, dtype=np.int64)
    a, b = (grid.ravel() for grid in np.meshgrid(sides, sides, indexing="ij"))
    fits = a * b * SIZE_MULTIPLE_PX**2 <= max(work.best_area_px, (low * SIZE_MULTIPLE_PX) ** 2)
    return a[fits], b[fits]


def _placed(low: int, high: int, length: int, limit: int) -> int:
    """Start of an interval of `length` around [low, high), inside [0, limit) if it fits there."""
    if length >= limit:
        return -((length - limit) // 2)
    return min(max((low + high - length) // 2, 0), limit - length)
