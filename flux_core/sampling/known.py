"""The straight path between a picture and its noise, and the region of a picture that must stay.

A known region follows its own noised path and is put back after every step, which lets any model
repaint a part of a picture without having been trained for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.ops import Backend

_EPS = 1e-6  # of a mask value; 8-bit masks differ by 1/255


class KnownRegion:
    """The part of a picture that is kept, and until when.

    A value's freedom f is the strength that it is repainted with: 1 is free from the first step, 0
    never, and between them a value follows the known picture while the fraction of steps still to
    go is larger than f. That is what image to image does with f as its strength, value by value.

    Args:
        backend: Where the walk happens.
        tokens: [1, L, C] float32 device array, the clean picture.
        noise: [1, L, C] float32 device array, the walk's own noise.
        freedom: [1, L, C] in [0, 1].
        num_steps: Steps of a whole run, also when the walk starts later.

    Source: Levin & Fried 2023 (Differential Diffusion); Lugmayr et al. 2022 (RePaint) for the blend.
    """

    def __init__(
        self, backend: Backend, tokens: Any, noise: Any, freedom: NDArray[np.float32], num_steps: int
    ) -> None:
        self._backend = backend
        self._tokens = tokens
        self._noise = noise
        self._freedom = freedom
        self._num_steps = num_steps
        self._kept: NDArray[np.bool_] | None = None
        self._weights: tuple[Any, Any] = (None, None)

    def restore(self, x: Any, step: int, sigma: float) -> Any:
        """x with the known values of `step` (an index) as they are at noise level `sigma`."""
        keep, free = self._at(step)
        return free * x + keep * noised(self._tokens, self._noise, sigma)

    def _at(self, step: int) -> tuple[Any, Any]:
        """1 where the picture is kept during a step, and the opposite, as device arrays."""
        kept = self._freedom < 1.0 - step / self._num_steps - _EPS
        if self._kept is None or not np.array_equal(kept, self._kept):
            self._kept = kept
            keep = self._backend.from_numpy(kept.astype(np.float32))
            self._weights = keep, self._backend.from_numpy((~kept).astype(np.float32))
        return self._weights


def noised(tokens: Any, noise: Any, sigma: float) -> Any:
    """The straight path between picture (sigma 0) and noise (sigma 1)."""
    return tokens * (1.0 - sigma) + noise * sigma
