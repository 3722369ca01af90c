"""Noise levels from 1 to 0, and where an image-to-image job enters them.

Source: black-forest-labs/flux sampling.py (get_schedule, time_shift); Esser et al. 2024, section 5.3.2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BASE_TOKENS, BASE_SHIFT = 256, 0.5
MAX_TOKENS, MAX_SHIFT = 4096, 1.15


def sigmas(num_steps: int, image_tokens: int, has_time_shift: bool) -> NDArray[np.float64]:
    """num_steps + 1 noise levels, falling from 1 to 0.

    Args:
        num_steps: At least 1.
        image_tokens: Tokens of the target picture alone; more tokens, more time at high noise.
        has_time_shift: False for schnell and its like.
    """
    grid = np.linspace(1.0, 0.0, num_steps + 1)
    if not has_time_shift:
        return grid
    shifted = np.zeros_like(grid)
    shifted[:-1] = time_shift(grid[:-1], image_tokens)
    return shifted


def time_shift(levels: NDArray[np.float64], image_tokens: int) -> NDArray[np.float64]:
    """Noise levels in (0, 1] moved towards 1, the more the more tokens a picture has."""
    slope = (MAX_SHIFT - BASE_SHIFT) / (MAX_TOKENS - BASE_TOKENS)
    mu = BASE_SHIFT + slope * (image_tokens - BASE_TOKENS)
    return np.exp(mu) / (np.exp(mu) + (1.0 / levels - 1.0))


def start_step(num_steps: int, strength: float) -> int:
    """Index of the first noise level of an image-to-image job; at least one step always remains.

    Args:
        num_steps: Steps of a whole run.
        strength: In (0, 1]; 1 starts from pure noise.
    """
    return min(int((1.0 - strength) * num_steps + 1e-9), num_steps - 1)
