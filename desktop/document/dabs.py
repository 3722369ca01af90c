"""The geometry of a brush: where its dabs fall, and how much each covers.

Dabs are placed at even distances along the pen's way, whatever the sample rate, with subpixel centres.
Their coverage is gathered in a sparse buffer of its own, where a dab only ever raises a pixel towards its
own profile: a stroke that crosses itself gets no darker.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from desktop.document.geometry import EMPTY, Rect
from desktop.document.tiles import TILE_PX, TileKey, keys_in

Floats = npt.NDArray[np.floating[Any]]  # float32 throughout


_LARGE_PX = 32  # radius from which a dab is put on whole pixels


class Sample(NamedTuple):
    """One position of the pen in document pixels, with pressure in [0, 1]; a mouse has 1."""

    x: float
    y: float
    pressure: float = 1.0


class Dab(NamedTuple):
    """A round spot: centre and radius in pixels, solid part of the radius and strength in [0, 1]."""

    x: float
    y: float
    radius_px: float
    hardness: float
    strength: float

    @property
    def rect(self) -> Rect:
        """Every pixel it may touch."""
        reach = self.radius_px + 1
        x, y = math.floor(self.x - reach), math.floor(self.y - reach)
        return Rect(x, y, math.ceil(self.x + reach) - x, math.ceil(self.y + reach) - y)

    def snapped(self) -> Dab:
        """A large dab on whole pixels, where no eye sees the difference; its profile can be used again."""
        if self.radius_px < _LARGE_PX:
            return self
        return self._replace(
            x=round(self.x),
            y=round(self.y),
            radius_px=round(self.radius_px),
            strength=round(self.strength, 2),
        )

    def profile(self) -> Floats:
        """Coverage in [0, 1] of the pixels of `rect`, [H, W]: solid inside, then falling to the edge."""
        rect = self.rect
        dx = np.arange(rect.x, rect.right, dtype=np.float32) + np.float32(0.5 - self.x)
        dy = np.arange(rect.y, rect.bottom, dtype=np.float32) + np.float32(0.5 - self.y)
        distance = np.sqrt(dx[None, :] ** 2 + dy[:, None] ** 2)
        # Half a pixel beyond the radius, so that even a hard brush has a smooth edge one pixel wide.
        fade_px = max((1 - self.hardness) * self.radius_px, 1.0)
        t = np.clip((np.float32(self.radius_px + 0.5) - distance) / np.float32(fade_px), 0, 1)
        return t * t * (3 - 2 * t) * np.float32(self.strength)


class Coverage:
    """What a stroke has covered so far: sparse tiles of float32 [256, 256] in [0, 1].

    Args:
        flow: Part of the way to its profile that one dab raises a pixel, in (0, 1].
    """

    def __init__(self, flow: float) -> None:
        self._flow = np.float32(flow)
        self._tiles: dict[TileKey, Floats] = {}
        self._profile: tuple[Dab, Floats] | None = None  # the last large dab, moved to (0, 0)

    @property
    def keys(self) -> tuple[TileKey, ...]:
        """The tiles that were touched."""
        return tuple(self._tiles)

    def tile(self, key: TileKey) -> Floats | None:
        """A touched tile, not to be changed; None if untouched."""
        return self._tiles.get(key)

    def stamp(self, dab: Dab, canvas: Rect) -> Rect:
        """Adds a dab; returns the pixels of the canvas that it may have touched."""
        dab = dab.snapped()
        rect = dab.rect.intersection(canvas)
        if rect.is_empty or dab.strength <= 0.0:
            return EMPTY
        profile = self._profile_of(dab)
        for key in keys_in(rect):
            shared = rect.intersection(key.rect)
            if key not in self._tiles:
                self._tiles[key] = np.zeros((TILE_PX, TILE_PX), np.float32)
            part = self._tiles[key][shared.slices_in(key.rect)]
            aim = profile[shared.slices_in(dab.rect)]
            if self._flow < 1:
                aim = part + np.maximum(aim - part, 0) * self._flow
            np.maximum(part, aim, out=part)
        return rect

    def _profile_of(self, dab: Dab) -> Floats:
        if dab.radius_px < _LARGE_PX:
            return dab.profile()
        centred = dab._replace(x=0, y=0)
        if self._profile is None or self._profile[0] != centred:
            self._profile = (centred, centred.profile())
        return self._profile[1]


def path(
    last: Sample | None, to: Sample, to_next_px: float, step_px: float, canvas: Rect
) -> tuple[list[Sample], float]:
    """Evenly spaced positions on the straight way from `last` to `to`, those near the canvas only.

    Args:
        last: Where the pen was; None at pen down, which sets one dab at `to`.
        to: Where the pen is.
        to_next_px: Way left until the next dab, as returned the time before.
        step_px: Distance between dabs.
        canvas: Ways far outside are skipped, however long they are.

    Returns:
        The positions, and the way left until the next one.
    """
    if last is None:
        return [to], step_px
    length = math.hypot(to.x - last.x, to.y - last.y)
    if length == 0 or length < to_next_px:
        return [], to_next_px - length
    count = math.floor((length - to_next_px) / step_px) + 1
    first, end = _steps_near(last, to, canvas, length)
    low = max(0, math.floor((first - to_next_px) / step_px))
    high = min(count, math.ceil((end - to_next_px) / step_px) + 1)
    points: list[Sample] = []
    for index in range(low, high):
        t = (to_next_px + index * step_px) / length
        points.append(Sample(*(a + (b - a) * t for a, b in zip(last, to, strict=True))))
    return points, to_next_px + count * step_px - length


def _steps_near(last: Sample, to: Sample, canvas: Rect, length: float) -> tuple[float, float]:
    """The stretch of the way, in pixels from its start, that passes near the canvas (empty if none)."""
    near = canvas.inflated(max(canvas.width, canvas.height, 4 * TILE_PX))
    first, end = 0.0, 1.0
    for start, stop, low, high in (
        (last.x, to.x, near.x, near.right),
        (last.y, to.y, near.y, near.bottom),
    ):
        if start == stop:
            if not low <= start <= high:
                return 0.0, -1.0
            continue
        t_low, t_high = sorted(((low - start) / (stop - start), (high - start) / (stop - start)))
        first, end = max(first, t_low), min(end, t_high)
    return first * length, end * length
