"""Bytes to pixels and back, safe on files from anywhere.

Every picture that enters Flowbrush is decoded here: sizes are checked before memory is spent, turned
cameras are turned back, every mode becomes eight bits, and whatever a broken file makes Pillow raise
becomes one typed error. Encoding is deterministic, so the same pixels and texts are the same bytes.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngInfo

from flux_core.errors import Corrupt, OutOfMemory, RequestInvalid
from flux_core.imaging import deep, profiles

MAX_SIDE_PX = 16384
MAX_PIXELS = 120_000_000

Pixels = NDArray[np.uint8]
PictureMode = Literal["L", "LA", "RGB", "RGBA"]
Format = Literal["png", "jpeg", "webp"]

# Formats that are only pixels: no interpreters (EPS), no rarely tested parsers.
_PAPER = 255  # transparency is laid on white
_READABLE = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
_WEBP_MAX_SIDE_PX = 16383
_CHANNEL_MODES: dict[int, PictureMode] = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# Pillow warns where we decide; the filters are process-wide, so one thread at a time changes them.
_WARNINGS_LOCK = threading.Lock()


@dataclass(frozen=True)
class Picture:
    """A decoded picture in its own colour space.

    Attributes:
        pixels: [H, W, 4] RGBA, straight alpha, upright, in the colour space of `icc`.
        mode: What the file held: grey or colour, with or without transparency.
        icc: The embedded profile when it is not sRGB; None means sRGB.
    """

    pixels: Pixels
    mode: PictureMode
    icc: bytes | None = None

    def srgb(self) -> Pixels:
        """The pixels [H, W, 4] in sRGB; the same array when they already are."""
        return profiles.to_srgb(self.pixels, self.icc)


def decode(data: bytes, source: str = "the picture") -> Pixels:
    """Decodes any readable picture to upright sRGB, [H, W, 4] uint8 RGBA with straight alpha.

    Args:
        data: The file's bytes; PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF (first frame).
        source: What to call the picture in an error, for example its file name.

    Raises:
        RequestInvalid: Not a picture, or larger than MAX_SIDE_PX or MAX_PIXELS.
        Corrupt: Truncated or damaged.
        OutOfMemory: The machine cannot hold it.
    """
    return read(data, source).srgb()


def decode_grey(data: bytes, source: str = "the mask") -> Pixels:
    """Decodes a mask to [H, W] uint8.

    A mask may be drawn as light on dark or as paint on transparency: when the picture has
    transparency but the paint has only one brightness, the alpha is the mask, else the brightness is.
    Raises as `decode` does.
    """
    picture = read(data, source)
    alpha = picture.pixels[..., 3]
    grey = luminance(picture.pixels)
    is_flat = int(grey.max()) == int(grey.min())
    if is_flat and int(alpha.max()) != int(alpha.min()):
        return np.ascontiguousarray(alpha)
    return grey


def luminance(pixels: Pixels) -> Pixels:
    """Rec. 601 luma [H, W] of [H, W, 3 or 4] pixels, as a grey file of the same picture would hold."""
    return np.array(Image.fromarray(np.ascontiguousarray(pixels[..., :3])).convert("L"))


def read(data: bytes, source: str = "the picture") -> Picture:
    """Decodes a picture without leaving its colour space; raises as `decode` does."""
    try:
        image = _upright(deep.loaded(lambda: _open(data, source)))
        return _as_picture(image, source)
    except MemoryError as err:
        raise OutOfMemory(
            f"There is too little memory to open {source}.", "Close something or use a smaller picture."
        ) from err
    except (RequestInvalid, Corrupt):
        raise
    except Exception as err:  # a fuzzed file makes Pillow's parsers raise almost anything
        raise Corrupt(
            f"{_sentence(source)} is damaged or incomplete.", "Open another copy of the file."
        ) from err


def read_info(data: bytes) -> dict[str, object]:
    """What a picture's header says beside the pixels (texts, XMP); empty if it cannot be read."""
    try:
        info = _open(data, "the picture").info
    except Exception:  # as in `read`: a fuzzed file makes Pillow's parsers raise almost anything
        return {}
    return {key: value for key, value in info.items() if isinstance(key, str)}


