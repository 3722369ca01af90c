"""The windows of a large picture, in tokens: what each cuts out, and how much it counts where.

Windows are of one size, so that everything made for one serves all (flux_core.imaging.tiles).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.imaging import tiles
from flux_core.models.autoencoder import SCALE_FACTOR

Floats = NDArray[np.float32]

_TOKEN_PX = 2 * SCALE_FACTOR


@dataclass(frozen=True, slots=True)
class Window:
    """One window.

    Attributes:
        place: In tokens.
        grid: Rows and columns of tokens of the whole picture.
        weight: [rows, columns, 1], its share of each token.
    """

    place: tiles.Window
    grid: tuple[int, int]
    weight: Floats

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in latents."""
        return 2 * self.place.height, 2 * self.place.width

    def of_tokens(self, x: Any) -> Any:
        """[1, L, C] of the whole picture -> the window's tokens, [1, l, C]."""
        channels = int(x.shape[2])
        part = self.place.cut(x.reshape(1, *self.grid, channels))
        return part.reshape(1, self.place.height * self.place.width, channels)

    def of_pixels(self, image: Any) -> Any:
        """[1, H, W, C] of the whole picture -> this window's pixels."""
        sides = (self.place.y0, self.place.x0, self.place.y1, self.place.x1)
        return tiles.Window(*(side * _TOKEN_PX for side in sides)).cut(image)

    def add(self, total: Floats, x: Floats) -> None:
        """Adds this window's share of its tokens [1, l, C] to those of the whole picture."""
        part = x.reshape(1, self.place.height, self.place.width, -1) * self.weight
        total[:, self.place.rows, self.place.columns] += part


def windows_of(height: int, width: int, side: int) -> list[Window]:
    """The windows of a picture; neighbours overlap by a quarter at least.

    Args:
        height: Of the picture, in latents, even.
        width: Likewise.
        side: Of a window, in latents; a shorter picture has shorter windows.
    """
    rows, columns = height // 2, width // 2
    tiling = tiles.plan_tiling(rows, columns, side // 2, side // 8, multiple=1)
    return [Window(place, (rows, columns), tiling.weight(i)) for i, place in enumerate(tiling.windows)]
