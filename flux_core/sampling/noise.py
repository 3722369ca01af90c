"""The noise of a seed: the same on every backend and machine, because NumPy draws it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def seeded_noise(seed: int, height: int, width: int, channels: int) -> NDArray[np.float32]:
    """Standard normal latents [1, height, width, channels]; Philox counter generator, float32."""
    generator = np.random.Generator(np.random.Philox(seed))
    return generator.standard_normal((1, height, width, channels), dtype=np.float32)
