"""Pixels as a sparse dictionary of 256 px tiles that are shared, never changed.

A TileRaster is immutable: painting makes a new one that shares every untouched tile, so a snapshot for
undo, autosave or a job is only a reference. Colour is straight (not premultiplied) RGBA, so loading and
saving lose nothing, not even the colour under full transparency; masks are grey. Tiles that hold nothing
but the fill value are not stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from desktop.document.geometry import EMPTY, Rect

TILE_PX = 256
Pixels = npt.NDArray[np.uint8]  # [H, W, 4] straight RGBA, or [H, W] grey
Channels = Literal[1, 4]


class TileKey(NamedTuple):
    """Column and row of a tile; tile (0, 0) begins at document pixel (0, 0)."""

    column: int
    row: int

    @property
    def rect(self) -> Rect:
        return Rect(self.column * TILE_PX, self.row * TILE_PX, TILE_PX, TILE_PX)


def keys_in(rect: Rect) -> Iterator[TileKey]:
    """Every tile that touches `rect`, row by row."""
    if rect.is_empty:
        return
    for row in range(rect.y // TILE_PX, (rect.bottom - 1) // TILE_PX + 1):
        for column in range(rect.x // TILE_PX, (rect.right - 1) // TILE_PX + 1):
            yield TileKey(column, row)


class TileRaster:
    """An unbounded, immutable picture that is `fill` wherever no tile says otherwise.

    Args:
        channels: 4 for straight RGBA, 1 for grey.
        fill: Value in [0, 255] of every channel outside the tiles.
        tiles: uint8 [256, 256, 4] or [256, 256] each; they become read-only.
    """

    __slots__ = ("__weakref__", "channels", "fill", "tiles")

    channels: Channels
    fill: int
    tiles: Mapping[TileKey, Pixels]

    def __init__(
        self, channels: Channels = 4, fill: int = 0, tiles: Mapping[TileKey, Pixels] | None = None
    ) -> None:
        self.channels = channels
        self.fill = fill
        kept = dict(tiles or {})
        for tile in kept.values():
            tile.flags.writeable = False
        self.tiles = MappingProxyType(kept)

    @classmethod
    def from_array(cls, pixels: Pixels, x: int = 0, y: int = 0, fill: int = 0) -> TileRaster:
        """A raster of `pixels` ([H, W, 4] or [H, W], copied) with its top left corner at (x, y)."""
        channels: Channels = 4 if pixels.ndim == 3 else 1
        return cls(channels, fill).with_pixels(pixels, x, y)

    @property
    def bounds(self) -> Rect:
        """The smallest rectangle of whole tiles that holds every tile; EMPTY if there is none."""
        if not self.tiles:
            return EMPTY
        columns = [key.column for key in self.tiles]
        rows = [key.row for key in self.tiles]
        left, top = min(columns), min(rows)
        return Rect(
            left * TILE_PX,
            top * TILE_PX,
            (max(columns) - left + 1) * TILE_PX,
            (max(rows) - top + 1) * TILE_PX,
        )

    @property
    def content_bounds(self) -> Rect:
        """The smallest rectangle that holds every pixel that differs from `fill`."""
        found = EMPTY
        for key, tile in self.tiles.items():
            if self.channels == 4:  # four equal bytes at once
                differs = np.ascontiguousarray(tile).view(np.uint32)[..., 0] != self.fill * 0x01010101
            else:
                differs = tile != self.fill
            rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
            if rows.size:
                x, y = int(columns[0]), int(rows[0])
                inner = Rect(x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1)
                found = found.union(inner.translated(key.rect.x, key.rect.y))
        return found

    def tile(self, key: TileKey) -> Pixels:
        """The tile at `key`, read-only; a new tile of `fill` where none is stored."""
        tile = self.tiles.get(key)
        return self.blank_tile() if tile is None else tile

    def blank_tile(self) -> Pixels:
        """A new, writable tile of `fill`: uint8 [256, 256, 4] or [256, 256]."""
        shape = (TILE_PX, TILE_PX, 4) if self.channels == 4 else (TILE_PX, TILE_PX)
        return np.full(shape, self.fill, np.uint8)

    def read(self, rect: Rect) -> Pixels:
        """A copy of the pixels in `rect`: uint8 [H, W, 4] or [H, W]."""
        shape = (rect.height, rect.width, 4) if self.channels == 4 else (rect.height, rect.width)
        out = np.full(shape, self.fill, np.uint8)
        for key in keys_in(rect):
            tile = self.tiles.get(key)
            if tile is not None:
                shared = rect.intersection(key.rect)
                out[shared.slices_in(rect)] = tile[shared.slices_in(key.rect)]
        return out

    def with_pixels(self, pixels: Pixels, x: int, y: int) -> TileRaster:
        """This raster with `pixels` ([H, W, 4] or [H, W]) put at (x, y), replacing what was there."""
        rect = Rect(x, y, pixels.shape[1], pixels.shape[0])
        changes: dict[TileKey, Pixels] = {}
        for key in keys_in(rect):
            shared = rect.intersection(key.rect)
            tile = self.blank_tile() if shared == key.rect else self.tile(key).copy()
            tile[shared.slices_in(key.rect)] = pixels[shared.slices_in(rect)]
            changes[key] = tile
        return self.with_tiles(changes)

    def with_tiles(self, changes: Mapping[TileKey, Pixels]) -> TileRaster:
        """This raster with these tiles in place of the old ones; blank ones are dropped."""
        tiles = dict(self.tiles)
        for key, tile in changes.items():
            if self._is_blank(tile):
                tiles.pop(key, None)
            else:
                tiles[key] = tile
        return TileRaster(self.channels, self.fill, tiles)

    def cropped(self, rect: Rect) -> TileRaster:
        """Only what lies in `rect`; everything else is `fill`. Tiles that lie inside are shared."""
        kept: dict[TileKey, Pixels] = {}
        for key, tile in self.tiles.items():
            shared = rect.intersection(key.rect)
            if shared == key.rect:
                kept[key] = tile
            elif not shared.is_empty:
                part = self.blank_tile()
                part[shared.slices_in(key.rect)] = tile[shared.slices_in(key.rect)]
                kept[key] = part
        return TileRaster(self.channels, self.fill).with_tiles(kept)

    def shifted(self, dx: int, dy: int) -> TileRaster:
        """Moved by whole pixels; tiles are shared if both distances are multiples of 256."""
        columns, left = divmod(dx, TILE_PX)
        rows, top = divmod(dy, TILE_PX)
        if left == 0 and top == 0:
            moved = {TileKey(k.column + columns, k.row + rows): t for k, t in self.tiles.items()}
            return TileRaster(self.channels, self.fill, moved)
        changes: dict[TileKey, Pixels] = {}
        for key, tile in self.tiles.items():
            source = key.rect.translated(dx, dy)
            for target in keys_in(source):
                if target not in changes:
                    changes[target] = self.blank_tile()
                shared = source.intersection(target.rect)
                changes[target][shared.slices_in(target.rect)] = tile[shared.slices_in(source)]
        return TileRaster(self.channels, self.fill).with_tiles(changes)

    def inverted(self) -> TileRaster:
        """255 minus every value, also outside the tiles."""
        tiles = {key: 255 - tile for key, tile in self.tiles.items()}
        return TileRaster(self.channels, 255 - self.fill, tiles)

    def changed_rect(self, other: TileRaster) -> Rect:
        """Whole tiles that are not the same object in both; cheap, and may report equal pixels."""
        if self is other:
            return EMPTY
        changed = EMPTY
        for key in self.tiles.keys() | other.tiles.keys():
            if self.tiles.get(key) is not other.tiles.get(key):
                changed = changed.union(key.rect)
        return changed

    def equals(self, other: TileRaster) -> bool:
        """True if every pixel is the same."""
        if self.channels != other.channels or self.fill != other.fill:
            return False
        keys = self.tiles.keys() | other.tiles.keys()
        return all(np.array_equal(self.tile(key), other.tile(key)) for key in keys)

    def _is_blank(self, tile: Pixels) -> bool:
        if self.fill == 0 and tile.flags.c_contiguous:
            return not tile.reshape(-1).view(np.uint64).any()
        return bool((tile == self.fill).all())
