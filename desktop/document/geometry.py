"""Whole-pixel geometry of the document: Extent and Rect.

Coordinates are document pixels, x to the right and y down, with (0, 0) at the canvas' top left
corner; a layer may reach outside, so x and y may be negative. Arrays are [H, W, C] everywhere; this
is the only place where width and height stand side by side.
"""

from __future__ import annotations

from typing import NamedTuple

from flux_core.errors import RequestInvalid
from flux_core.imaging.codec import MAX_PIXELS, MAX_SIDE_PX


class Extent(NamedTuple):
    """A size in pixels."""

    width: int
    height: int


class Rect(NamedTuple):
    """A rectangle of whole pixels; empty if width or height is not positive."""

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """First column to the right of it."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """First row below it."""
        return self.y + self.height

    @property
    def is_empty(self) -> bool:
        return self.width <= 0 or self.height <= 0

    @property
    def extent(self) -> Extent:
        return Extent(self.width, self.height)

    def union(self, other: Rect) -> Rect:
        """The smallest rectangle that holds both; an empty one adds nothing."""
        if self.is_empty:
            return other
        if other.is_empty:
            return self
        x, y = min(self.x, other.x), min(self.y, other.y)
        return Rect(x, y, max(self.right, other.right) - x, max(self.bottom, other.bottom) - y)

    def intersection(self, other: Rect) -> Rect:
        """What both share; EMPTY if nothing."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        shared = Rect(x, y, min(self.right, other.right) - x, min(self.bottom, other.bottom) - y)
        return EMPTY if shared.is_empty else shared

    def translated(self, dx: int, dy: int) -> Rect:
        return Rect(self.x + dx, self.y + dy, self.width, self.height)

    def inflated(self, margin_px: int) -> Rect:
        """Grown by `margin_px` on every side."""
        return Rect(
            self.x - margin_px, self.y - margin_px, self.width + 2 * margin_px, self.height + 2 * margin_px
        )

    def slices_in(self, outer: Rect) -> tuple[slice, slice]:
        """Rows and columns of this rectangle in an array [H, W, ...] that covers `outer`."""
        top, left = self.y - outer.y, self.x - outer.x
        return slice(top, top + self.height), slice(left, left + self.width)


EMPTY = Rect(0, 0, 0, 0)


def whole(extent: Extent) -> Rect:
    """The rectangle of a canvas of this size."""
    return Rect(0, 0, extent.width, extent.height)


def check_canvas_size(width: int, height: int) -> Extent:
    """Returns the size if a document may have it.

    Raises:
        RequestInvalid: A side is below 1 or above MAX_SIDE_PX, or there are more than MAX_PIXELS.
    """
    if width < 1 or height < 1:
        raise RequestInvalid(
            f"A picture cannot be {width} x {height} pixels.", "Choose at least 1 pixel for each side."
        )
    if max(width, height) > MAX_SIDE_PX or width * height > MAX_PIXELS:
        raise RequestInvalid(
            f"A picture of {width} x {height} pixels is too large.",
            f"At most {MAX_SIDE_PX} pixels a side and {MAX_PIXELS // 1_000_000} megapixels are possible.",
        )
    return Extent(width, height)
