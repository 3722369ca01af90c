"""Colour match: the seam disappears because the shift is measured around it.

An autoencoder returns what it was told to keep with a slight colour shift that varies across the
picture, so no single correction is right. The shift is measured in a ring of kept pixels around the
mask and carried into it by the smoothest surface through the ring (a membrane, Laplace's equation).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flux_core.imaging.masks import grown
from flux_core.imaging.membrane import Grid, membrane

_CELL_PX = 8  # the shift is smooth, so it is solved on a coarse grid
_RING_FRACTION = 96 / 1024  # width of the ring, of the side of a square of the working area
_MIN_RING_PX = 256  # with less to measure, no correction is better than a guess
_MIN_CELL_SHARE = 0.25  # of a cell must be kept pixels for it to be measured
_MAX_SHIFT = 32.0  # of 255; more is a difference in content

Pixels = NDArray[np.uint8]


def match_colours(
    original: Pixels, generated: Pixels, repaint: NDArray[np.uint8], inside: NDArray[np.bool_]
) -> Pixels:
    """Moves the colours of a generated piece to those of its surroundings.

    Args:
        original: [H, W, 3] what was sent to the model; sides are multiples of 8.
        generated: [H, W, 3] what came back, in place.
        repaint: [H, W] not zero where the model was free; everything else it was told to keep.
        inside: [H, W] where `original` is picture and not repeated edge.

    Returns:
        [H, W, 3] corrected; the same array when there is too little around the mask to measure.
    """
    kept = ((repaint == 0) & inside).astype(np.float32)
    share = _cells(kept)  # [h, w]
    ring_cells = math.ceil(_RING_FRACTION * math.sqrt(repaint.size) / _CELL_PX)
    near = grown((share < 1.0).astype(np.uint8), ring_cells) > 0
    is_known = near & (share >= _MIN_CELL_SHARE)
    if float(share[is_known].sum()) * _CELL_PX**2 < _MIN_RING_PX:
        return generated
    shift = original.astype(np.float32) - generated.astype(np.float32)
    divisor = np.where(is_known, share, np.float32(1))[..., None]
    known = (_cells(shift * kept[..., None]) / divisor).clip(-_MAX_SHIFT, _MAX_SHIFT).astype(np.float32)
    field = membrane(_smoothed(known, is_known) * is_known[..., None], is_known)
    corrected = generated.astype(np.float32) + _enlarged(field, repaint.shape[1], repaint.shape[0])
    return np.clip(np.rint(corrected), 0, 255).astype(np.uint8)


def _cells(values: Grid) -> Grid:
    """Means over cells: [H, W, ...] -> [H / 8, W / 8, ...]."""
    height, width = values.shape[:2]
    shape = (height // _CELL_PX, _CELL_PX, width // _CELL_PX, _CELL_PX, *values.shape[2:])
    return values.reshape(shape).mean(axis=(1, 3), dtype=np.float32)


def _smoothed(values: Grid, is_known: NDArray[np.bool_]) -> Grid:
    """Mean over the known cells among each cell and its eight neighbours, [h, w, 3]."""
    weights = is_known.astype(np.float32)[..., None]
    mean = _sum_3x3(values * weights) / np.maximum(_sum_3x3(weights), 1)
    return mean.astype(np.float32)


def _sum_3x3(values: Grid) -> Grid:
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)))
    height, width = values.shape[:2]
    total = np.zeros_like(values)
    for dy in range(3):
        for dx in range(3):
            total += padded[dy : dy + height, dx : dx + width]
    return total


def _enlarged(field: Grid, width_px: int, height_px: int) -> Grid:
    size = (width_px, height_px)
    channels = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(field[..., c])).resize(size, Image.Resampling.BILINEAR)
        )
        for c in range(field.shape[2])
    ]
    return np.stack(channels, axis=-1)
