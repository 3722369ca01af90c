"""Sixteen-bit PNGs with colour or alpha become eight bits by rounding, where Pillow cuts the low byte off.

Pillow has no mode for them, but its unpackers can be asked for either byte of every sample, so the same
decoder runs and nothing of the format is parsed here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

Bytes = NDArray[np.uint8]

_LOW_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}  # little-endian's high byte is our low one
_BAND_ROWS = 256


def loaded(open_again: Callable[[], ImageFile]) -> Image.Image:
    """A picture with its pixels loaded; deep PNGs are rounded to eight bits.

    Args:
        open_again: Reads the header, anew at each call.
    """
    image = open_again()
    form = image.tile[0].args if image.format == "PNG" and len(image.tile) == 1 else ""
    if form == "LA;16B":
        image.tile = [image.tile[0]._replace(args="RGBA")]  # its four bytes are grey's and alpha's two each
        image.load()
        four = np.array(image)
        return _like(image, _rounded(four[..., 0::2], four[..., 1::2]))
    image.load()
    if form not in _LOW_BYTES or "transparency" in image.info:
        return image
    low = open_again()
    low.tile = [low.tile[0]._replace(args=_LOW_BYTES[form])]
    low.load()
    return _like(image, _rounded(np.array(image), np.array(low)))


def _rounded(high: Bytes, low: Bytes) -> Bytes:
    """(256 * high + low) / 257, rounded: 65535 becomes 255. A band at a time, to keep memory small."""
    found = np.ascontiguousarray(high)
    for top in range(0, len(found), _BAND_ROWS):
        band = found[top : top + _BAND_ROWS]
        distance = low[top : top + _BAND_ROWS].astype(np.int16) - band
        band += (distance > 128).astype(np.uint8)
        band -= (distance < -128).astype(np.uint8)
    return found


def _like(image: Image.Image, pixels: Bytes) -> Image.Image:
    """Pixels as a picture that says of itself what another does (profile, EXIF, orientation)."""
    made = Image.fromarray(pixels)
    made.info = dict(image.info)
    return made
