"""Latents as tokens, their positions, and the rotary table.

A token is a 2x2 patch of latents; its position has three axes: reference index, row, column. Text
tokens sit at (0, 0, 0) and are therefore not rotated. Everything here is NumPy and computed once a job.

Source: black-forest-labs/flux sampling.py (prepare, unpack) and math.py (rope).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.ops import Ops


def pack(ops: Ops, latents: Any) -> Any:
    """[B, h, w, C] latents -> [B, (h/2)(w/2), 4C] tokens, rows first, feature = c*4 + row%2*2 + col%2."""
    batch, height, width, channels = latents.shape
    grid = latents.reshape(batch, height // 2, 2, width // 2, 2, channels)
    grid = ops.transpose(grid, (0, 1, 3, 5, 2, 4))  # [B, h/2, w/2, C, 2, 2]
    return grid.reshape(batch, (height // 2) * (width // 2), channels * 4)


def unpack(ops: Ops, tokens: Any, height: int, width: int) -> Any:
    """[B, (h/2)(w/2), 4C] tokens -> [B, h, w, C] latents; `height` and `width` in latents, even."""
    batch, _, features = tokens.shape
    grid = tokens.reshape(batch, height // 2, width // 2, features // 4, 2, 2)
    grid = ops.transpose(grid, (0, 1, 4, 2, 5, 3))  # [B, h/2, 2, w/2, 2, C]
    return grid.reshape(batch, height, width, features // 4)


def position_ids(
    text_len: int, height: int, width: int, references: Sequence[tuple[int, int]] = ()
) -> NDArray[np.int64]:
    """Positions of text, image tokens, then those of reference pictures; [L_txt + L_img + L_ref, 3].

    Args:
        text_len: Text tokens, all at zero.
        height: Of the picture, in latents.
        width: Likewise.
        references: Height and width of each reference, in latents. All have index 1 and lie beside each
            other, each where the whole of them grows least.

    Source: one reference as in black-forest-labs/flux (prepare_kontext); several as ComfyUI places them.
    """
    ids = [np.zeros((text_len, 3), dtype=np.int64), _grid_ids(0, 0, 0, height, width)]
    high = wide = 0  # latents covered so far
    for rows, columns in references:
        top, left = (0, wide) if rows + high > columns + wide else (high, 0)
        ids.append(_grid_ids(1, (top + 1) // 2, (left + 1) // 2, rows, columns))
        high, wide = max(high, rows + top), max(wide, columns + left)
    return np.concatenate(ids)


def _grid_ids(index: int, top: int, left: int, height: int, width: int) -> NDArray[np.int64]:
    rows, columns = np.meshgrid(np.arange(height // 2) + top, np.arange(width // 2) + left, indexing="ij")
    return np.stack([np.full_like(rows, index), rows, columns], axis=-1).reshape(-1, 3)


def rotary_table(ids: NDArray[Any], axes_dim: Sequence[int], theta: float) -> NDArray[np.float32]:
    """Cosines and sines of every position's angles.

    Args:
        ids: [L, 3] positions.
        axes_dim: Head dimensions given to each axis; even numbers.
        theta: Base of the frequencies.

    Returns:
        [L, sum(axes_dim)/2, 2] float32, (cos, sin); angles computed in float64.

    Source: Su et al. 2021 (RoPE), one axis after the other.
    """
    parts: list[NDArray[np.float32]] = []
    for axis, dim in enumerate(axes_dim):
        # Tokens share rows and columns: a place's angles are computed once for all tokens in it.
        places, of_token = np.unique(ids[:, axis], return_inverse=True)
        frequencies = theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
        angles = places[:, None].astype(np.float64) * frequencies  # [places, dim/2]
        parts.append(np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)[of_token])
    return np.concatenate(parts, axis=1)
