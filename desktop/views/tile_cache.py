"""The picture and the mask as screen tiles, in the size in which they are shown.

A tile keeps its last look until a new one is made, so a repaint under time pressure shows yesterday's
tile and not a hole. Zoomed out, tiles are kept halved and halved again, which is sharper and faster than
scaling the full ones at every paint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QColor, QImage

from desktop.document.geometry import Rect
from desktop.document.tiles import TILE_PX, TileKey, TileRaster, keys_in

MAX_LEVEL = 6
_MAX_TILES = 2048


@dataclass(slots=True)
class _Tile:
    image: QImage
    is_fresh: bool = True


class TileCache:
    """Tiles at one level of detail; level k is 2**-k of full size.

    Args:
        render: Makes the full-size picture of a tile; None for one that is empty.
    """

    def __init__(self, render: Callable[[TileKey, int], QImage | None]) -> None:
        self._render = render
        self._level = 0
        self._tiles: dict[TileKey, _Tile] = {}

    def set_level(self, level: int) -> None:
        """Chooses the level of detail; another one starts afresh."""
        if level != self._level:
            self._level = level
            self._tiles.clear()

    @property
    def level(self) -> int:
        return self._level

    def invalidate(self, rect: Rect) -> None:
        """The picture differs in `rect`; old looks stay until they are made again."""
        if len(self._tiles) < rect.width * rect.height // TILE_PX**2:
            for key, tile in self._tiles.items():
                if not key.rect.intersection(rect).is_empty:
                    tile.is_fresh = False
            return
        for key in keys_in(rect):
            found = self._tiles.get(key)
            if found is not None:
                found.is_fresh = False

    def clear(self) -> None:
        self._tiles.clear()

    def is_fresh(self, key: TileKey) -> bool:
        tile = self._tiles.get(key)
        return tile is not None and tile.is_fresh

    def stale(self, key: TileKey) -> QImage | None:
        """What is there, fresh or not."""
        tile = self._tiles.get(key)
        return None if tile is None else tile.image

    def get(self, key: TileKey) -> QImage:
        """The tile, made now if need be; a null image where it is empty."""
        tile = self._tiles.get(key)
        if tile is None or not tile.is_fresh:
            image = self._render(key, self._level)
            tile = _Tile(QImage() if image is None else image)
            if len(self._tiles) >= _MAX_TILES:
                self._tiles.clear()
            self._tiles[key] = tile
        return tile.image


def level_for(zoom: float) -> int:
    """The level whose tiles are shrunk by less than half when drawn at `zoom`."""
    level = 0
    while level < MAX_LEVEL and zoom * 2 ** (level + 1) <= 1.0001:
        level += 1
    return level


def shrunk(image: QImage, part: QSize, level: int) -> QImage:
    """The upper left `part` of a tile at 2**-level of its size, every source pixel counted."""
    if image.isNull():
        return image
    if part != image.size():
        image = image.copy(0, 0, part.width(), part.height())
    if level == 0:
        return image
    size = QSize(_shrunk(part.width(), level), _shrunk(part.height(), level))
    return image.scaled(
        size, Qt.AspectRatioMode.IgnoreAspectRatio, Qt.TransformationMode.SmoothTransformation
    )


def tint(selection: TileRaster, rect: Rect, level: int, color: QColor, strength: float) -> QImage | None:
    """The mask in `rect` (part of one tile) as a see-through colour; None where nothing is selected."""
    grey = _grey(selection, rect, level, 0)
    return None if grey is None else _colored(grey.astype(np.float32) / 255 * strength, color)


def outline(selection: TileRaster, rect: Rect, level: int, color: QColor) -> QImage | None:
    """A line just inside the edge of the mask in `rect`; None where there is none."""
    grey = _grey(selection, rect, level, 1)
    if grey is None:
        return None
    solid = grey >= 128
    is_deep = solid[:-2, 1:-1] & solid[2:, 1:-1] & solid[1:-1, :-2] & solid[1:-1, 2:]
    edge = solid[1:-1, 1:-1] & ~is_deep
    return _colored(edge.astype(np.float32), color) if edge.any() else None


def _grey(selection: TileRaster, rect: Rect, level: int, border: int) -> np.ndarray | None:
    """Samples of the mask [h + 2 border, w + 2 border], one for each pixel of the shrunk tile."""
    if not any(key in selection.tiles for key in keys_in(rect)):
        return None
    step = 1 << level
    rows = _shrunk(rect.height, level) + 2 * border
    columns = _shrunk(rect.width, level) + 2 * border
    area = Rect(rect.x - border * step, rect.y - border * step, columns * step, rows * step)
    return selection.read(area)[::step, ::step]


def _shrunk(side: int, level: int) -> int:
    return max(1, side >> level)


def _colored(alpha: np.ndarray, color: QColor) -> QImage:
    """Premultiplied colour; alpha: float32 [H, W] in [0, 1]."""
    height, width = alpha.shape
    image = QImage(width, height, QImage.Format.Format_ARGB32_Premultiplied)
    pixels = np.frombuffer(image.bits(), np.uint8).reshape(height, image.bytesPerLine() // 4, 4)[:, :width]
    for channel, value in enumerate((color.blue(), color.green(), color.red(), 255)):  # BGRA in memory
        pixels[..., channel] = np.rint(alpha * value)
    return image
