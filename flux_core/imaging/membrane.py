"""The smoothest surface through what is known: a membrane, stretched over a hole.

It carries colour shifts from the ring around a mask into it, and fills holes with the tones around them.

Source: Perez et al. 2003, Poisson Image Editing, section 2 (without a guidance field: Laplace's equation).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SWEEPS = 40

Grid = NDArray[np.float32]


def membrane(values: Grid, is_known: NDArray[np.bool_], sweeps: int = SWEEPS) -> Grid:
    """Solves Laplace's equation where values are unknown, coarse to fine, with free outer borders.

    Args:
        values: [h, w, C]; what is not known must be zero.
        is_known: [h, w], true somewhere.
        sweeps: Jacobi sweeps at every level.

    Returns:
        [h, w, C]: the known values as they were, and between them the smoothest surface.
    """
    height, width = is_known.shape
    if is_known.all():
        return values
    if min(height, width) <= 1 or max(height, width) <= 2:
        mean = values[is_known].mean(axis=0)
        return np.where(is_known[..., None], values, mean).astype(np.float32)
    half_known, half_values = _halved(values, is_known)
    guess = membrane(half_values, half_known, sweeps).repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    field = np.where(is_known[..., None], values, guess)
    for _ in range(sweeps):
        padded = np.pad(field, ((1, 1), (1, 1), (0, 0)), mode="edge")
        around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
        field = np.where(is_known[..., None], values, around * np.float32(0.25))
    return field


def _halved(values: Grid, is_known: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], Grid]:
    height, width = (side + side % 2 for side in is_known.shape)
    weights = np.zeros((height, width, 1), np.float32)
    weights[: is_known.shape[0], : is_known.shape[1], 0] = is_known
    padded = np.zeros((height, width, values.shape[2]), np.float32)
    padded[: values.shape[0], : values.shape[1]] = values
    count = weights.reshape(height // 2, 2, width // 2, 2, 1).sum(axis=(1, 3))
    total = (padded * weights).reshape(height // 2, 2, width // 2, 2, -1).sum(axis=(1, 3))
    return count[..., 0] > 0, total / np.maximum(count, 1.0)
