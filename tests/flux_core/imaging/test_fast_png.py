"""A picture that was encoded quickly is the picture, in any reader."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from PIL import Image

from flux_core.imaging import codec
from flux_core.imaging.fast_png import Encoder

ENCODE = Encoder()


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (64, 1), (63, 5), (64, 64), (65, 33), (200, 129)])
def test_every_reader_gets_the_pixels_back(size: tuple[int, int], channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, channels), np.uint8)
    pixels[: size[0] // 2] //= 64  # with runs
    png = ENCODE(pixels)
    assert np.array_equal(np.array(Image.open(io.BytesIO(png))), pixels)
    swapped = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(swapped[..., [2, 1, 0, 3][:channels]], pixels)
    assert np.array_equal(codec.decode(png)[..., :channels], pixels)


def test_every_check_in_the_file_is_right() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 129, 3), np.uint8)
    chunks = list(chunks_of(ENCODE(pixels)))
    assert [name for name, _ in chunks] == [b"IHDR", *[b"IDAT"] * (len(chunks) - 2), b"IEND"]
    data = b"".join(data for name, data in chunks if name == b"IDAT")
    assert len(zlib.decompress(data)) == 200 * (1 + 129 * 3)  # which looks at the check of it all


def chunks_of(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        name, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        assert png[at + 8 + size : at + 12 + size] == struct.pack(">I", zlib.crc32(name + data))
        yield name, data
        at += 12 + size


def test_a_view_that_is_not_contiguous_is_the_same_picture() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    assert ENCODE(pixels[::2, 5:80]) == ENCODE(np.ascontiguousarray(pixels[::2, 5:80]))


def test_a_smooth_picture_is_hardly_larger_than_pillow_makes_it() -> None:
    y, x = np.mgrid[:256, :256]
    pixels = np.dstack([x, y, (x + y) // 2]).astype(np.uint8)
    pixels += np.random.default_rng(0).integers(0, 4, pixels.shape, np.uint8)
    assert len(ENCODE(pixels)) < 1.1 * len(codec.encode_png(pixels))


@pytest.mark.parametrize("shape", [(4, 4, 1), (0, 4, 3), (4, 0, 3)])
def test_what_is_no_picture_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no PNG"):
        ENCODE(np.zeros(shape, np.uint8))
