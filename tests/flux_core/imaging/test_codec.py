"""What comes in as bytes leaves as pixels, or as one clear error."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from flux_core.errors import Corrupt, RequestInvalid
from flux_core.imaging import codec, profiles


def file_of(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 2), (5, 7, 3), (5, 7, 4), (1, 1)])
def test_a_png_round_trip_keeps_every_pixel(shape):
    pixels = noise(*shape)
    back = np.array(Image.open(io.BytesIO(codec.encode_png(pixels))))
    assert np.array_equal(back, pixels)


def test_the_same_pixels_and_texts_are_the_same_bytes():
    pixels = noise(40, 30, 4)
    assert codec.encode_png(pixels, {"a": "1"}) == codec.encode_png(pixels.copy(), {"a": "1"})


def test_texts_are_utf8_and_stand_before_the_pixels():
    data = codec.encode_png(noise(4, 4, 3), {"parameters": "ein Fuchs, 红苹果\nSteps: 4"})
    assert data.index(b"iTXt") < data.index(b"IDAT")
    assert Image.open(io.BytesIO(data)).text["parameters"] == "ein Fuchs, 红苹果\nSteps: 4"


def test_transparency_survives_with_its_hidden_colours():
    pixels = noise(9, 8, 4)
    pixels[:4, :, 3] = 0
    assert np.array_equal(codec.decode(codec.encode_png(pixels)), pixels)


@pytest.mark.parametrize(
    ("mode", "format", "kept"),
    [
        ("1", "PNG", "L"),
        ("L", "PNG", "L"),
        ("LA", "PNG", "LA"),
        ("P", "PNG", "RGB"),
        ("RGB", "PNG", "RGB"),
        ("RGBA", "PNG", "RGBA"),
        ("CMYK", "JPEG", "RGB"),
        ("CMYK", "TIFF", "RGB"),
        ("LAB", "TIFF", "RGB"),
        ("YCbCr", "TIFF", "RGB"),
        ("RGB", "WEBP", "RGB"),
        ("RGB", "BMP", "RGB"),
        ("RGB", "GIF", "RGB"),
    ],
)
def test_every_mode_of_file_becomes_rgba(mode, format, kept):
    image = Image.fromarray(np.full((6, 9, 3), (200, 60, 40), np.uint8)).convert(mode)
    picture = codec.read(file_of(image, format))
    assert picture.pixels.shape == (6, 9, 4)
    assert picture.pixels.dtype == np.uint8
    assert picture.mode == kept
    assert (picture.pixels[..., 3] == 255).all()


def test_a_palette_with_a_transparent_colour_keeps_its_hole():
    image = Image.new("P", (4, 2), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((0, 0), 0)
    pixels = codec.decode(file_of(image, transparency=0))
    assert pixels[0, 0, 3] == 0
    assert tuple(pixels[1, 1]) == (255, 0, 0, 255)


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    deep = np.array([[0, 32768, 65535]], np.uint16)
    pixels = codec.decode(file_of(Image.fromarray(deep)))
    assert pixels[0, :, 0].tolist() == [0, 128, 255]


def test_a_turned_photo_is_upright():
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to show it
    pixels = codec.decode(file_of(image, exif=exif))
    assert pixels.shape == (4, 2, 4)
    assert tuple(pixels[0, 1, :3]) == (255, 0, 0)


def wide_profile() -> bytes:
    """A valid profile that is plainly not sRGB."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"  # red and green change places
    return bytes(profile)


def test_an_embedded_profile_is_applied_and_can_be_undone():
    icc = wide_profile()
    image = Image.new("RGB", (2, 2), (255, 0, 0))
    data = file_of(image, icc_profile=icc)
    picture = codec.read(data)
    assert picture.icc == icc
    assert tuple(picture.pixels[0, 0]) == (255, 0, 0, 255)  # untouched in its own colours
    red, green, _, _ = codec.decode(data)[0, 0]
    assert green > 240
    assert red < 15
    back = profiles.from_srgb(picture.srgb(), icc)
    assert np.abs(back.astype(int) - picture.pixels).max() <= 2


def test_an_srgb_profile_and_a_broken_one_change_nothing():
    pixels = noise(3, 3, 3)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for icc in (srgb, b"not a profile"):
        picture = codec.read(file_of(Image.fromarray(pixels), icc_profile=icc))
        assert picture.icc is None
        assert np.array_equal(picture.srgb()[..., :3], pixels)


