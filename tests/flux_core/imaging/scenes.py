"""Scene-like pictures for tests: soft light, textured shapes with sharp edges, seen from anywhere."""

from __future__ import annotations

import cv2
import numpy as np

_FINER = 2  # scene pixels per picture pixel, so that a moved view is a view and no resampled picture


class Scene:
    """A random scene of `height` x `width` pixels.

    Args:
        seed: Of everything random.
        height: Of a view.
        width: Of a view.
        shapes: Discs and rectangles in it.
    """

    def __init__(self, seed: int, height: int, width: int, shapes: int = 40) -> None:
        self.height, self.width = height, width
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[0 : height * _FINER, 0 : width * _FINER].astype(np.float32)
        self._x, self._y = x / (width * _FINER), y / (height * _FINER)
        tilt = rng.uniform(-60, 60, (2, 3)).astype(np.float32)
        self._paint = (
            rng.uniform(60, 190, 3).astype(np.float32)
            + self._x[..., None] * tilt[0]
            + self._y[..., None] * tilt[1]
        )
        for _ in range(shapes):
            centre, radius = rng.uniform(0, 1, 2), 0.02 + 0.12 * rng.random()
            self._fill(rng, centre, radius, is_disc=rng.random() < 0.5)

    def with_disc(self, seed: int, centre: tuple[float, float], radius: float) -> None:
        """Puts one more thing into the scene; centre and radius are shares of the picture."""
        self._fill(np.random.default_rng(seed), centre, radius, is_disc=True)

    def view(self, dx: float = 0.0, dy: float = 0.0, scale: float = 1.0) -> np.ndarray:
        """[H, W, 3] float32, about 0..255: shifted right and down, enlarged about the centre."""
        matrix = np.array(
            [
                [1 / scale, 0, (self.width - 1) / 2 - ((self.width - 1) / 2 + dx) / scale],
                [0, 1 / scale, (self.height - 1) / 2 - ((self.height - 1) / 2 + dy) / scale],
            ]
        )
        matrix *= _FINER
        matrix[:, 2] += (_FINER - 1) / 2
        soft = cv2.GaussianBlur(self._paint, (0, 0), _FINER / 2)
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        size = (self.width, self.height)
        return cv2.warpAffine(soft, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)

    def _fill(self, rng: np.random.Generator, centre, radius: float, *, is_disc: bool) -> None:
        tall, wide = self._x.shape
        reach = int(radius * wide) + 2
        x, y = int(centre[0] * wide), int(centre[1] * tall)
        near = slice(max(y - reach, 0), y + reach), slice(max(x - reach, 0), x + reach)
        right, down = self._x[near] - centre[0], (self._y[near] - centre[1]) * self.height / self.width
        if is_disc:
            here = right**2 + down**2 < radius**2
        else:
            here = (abs(right) < radius) & (abs(down) < radius * rng.uniform(0.3, 1))
        waves = rng.uniform(20, 60, 2)
        texture = 15 * np.sin(waves[0] * self._x[near] + waves[1] * self._y[near])
        self._paint[near][here] = rng.uniform(0, 255, 3) + texture[here][:, None]


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Rounded and clipped to uint8."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
