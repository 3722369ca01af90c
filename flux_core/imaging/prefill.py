"""What lies under a mask before the model repaints it.

Below full strength the model starts from what is there, so what is there decides what it makes: the old
things, the tones around the hole, a continuation of its edge, or nothing. Outside the mask nothing
changes, to the byte.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import RequestInvalid
from flux_core.imaging import masks
from flux_core.imaging.geometry import resize
from flux_core.imaging.membrane import membrane
from flux_core.imaging.opencv import opencv

NEUTRAL = 128
_SWEEPS = 6  # at full size; the coarse levels have done most of it
_TELEA_RADIUS_PX = 5
_TELEA_AREA_PX = 256 * 256  # of the mask; a larger hole is filled at a smaller size, it costs area x radius^2
_EDGE_REACH_PX = 64  # so far from the edge its continuation has melted into the tones around
_NOISE_LEVELS = 40.0  # standard deviation of the noise, of 255

Pixels = NDArray[np.uint8]


class Prefill(StrEnum):
    """What is put under the mask."""

    KEEP = "keep"  # what is there
    BLUR = "blur"  # the tones around the hole, without any structure
    TELEA = "telea"  # the lines around the hole, carried in
    EDGE = "edge"  # the nearest pixels, repeated: for new canvas
    NOISE = "noise"  # the tones around the hole, under noise
    GREY = "grey"  # nothing: neutral grey


def prefill(picture: Pixels, mask: Pixels, kind: Prefill, falloff_px: int = 0, seed: int = 0) -> Pixels:
    """A picture with something else under its mask.

    Args:
        picture: [H, W, 3].
        mask: [H, W], 255 = repaint; everything at or above masks.MASK_FLOOR is filled in full.
        kind: What with. Where there is nothing around the mask to take up, it is neutral grey.
        falloff_px: Width, inside the mask, of a fade from the picture to the filling.
        seed: Of the noise.

    Returns:
        A new array; byte-equal to `picture` outside the mask.

    Raises:
        RequestInvalid: The mask is of another size, strange or empty, or the fade impossible.
    """
    if picture.shape[:2] != mask.shape or picture.ndim != 3 or picture.shape[2] != 3:
        raise RequestInvalid(
            f"A picture of shape {picture.shape} cannot be filled under a mask of shape {mask.shape}.",
            "Use an RGB picture and a mask of the same size.",
        )
    if not 0 <= falloff_px <= masks.MAX_FEATHER_PX:
        raise RequestInvalid(
            f"A fade of {falloff_px} pixels is not possible.", f"Use 0 to {masks.MAX_FEATHER_PX}."
        )
    hole = masks.check(mask) > 0
    if kind is Prefill.KEEP:
        return picture.copy()
    filling = _filling(picture, hole, kind, seed)
    weight = masks.feathered(np.where(hole, np.uint8(255), np.uint8(0)), falloff_px)[hole]
    result = picture.copy()
    share = weight.astype(np.float32)[:, None] / 255.0
    mixed = filling[hole] * share + picture[hole] * (1.0 - share)
    result[hole] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return result


def _filling(picture: Pixels, hole: NDArray[np.bool_], kind: Prefill, seed: int) -> NDArray[np.float32]:
    """[H, W, 3]; only what lies in the hole is used."""
    if kind is Prefill.GREY or hole.all():
        return np.full(picture.shape, NEUTRAL, np.float32)
    if kind is Prefill.TELEA:
        return _telea(picture, hole).astype(np.float32)
    tones = membrane(picture * (~hole).astype(np.float32)[..., None], ~hole, _SWEEPS)
    if kind is Prefill.NOISE:
        rng = np.random.Generator(np.random.Philox(seed))
        return tones + rng.normal(0.0, _NOISE_LEVELS, picture.shape).astype(np.float32)
    if kind is Prefill.EDGE:
        return _continued(picture, hole, tones)
    return tones


def _telea(picture: Pixels, hole: NDArray[np.bool_]) -> Pixels:
    """Fast marching (Telea 2004); a large hole is filled at a smaller size."""
    height, width = hole.shape
    shrink = max((np.count_nonzero(hole) / _TELEA_AREA_PX) ** 0.5, 1.0)
    size = max(round(width / shrink), 1), max(round(height / shrink), 1)
    area = opencv().INTER_AREA
    weight = opencv().resize(hole.astype(np.float32), size, interpolation=area)
    small_hole = np.where(weight > 0, np.uint8(255), np.uint8(0))
    small = opencv().resize(picture, size, interpolation=area)
    if small_hole.min() == 255:  # a thin rest of picture is lost at this size
        small, small_hole = picture, np.where(hole, np.uint8(255), np.uint8(0))
    filled = np.dstack([_marched(small[..., c], small_hole) for c in range(3)])
    return resize(filled, width, height)


def _marched(channel: Pixels, hole: Pixels) -> Pixels:
    """OpenCV's Telea on 16 bits: on bytes its rounding drifts by 13 levels across a flat hole of 210 px.

    The border keeps it from reading beyond pictures of a few pixels.
    """
    cv2 = opencv()
    border = 4 * (_TELEA_RADIUS_PX + 3,)
    wide = cv2.copyMakeBorder(channel, *border, cv2.BORDER_REPLICATE).astype(np.uint16) * np.uint16(256)
    wide_hole = cv2.copyMakeBorder(hole, *border, cv2.BORDER_REPLICATE)
    filled = cv2.inpaint(wide, wide_hole, _TELEA_RADIUS_PX, cv2.INPAINT_TELEA)
    inner = slice(border[0], -border[0])
    return np.minimum((filled[inner, inner].astype(np.int64) + 128) // 256, 255).astype(np.uint8)


def _continued(picture: Pixels, hole: NDArray[np.bool_], tones: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest kept pixel everywhere, melting into the tones with the distance from it."""
    cv2 = opencv()
    distance, labels = cv2.distanceTransformWithLabels(
        hole.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    place_of = np.zeros(int(labels.max()) + 1, np.int64)
    kept = np.flatnonzero(~hole)
    place_of[labels.ravel()[kept]] = kept
    nearest = picture.reshape(-1, 3)[place_of[labels]].astype(np.float32)  # [H, W, 3]
    melted = np.clip(distance / _EDGE_REACH_PX, 0.0, 1.0)[..., None]
    return nearest * (1.0 - melted) + tones * melted