def in_mode(pixels: Pixels, mode: PictureMode) -> Pixels:
    """[H, W, 4] pixels as a file of this mode holds them: [H, W], [H, W, 2], [H, W, 3] or [H, W, 4].

    Pixels that came from a file of this mode come out exactly as they were in it.
    """
    if mode == "RGBA":
        return pixels
    if mode == "RGB":
        return np.ascontiguousarray(pixels[..., :3])
    grey = luminance(pixels)
    return grey if mode == "L" else np.dstack([grey, pixels[..., 3]])


def check_size(width_px: int, height_px: int, source: str) -> None:
    """Raises RequestInvalid when a picture of this size is more than Flowbrush handles."""
    if max(width_px, height_px) > MAX_SIDE_PX or width_px * height_px > MAX_PIXELS:
        raise RequestInvalid(
            f"{_sentence(source)} is {width_px} x {height_px} pixels, more than can be opened.",
            f"Use at most {MAX_SIDE_PX} pixels a side and {MAX_PIXELS // 1_000_000} megapixels.",
        )
    if min(width_px, height_px) < 1:
        raise Corrupt(f"{_sentence(source)} has no pixels.", "Open another copy of the file.")


def flat(pixels: Pixels) -> Pixels:
    """[H, W, 3] of straight RGBA [H, W, 4], on white."""
    if int(pixels[..., 3].min()) == _PAPER:
        return np.ascontiguousarray(pixels[..., :3])
    alpha = pixels[..., 3:].astype(np.uint16)
    mixed = (pixels[..., :3] * alpha + _PAPER * (255 - alpha) + 127) // 255
    return mixed.astype(np.uint8)


def encode_png(
    pixels: Pixels,
    text: Mapping[str, str] | None = None,
    *,
    icc: bytes | None = None,
    compress_level: int = 3,
) -> bytes:
    """Encodes [H, W], [H, W, 2], [H, W, 3] or [H, W, 4] uint8 as a PNG that is not interlaced.

    Args:
        pixels: Grey, grey with alpha, RGB or RGBA.
        text: UTF-8 texts by keyword, written as iTXt in this order right after the header.
        icc: Colour profile to embed.
        compress_level: 0 (fast) to 9 (small).
    """
    info = PngInfo()
    for keyword, value in (text or {}).items():
        info.add_itxt(keyword, value)
    buffer = io.BytesIO()
    _as_image(pixels).save(buffer, "PNG", pnginfo=info, icc_profile=icc, compress_level=compress_level)
    return buffer.getvalue()


def encode(
    pixels: Pixels,
    format: Format,
    *,
    quality: int = 92,
    text: Mapping[str, str] | None = None,
    exif: bytes = b"",
    xmp: bytes = b"",
    icc: bytes | None = None,
) -> bytes:
    """Encodes a picture for export.

    Args:
        pixels: As for `encode_png`; JPEG has no transparency, so it is laid on white.
        format: "png", "jpeg" or "webp".
        quality: 1..100 for JPEG and WebP; a WebP of quality 100 is lossless.
        text: PNG texts; ignored by the other formats, which carry `exif` and `xmp`.
        exif: EXIF block for JPEG and WebP.
        xmp: XMP packet for JPEG and WebP; in a PNG it is one of the texts.
        icc: Colour profile to embed.

    Raises:
        RequestInvalid: The format cannot hold a picture of this size or quality is out of range.
    """
    if format == "png":
        return encode_png(pixels, text, icc=icc)
    if not 1 <= quality <= 100:
        raise RequestInvalid(f"A quality of {quality} is not possible.", "Use a quality from 1 to 100.")
    buffer = io.BytesIO()
    image = _as_image(pixels)
    if format == "jpeg":
        subsampling = 0 if quality >= 90 else 2
        image = _on_white(image)
        image.save(
            buffer, "JPEG", quality=quality, subsampling=subsampling, exif=exif, xmp=xmp, icc_profile=icc
        )
        return buffer.getvalue()
    if max(image.size) > _WEBP_MAX_SIDE_PX:
        raise RequestInvalid(
            f"A WebP file has at most {_WEBP_MAX_SIDE_PX} pixels a side.", "Export as PNG instead."
        )
    image = image.convert("RGBA" if image.mode in ("LA", "RGBA") else "RGB")
    image.save(
        buffer,
        "WEBP",
        quality=quality,
        lossless=quality == 100,
        exact=True,
        exif=exif,
        xmp=xmp,
        icc_profile=icc,
    )
    return buffer.getvalue()


