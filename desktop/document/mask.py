"""Grey masks, and the one place that says what their values mean.

Selection (inpaint mask): 255 = repaint, 0 = keep, between = partly. Layer mask: 255 = show, 0 = hide.
Both are TileRasters with one channel; the value outside their tiles is their `fill`.
"""

from __future__ import annotations

import numpy as np

from desktop.document.geometry import Rect
from desktop.document.tiles import TileRaster
from flux_core.imaging import masks

REPAINT = 255
KEEP = 0
SHOW = 255
HIDE = 0


def nothing_selected() -> TileRaster:
    """A selection that keeps everything."""
    return TileRaster(1, KEEP)


def show_all() -> TileRaster:
    """A layer mask that hides nothing."""
    return TileRaster(1, SHOW)


def hide_all() -> TileRaster:
    """A layer mask that hides everything."""
    return TileRaster(1, HIDE)


def select_rect(rect: Rect, value: int = REPAINT) -> TileRaster:
    """A selection of one rectangle."""
    return TileRaster.from_array(np.full((rect.height, rect.width), value, np.uint8), rect.x, rect.y)


def is_empty(selection: TileRaster, canvas: Rect) -> bool:
    """True if no pixel of the canvas is to be repainted."""
    return not selection.read(canvas).any()


def grown(selection: TileRaster, radius_px: int, canvas: Rect) -> TileRaster:
    """Grown by `radius_px` (shrunk if negative) with round corners; nothing outside the canvas."""
    grey = selection.read(canvas)
    changed = masks.grown(grey, radius_px) if radius_px >= 0 else 255 - masks.grown(255 - grey, -radius_px)
    return TileRaster.from_array(changed, canvas.x, canvas.y)
