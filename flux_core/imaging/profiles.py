"""Embedded colour profiles: between a picture's own colours and sRGB.

The model thinks in sRGB, while a camera's file may hold Display P3 or Adobe RGB. Colours are moved
for the model and moved back for the file, so that the pixels nobody asked to change stay as they were.
"""

from __future__ import annotations

import io
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

_SAME_AS_SRGB_LEVELS = 2  # profiles closer than this many of 255 levels count as sRGB
_cms = cast(Any, ImageCms)  # its annotations are incomplete


def to_srgb(pixels: NDArray[np.uint8], icc: bytes | None) -> NDArray[np.uint8]:
    """Moves [H, W, 3 or 4] pixels from the profile to sRGB; alpha is untouched, None changes nothing."""
    return _convert(pixels, icc, is_to_srgb=True)


def from_srgb(pixels: NDArray[np.uint8], icc: bytes | None) -> NDArray[np.uint8]:
    """Moves [H, W, 3 or 4] pixels from sRGB to the profile; alpha is untouched, None changes nothing."""
    return _convert(pixels, icc, is_to_srgb=False)


def usable(icc: object) -> bytes | None:
    """The profile when it is for RGB, differs from sRGB and can be used in both directions."""
    profile = _parse(icc)
    if profile is None or not isinstance(icc, bytes) or _colour_space(profile) != "RGB":
        return None
    ramp = np.arange(0, 256, 5, dtype=np.uint8).reshape(-1, 1, 1)
    tints = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.uint8)
    probe = (ramp * tints).astype(np.uint8)  # [52, 4, 3]
    try:
        there = to_srgb(probe, icc)
        from_srgb(probe, icc)
    except Exception:  # profiles without tables for one direction
        return None
    is_srgb = int(np.abs(there.astype(int) - probe).max()) <= _SAME_AS_SRGB_LEVELS
    return None if is_srgb else icc


def device_to_srgb(image: Image.Image, icc: object) -> Image.Image:
    """CMYK and Lab have no RGBA form of their own, so they become sRGB, by their profile if it fits."""
    srgb = _cms.createProfile("sRGB")
    profile = _parse(icc)
    if image.mode == "CMYK" and profile is not None and _colour_space(profile) == "CMYK":
        return cast(Image.Image, _cms.profileToProfile(image, profile, srgb, outputMode="RGB"))
    if image.mode == "LAB":
        transform = _cms.buildTransform(_cms.createProfile("LAB"), srgb, "LAB", "RGB")
        return cast(Image.Image, _cms.applyTransform(image, transform))
    return image.convert("RGB")


def _convert(pixels: NDArray[np.uint8], icc: bytes | None, *, is_to_srgb: bool) -> NDArray[np.uint8]:
    profile = _parse(icc)
    if profile is None:
        return pixels
    srgb = _cms.createProfile("sRGB")
    here, there = (profile, srgb) if is_to_srgb else (srgb, profile)
    image = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    turned = np.array(_cms.profileToProfile(image, here, there, outputMode="RGB"))
    return turned if pixels.shape[2] == 3 else np.dstack([turned, pixels[..., 3]])


def _parse(icc: object) -> Any | None:
    if not isinstance(icc, bytes) or not icc:
        return None
    try:
        return _cms.ImageCmsProfile(io.BytesIO(icc))
    except Exception:  # a broken profile counts as none: the pixels are still there
        return None


def _colour_space(profile: Any) -> str:
    return str(profile.profile.xcolor_space).strip()
