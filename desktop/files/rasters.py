"""Rasters to PNG and back, with limits on what one file may make us hold.

A PNG of a few bytes can stand for a hundred megapixels, and a project may hold thousands of them, so the
sizes are read from the headers and added up before any pixel is decoded.
"""

from __future__ import annotations

import struct

from desktop.document.geometry import MAX_PIXELS, MAX_SIDE_PX, Rect
from desktop.document.tiles import Pixels, TileRaster
from desktop.files.archive import HINT
from desktop.files.png_cache import Encoded, Encoder, PngCache
from flux_core.errors import Corrupt, OutOfMemory
from flux_core.imaging import codec

MAX_TOTAL_PIXELS = 2_000_000_000
_PNG_START = b"\x89PNG\r\n\x1a\n"


def rect_to_save(rect: Rect, canvas: Rect) -> Rect:
    """`rect`, or its part on the canvas if it is larger than any picture may be."""
    is_too_large = max(rect.width, rect.height) > MAX_SIDE_PX or rect.width * rect.height > MAX_PIXELS
    return rect.intersection(canvas) if is_too_large else rect


def encoded_raster(encoder: Encoder, raster: TileRaster, canvas: Rect) -> Encoded:
    """All that a raster holds, as a PNG of just that rectangle."""

    def make() -> tuple[Pixels, Rect]:
        rect = rect_to_save(raster.content_bounds, canvas)
        return raster.read(rect), rect

    return encoder.encode("raster", (raster,), make)


def has_deep_colour(data: bytes) -> bool:
    """True for a PNG with 16 bits a channel."""
    return data.startswith(_PNG_START) and len(data) > 24 and data[24] == 16


class PixelBudget:
    """Decodes pictures of one file until they would be too much.

    Args:
        cache: Where the PNGs that were read are remembered, so that saving need not encode them again.
    """

    def __init__(self, cache: PngCache | None = None) -> None:
        self._cache = cache
        self._left = MAX_TOTAL_PIXELS

    def decode_raster(self, data: bytes, x: int, y: int, title: str) -> tuple[TileRaster, list[str]]:
        """A colour raster with its top left corner at (x, y), and what was lost, in sentences.

        Raises:
            Corrupt: No PNG, damaged, or more pixels than one file may hold.
            RequestInvalid: Larger than any picture may be.
        """
        self._spend(data, title)
        notes = [f"{title} had 16 bits a channel and now has 8."] if has_deep_colour(data) else []
        raster = TileRaster.from_array(codec.decode(data, title), x, y)
        self._remember(raster, data)
        return raster, notes

    def decode_mask(self, data: bytes, x: int, y: int, fill: int, title: str) -> TileRaster:
        """A grey raster; raises as `decode_raster` does."""
        self._spend(data, title)
        pixels = codec.decode(data, title)
        mask = TileRaster.from_array(pixels[..., 0].copy(), x, y, fill)
        self._remember(mask, data)
        return mask

    def _spend(self, data: bytes, title: str) -> None:
        if not data.startswith(_PNG_START) or len(data) < 24:
            raise Corrupt(f"{title} is no PNG.", HINT)
        width, height = struct.unpack(">II", data[16:24])
        codec.check_size(width, height, title)
        self._left -= width * height
        if self._left < 0:
            raise OutOfMemory(
                f"The file holds more than {MAX_TOTAL_PIXELS // 1_000_000} megapixels.",
                "Open a file with fewer or smaller layers.",
            )

    def _remember(self, raster: TileRaster, data: bytes) -> None:
        """Keeps the PNG if it is just what saving would write: plain, and cut to what it holds."""
        bounds = raster.content_bounds
        is_cut = struct.pack(">II", bounds.width, bounds.height) == data[16:24]
        if self._cache is not None and is_cut and data[24] == 8 and data[28] == 0:
            self._cache.put("raster", (raster,), Encoded.known(data, bounds))