def test_a_mask_may_be_brightness_or_paint_on_transparency():
    paint = np.zeros((2, 2, 4), np.uint8)
    paint[0, 0, 3] = 200
    assert codec.decode_grey(codec.encode_png(paint)).tolist() == [[200, 0], [0, 0]]
    grey = noise(5, 6)
    assert np.array_equal(codec.decode_grey(codec.encode_png(grey)), grey)
    assert np.array_equal(codec.decode_grey(codec.encode_png(np.dstack([grey, noise(5, 6, seed=1)]))), grey)
    assert codec.decode_grey(codec.encode_png(np.full((2, 2), 255, np.uint8))).min() == 255


@pytest.mark.parametrize(
    "size", [(16385, 1), (1, 20000), (12000, 12000), (60000, 60000), (2**31 - 1, 2**31 - 1)]
)
def test_a_picture_that_claims_too_much_is_refused_before_memory_is_spent(size):
    with pytest.raises((RequestInvalid, Corrupt)) as caught:
        codec.decode(png_header(*size), "bomb.png")
    assert "bomb.png" in caught.value.message
    assert caught.value.hint


def test_a_compressed_text_bomb_is_refused():
    bomb = zlib.compress(b"\0" * 100_000_000)
    body = b"parameters\0\0" + bomb
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    plain = codec.encode_png(noise(4, 4, 3))
    with pytest.raises(Corrupt):
        codec.decode(plain[:33] + chunk + plain[33:])


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_a_truncated_file_is_named_as_damaged(format):
    data = file_of(Image.fromarray(noise(64, 64, 3)), format)
    with pytest.raises(Corrupt) as caught:
        codec.decode(data[: len(data) // 2], "photo")
    assert str(caught.value) == "photo is damaged or incomplete. Open another copy of the file."


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg></svg>", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_not_a_picture_is_refused(data):
    with pytest.raises(RequestInvalid, match="is not a picture"):
        codec.decode(data, "notes.txt")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_gives_pixels_or_one_typed_error(data):
    format = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"]))
    content = bytearray(file_of(Image.fromarray(noise(16, 24, 3)), format))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = codec.decode(bytes(content))
    except (Corrupt, RequestInvalid):
        return
    assert pixels.ndim == 3
    assert pixels.shape[2] == 4


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_export_formats_are_read_back_close_to_what_went_in(format):
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    pixels = np.dstack(
        [np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 90, np.uint8)]
    )
    back = codec.decode(codec.encode(pixels, format))[..., :3]
    assert np.abs(back.astype(int) - pixels).mean() < 2


def test_jpeg_lays_transparency_on_white_and_webp_keeps_it():
    pixels = np.zeros((8, 8, 4), np.uint8)
    assert codec.decode(codec.encode(pixels, "jpeg")).min() == 255
    assert codec.decode(codec.encode(pixels, "webp"))[..., 3].max() == 0
    assert np.array_equal(codec.decode(codec.encode(noise(8, 8, 4), "webp", quality=100)), noise(8, 8, 4))


def test_impossible_exports_are_refused_with_a_sentence():
    with pytest.raises(RequestInvalid, match="quality"):
        codec.encode(noise(2, 2, 3), "jpeg", quality=0)
    with pytest.raises(RequestInvalid, match="16383"):
        codec.encode(np.zeros((1, 16384, 3), np.uint8), "webp")
    with pytest.raises(RequestInvalid, match="which format"):
        codec.format_of("picture.xyz")
    assert codec.format_of("a.b.JPG") == "jpeg"


def png_of_16_bits(samples: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """[H, W, channels] uint16 as a PNG, put together by hand: no library here writes every kind."""
    height, width, channels = samples.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    everything = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in everything
    )


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_sixteen_bits_are_rounded_to_eight_and_not_cut(channels: int, mode: str) -> None:
    samples = np.arange(65536).astype(np.uint16).reshape(-1, 128, 1).repeat(channels, axis=2)
    samples[..., -1] = samples[::-1, ..., -1]
    picture = codec.read(png_of_16_bits(samples))
    found = codec.in_mode(picture.pixels, picture.mode).reshape(samples.shape)
    assert picture.mode == mode
    assert np.array_equal(found, np.round(samples.astype(float) * 255 / 65535))


def test_a_deep_picture_keeps_its_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    samples = np.zeros((2, 3, 3), np.uint16)
    samples[0, 0] = 65535
    data = png_of_16_bits(samples, (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    assert codec.read(data).pixels[..., 0].tolist() == [[0, 255], [0, 0], [0, 0]]


def test_a_deep_picture_that_is_cut_off_is_corrupt() -> None:
    data = png_of_16_bits(np.random.default_rng(0).integers(0, 65536, (40, 40, 3)).astype(np.uint16))
    with pytest.raises(Corrupt):
        codec.read(data[:-3000])
