"""Masks: where the picture may change, and how softly.

A mask is [H, W] uint8, 255 = repaint, 0 = keep; it may be grey. Growing and fading use the octagonal
distance (a step along the axes, a step in all directions, in turns), which is within 6 percent of the
Euclidean one and costs a few vector operations a pixel however large the picture.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import RequestInvalid
from flux_core.imaging.geometry import Box

MASK_FLOOR = 8  # of 255; below lie JPEG noise and the tail of a soft brush, which would only enlarge the box
MAX_GROW_PX = 256
MAX_FEATHER_PX = 160

Mask = NDArray[np.uint8]


def check(mask: Mask) -> Mask:
    """Returns the mask with everything below MASK_FLOOR at zero.

    Raises:
        RequestInvalid: It is not [H, W] uint8, or repaints nothing.
    """
    if mask.ndim != 2 or mask.dtype != np.uint8 or mask.size == 0:
        raise RequestInvalid(
            f"A mask of shape {mask.shape} and type {mask.dtype} cannot be used.", "Use a grey picture."
        )
    if int(mask.max()) < MASK_FLOOR:
        raise RequestInvalid("The mask is empty.", "Paint where the picture should change.")
    return np.where(mask < MASK_FLOOR, np.uint8(0), mask)


def bounds(mask: Mask) -> Box | None:
    """The smallest box around everything that is not zero; None when all is."""
    rows = np.flatnonzero(mask.max(axis=1))
    columns = np.flatnonzero(mask.max(axis=0))
    if not rows.size:
        return None
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def grown(mask: Mask, grow_px: int) -> Mask:
    """The mask with every value spread `grow_px` further."""
    for step in range(grow_px):
        mask = _spread(mask, np.maximum, is_square=step % 2 == 1)
    return mask


def feathered(mask: Mask, feather_px: int) -> Mask:
    """The mask faded towards its own edge; what lies outside it stays exactly zero.

    Full strength is reached `feather_px` inside the edge. The border of the array is no edge. A part
    thinner than twice the feather never reaches full strength, but nothing of the mask is lost.
    """
    if feather_px < 1:
        return mask
    depth = _depth(mask, feather_px)
    t = np.arange(feather_px + 1) / feather_px
    curve = np.rint(255 * t * t * (3 - 2 * t)).astype(np.uint8)
    curve[1:] = np.maximum(curve[1:], 1)
    return np.minimum(mask, curve[depth])


def mean_width_px(mask: Mask) -> float:
    """Twice the area over the length of the edge: a stroke's width, a disc's radius, 0 if empty."""
    solid = (mask > 0).astype(np.uint8)
    area = int(np.count_nonzero(solid))
    edge = area - int(np.count_nonzero(_spread(solid, np.minimum, is_square=False)))
    return 2.0 * area / max(edge, 1) if area else 0.0


def shrunk_to(mask: Mask, width_px: int, height_px: int) -> Mask:
    """Hard mask at another size: 255 wherever any part of the pixel was not zero, else 0."""
    hard = np.where(mask > 0, np.uint8(255), np.uint8(0))
    return _reduced(_reduced(hard, height_px, axis=0), width_px, axis=1)


def _reduced(mask: Mask, length: int, axis: int) -> Mask:
    before = mask.shape[axis]
    if before <= length:
        centres = ((np.arange(length) + 0.5) * before / length).astype(np.int64)
        return np.take(mask, centres, axis=axis)
    starts = np.arange(length, dtype=np.int64) * before // length
    return np.maximum.reduceat(mask, starts, axis=axis)


def _depth(mask: Mask, limit: int) -> Mask:
    """Steps to the nearest pixel outside, counted from 1 inside the edge, at most `limit` (<= 255)."""
    solid = (mask > 0).astype(np.uint8)
    depth = solid.copy()
    for step in range(limit - 1):
        solid = _spread(solid, np.minimum, is_square=step % 2 == 1)
        depth += solid
    return depth


def _spread(mask: Mask, choose: Any, *, is_square: bool) -> Mask:
    """One step of growing (np.maximum) or shrinking (np.minimum) to 4 or 8 neighbours."""
    result = mask.copy()
    choose(result[1:], mask[:-1], out=result[1:])
    choose(result[:-1], mask[1:], out=result[:-1])
    source = result.copy() if is_square else mask
    choose(result[:, 1:], source[:, :-1], out=result[:, 1:])
    choose(result[:, :-1], source[:, 1:], out=result[:, :-1])
    return result
