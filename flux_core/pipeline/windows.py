"""The windows of a large picture, in tokens: where each lies, what it cuts out, and how much it counts where.

Windows are of one size, so that everything made for one serves all; each counts less towards its borders, and
all of them together count one everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.models.autoencoder import SCALE_FACTOR

Floats = NDArray[np.float32]

OVERLAP = 0.25  # of a window's side, at least
_TOKEN_PX = 2 * SCALE_FACTOR


@dataclass(frozen=True, slots=True)
class Window:
    """One window.

    Attributes:
        top, left, rows, columns: In tokens.
        grid: Rows and columns of tokens of the whole picture.
        weight: [rows, columns], its share of each token.
    """

    top: int
    left: int
    rows: int
    columns: int
    grid: tuple[int, int]
    weight: Floats

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in latents."""
        return 2 * self.rows, 2 * self.columns

    def of_tokens(self, x: Any) -> Any:
        """[1, L, C] of the whole picture -> [1, rows * columns, C]."""
        grid = x.reshape(1, *self.grid, int(x.shape[2]))
        part = grid[:, self.top : self.top + self.rows, self.left : self.left + self.columns]
        return part.reshape(1, self.rows * self.columns, int(x.shape[2]))

    def of_pixels(self, image: Any) -> Any:
        """[1, H, W, C] of the whole picture -> this window's pixels."""
        top, left = self.top * _TOKEN_PX, self.left * _TOKEN_PX
        return image[:, top : top + self.rows * _TOKEN_PX, left : left + self.columns * _TOKEN_PX]

    def add(self, total: Floats, x: Floats) -> None:
        """Adds this window's share of its values [1, rows * columns, C] to those of the whole picture."""
        part = x.reshape(1, self.rows, self.columns, -1) * self.weight[None, :, :, None]
        total[:, self.top : self.top + self.rows, self.left : self.left + self.columns] += part


def windows_of(height: int, width: int, side: int) -> list[Window]:
    """The windows of a picture.

    Args:
        height: Of the picture, in latents, even.
        width: Likewise.
        side: Of a window, in latents; a shorter picture has shorter windows.
    """
    rows, columns = height // 2, width // 2
    down, across = _spread(rows, side // 2), _spread(columns, side // 2)
    shares_down, shares_across = _shares(rows, side // 2, down), _shares(columns, side // 2, across)
    return [
        Window(top, left, len(by_row), len(by_column), (rows, columns), np.outer(by_row, by_column))
        for top, by_row in zip(down, shares_down, strict=True)
        for left, by_column in zip(across, shares_across, strict=True)
    ]


def _spread(length: int, side: int) -> list[int]:
    """Where windows begin along an axis, evenly spread from end to end."""
    if length <= side:
        return [0]
    count = 1 + int(np.ceil((length - side) / (side * (1.0 - OVERLAP))))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def _shares(length: int, side: int, starts: list[int]) -> list[Floats]:
    """How much each window counts along an axis: rising and falling in its overlaps, one in all."""
    side = min(side, length)
    tent = np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1)).astype(np.float32)
    ramp = np.minimum(tent / max(1.0, side * OVERLAP), 1.0)
    total = np.zeros(length, np.float32)
    for start in starts:
        total[start : start + side] += ramp
    return [(ramp / total[start : start + side]).astype(np.float32) for start in starts]
