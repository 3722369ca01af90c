"""Small pictures of layers and masks for the layer list.

They are made from a sparse sample of the tiles, which takes a millisecond even for a large layer, and
are kept as long as the layer's pixels are the same object.
"""

from __future__ import annotations

import weakref

import numpy as np
from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QColor, QImage, QPainter, QPixmap

from desktop.document.geometry import Rect
from desktop.document.layers import Layer, RasterLayer
from desktop.document.tiles import TILE_PX, TileRaster

THUMB_PX = 36
_SCALE = 2  # sampled at twice the size, so that it is sharp on a HiDPI screen


class Thumbnails:
    """Thumbnails of the rasters that are alive."""

    def __init__(self) -> None:
        self._cache: weakref.WeakKeyDictionary[TileRaster, tuple[Rect, QPixmap]] = weakref.WeakKeyDictionary()

    def of(self, layer: Layer, canvas: Rect) -> QPixmap:
        """The layer's pixels as they lie on the canvas, without its mask."""
        return self._get(layer.raster if isinstance(layer, RasterLayer) else TileRaster(), canvas)

    def of_mask(self, layer: Layer, canvas: Rect) -> QPixmap | None:
        """The layer's mask, or None if it has none."""
        return None if layer.mask is None else self._get(layer.mask, canvas)

    def _get(self, raster: TileRaster, canvas: Rect) -> QPixmap:
        cached = self._cache.get(raster)
        if cached is not None and cached[0] == canvas:
            return cached[1]
        pixmap = render_thumbnail(raster, canvas)
        self._cache[raster] = (canvas, pixmap)
        return pixmap


def render_thumbnail(raster: TileRaster, canvas: Rect) -> QPixmap:
    """A square picture of THUMB_PX (at twice the density) with the canvas fitted into it."""
    side = THUMB_PX * _SCALE
    step = max(1, max(canvas.width, canvas.height) // (2 * side))
    sample = _sample(raster, canvas, step)
    if raster.channels == 4:
        form = QImage.Format.Format_RGBA8888
    else:
        form = QImage.Format.Format_Grayscale8
    image = QImage(sample.data, sample.shape[1], sample.shape[0], sample.strides[0], form)
    image = image.scaled(
        QSize(side, side), Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
    )
    pixmap = QPixmap(side, side)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    x, y = (side - image.width()) // 2, (side - image.height()) // 2
    if raster.channels == 4:
        _draw_checker(painter, x, y, image.width(), image.height())
    painter.drawImage(x, y, image)
    painter.end()
    pixmap.setDevicePixelRatio(_SCALE)
    return pixmap


def _sample(raster: TileRaster, canvas: Rect, step: int) -> np.ndarray:
    """Every `step`-th pixel of the canvas: uint8 [ceil(H/step), ceil(W/step), 4] or [.., ..]."""
    rows, columns = -(-canvas.height // step), -(-canvas.width // step)
    shape = (rows, columns, 4) if raster.channels == 4 else (rows, columns)
    out = np.full(shape, raster.fill, np.uint8)
    for key, tile in raster.tiles.items():
        shared = canvas.intersection(Rect(key.column * TILE_PX, key.row * TILE_PX, TILE_PX, TILE_PX))
        if shared.is_empty:
            continue
        row0, column0 = -(-shared.y // step), -(-shared.x // step)
        y0, x0 = row0 * step - key.rect.y, column0 * step - key.rect.x
        part = tile[y0 : shared.bottom - key.rect.y : step, x0 : shared.right - key.rect.x : step]
        out[row0 : row0 + part.shape[0], column0 : column0 + part.shape[1]] = part
    return np.ascontiguousarray(out)


def _draw_checker(painter: QPainter, x: int, y: int, width: int, height: int, cell: int = 8) -> None:
    painter.fillRect(x, y, width, height, QColor("#8f8f8f"))
    for row in range(0, height, cell):
        for column in range(cell * (row // cell % 2), width, 2 * cell):
            w, h = min(cell, width - column), min(cell, height - row)
            painter.fillRect(x + column, y + row, w, h, QColor("#7a7a7a"))
