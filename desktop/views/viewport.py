"""Where the picture lies in the view: one zoom, one offset, and the arithmetic between the two spaces.

The view is measured in device pixels, so 100 % means one picture pixel on one screen pixel on every
display. A viewport is a value; panning and zooming give a new one, which makes each rule testable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

MIN_ZOOM = 1 / 64
MAX_ZOOM = 64.0
_STOPS = tuple(2.0**k for k in range(-6, 7)) + tuple(1.5 * 2.0**k for k in range(-6, 6))


@dataclass(frozen=True, slots=True)
class Viewport:
    """A view on the canvas.

    Attributes:
        zoom: Device pixels per canvas pixel.
        left, top: Where the canvas' origin lies, in device pixels from the view's corner.
    """

    zoom: float = 1.0
    left: float = 0.0
    top: float = 0.0

    def to_canvas(self, x: float, y: float) -> tuple[float, float]:
        """Device pixels in the view -> canvas pixels."""
        return (x - self.left) / self.zoom, (y - self.top) / self.zoom

    def to_view(self, x: float, y: float) -> tuple[float, float]:
        """Canvas pixels -> device pixels in the view."""
        return x * self.zoom + self.left, y * self.zoom + self.top

    @property
    def is_smooth(self) -> bool:
        """Whether pixels are blended when drawn: below 100 %, and where they could not be equally large."""
        return self.zoom < 2 and self.zoom != 1

    def panned(self, dx: float, dy: float) -> Self:
        return replace(self, left=self.left + dx, top=self.top + dy)

    def zoomed(self, zoom: float, x: float, y: float) -> Self:
        """At another zoom, with the canvas point under (x, y) of the view staying there."""
        zoom = min(max(zoom, MIN_ZOOM), MAX_ZOOM)
        canvas_x, canvas_y = self.to_canvas(x, y)
        return replace(self, zoom=zoom, left=x - canvas_x * zoom, top=y - canvas_y * zoom)

    def stepped(self, direction: int, x: float, y: float) -> Self:
        """One stop in (+1) or out (-1), about (x, y)."""
        stops = sorted(_STOPS)
        near = self.zoom * 1.01 if direction > 0 else self.zoom / 1.01
        beyond = [s for s in stops if (s > near if direction > 0 else s < near)]
        if not beyond:
            return self
        return self.zoomed(min(beyond) if direction > 0 else max(beyond), x, y)

    def snapped(self) -> Self:
        """With the canvas' origin on a whole device pixel, so that 100 % is sharp."""
        return replace(self, left=float(math.floor(self.left + 0.5)), top=float(math.floor(self.top + 0.5)))

    @classmethod
    def fitting(cls, canvas_px: tuple[int, int], view_px: tuple[int, int], margin_px: int = 0) -> Self:
        """The whole canvas, centred; beyond 200 % only whole factors, so that every pixel is as large."""
        width, height = canvas_px
        room_w = max(1, view_px[0] - 2 * margin_px)
        room_h = max(1, view_px[1] - 2 * margin_px)
        zoom = min(room_w / max(1, width), room_h / max(1, height))
        zoom = min(max(float(math.floor(zoom)) if zoom > 2 else zoom, MIN_ZOOM), MAX_ZOOM)
        return cls(zoom, (view_px[0] - width * zoom) / 2, (view_px[1] - height * zoom) / 2).snapped()

    def kept_in_sight(self, canvas_px: tuple[int, int], view_px: tuple[int, int], keep_px: int = 64) -> Self:
        """Moved so that at least `keep_px` of the picture stay visible on each axis."""
        width, height = canvas_px[0] * self.zoom, canvas_px[1] * self.zoom
        keep_x, keep_y = min(keep_px, width), min(keep_px, height)
        left = min(max(self.left, keep_x - width), view_px[0] - keep_x)
        top = min(max(self.top, keep_y - height), view_px[1] - keep_y)
        return replace(self, left=left, top=top)