def format_of(file_name: str) -> Format:
    """The format that a file name asks for; raises RequestInvalid for an unknown ending."""
    ending = file_name.rpartition(".")[2].lower() if "." in file_name else ""
    known: dict[str, Format] = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}
    if ending not in known:
        raise RequestInvalid(
            f"{file_name} does not say which format to write.", "End the name in .png, .jpg or .webp."
        )
    return known[ending]


# Decoding


def _open(data: bytes, source: str) -> ImageFile:
    """Reads the header only; the size is checked before any pixel is."""
    with _quiet():
        try:
            image = Image.open(io.BytesIO(data), formats=_READABLE)
        except Image.DecompressionBombError as err:
            raise RequestInvalid(
                f"{_sentence(source)} says it is far larger than can be opened.",
                f"Use at most {MAX_SIDE_PX} pixels a side and {MAX_PIXELS // 1_000_000} megapixels.",
            ) from err
        except Image.UnidentifiedImageError as err:
            if _looks_like_a_picture(data):
                raise
            raise RequestInvalid(
                f"{_sentence(source)} is not a picture that can be read.",
                "Use a PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF file.",
            ) from err
    check_size(image.width, image.height, source)
    return image


def _looks_like_a_picture(data: bytes) -> bool:
    starts = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8", b"II*\0", b"MM\0*")
    return data.startswith(starts) or data[8:12] == b"WEBP" or data[4:12] == b"ftypavif"


def _upright(image: Image.Image) -> Image.Image:
    """Applies the camera's orientation; a broken EXIF block counts as none."""
    with _quiet():
        try:
            return ImageOps.exif_transpose(image)
        except Exception:  # EXIF parsing of a fuzzed block raises almost anything; the pixels are fine
            return image


def _as_picture(image: Image.Image, source: str) -> Picture:
    icc = image.info.get("icc_profile")
    image = _eight_bits(image, source)
    if image.mode in ("P", "PA") or "transparency" in image.info:
        has_alpha = image.mode == "PA" or "transparency" in image.info
        is_grey = image.mode in ("1", "L")
        image = image.convert("RGBA" if has_alpha else "RGB")
        mode: PictureMode = ("LA" if is_grey else "RGBA") if has_alpha else "RGB"
    elif image.mode in ("1", "L", "LA", "La"):
        mode = "LA" if image.mode in ("LA", "La") else "L"
    else:
        mode = "RGBA" if image.mode in ("RGBA", "RGBa") else "RGB"
    if image.mode in ("CMYK", "LAB"):
        image, icc = profiles.device_to_srgb(image, icc), None
    if image.mode == "La":
        image = image.convert("LA")
    pixels = np.array(image.convert("RGBA"))
    return Picture(pixels, mode, profiles.usable(icc))


def _eight_bits(image: Image.Image, source: str) -> Image.Image:
    """Deep grey modes become eight bits; colour and alpha are so already."""
    if image.mode == "F":
        raise RequestInvalid(
            f"{_sentence(source)} holds floating-point pixels.", "Save it with 8 or 16 bits a channel."
        )
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.clip(np.array(image).astype(np.int64), 0, 65535)
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


# Encoding


def _as_image(pixels: Pixels) -> Image.Image:
    """The pixels as a Pillow image; their shape and type are the caller's promise."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels not in _CHANNEL_MODES:
        raise ValueError(f"cannot encode pixels of type {pixels.dtype} and shape {pixels.shape}")
    squeezed = pixels[..., 0] if pixels.ndim == 3 and channels == 1 else pixels
    return Image.fromarray(np.ascontiguousarray(squeezed))


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode not in ("LA", "RGBA"):
        return image
    with_alpha = image.convert("RGBA")
    paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(paper, with_alpha).convert("L" if image.mode == "LA" else "RGB")


def _sentence(source: str) -> str:
    return source[:1].upper() + source[1:] if source.startswith("the ") else source


@contextmanager
def _quiet() -> Generator[None]:
    """Silences Pillow's warnings about files that are large or sloppy; the checks here decide."""
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
