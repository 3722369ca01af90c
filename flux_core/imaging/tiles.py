"""Overlapping windows, so that a picture of any size is worked on in memory of one size.

Diffusion and autoencoder see a window at a time; where windows overlap, their results fade into each
other by weights that sum to 1 everywhere. The same weights serve tiled diffusion (velocities, blended
at every step) and the tiled autoencoder.

Source: Bar-Tal et al. 2023, MultiDiffusion, equation 5 (weighted mean of overlapping windows); the
smooth weights are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_LATENT_PX = 8  # pixels per latent


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of a grid; y1 and x1 are just outside."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def rows(self) -> slice:
        return slice(self.y0, self.y1)

    @property
    def columns(self) -> slice:
        return slice(self.x0, self.x1)

    def cut(self, x: Any) -> Any:
        """The window's part of [B, H, W, C], on any backend."""
        return x[:, self.y0 : self.y1, self.x0 : self.x1]


@dataclass(frozen=True, slots=True, eq=False)
class Tiling:
    """Windows that cover a grid, row by row, and how they fade into each other.

    Attributes:
        height, width: Of the grid (latents or pixels).
        windows: In reading order, all of one size.
        row_weights, column_weights: For each row and each column of windows, its fade [window side].
    """

    height: int
    width: int
    windows: tuple[Window, ...]
    row_weights: tuple[Floats, ...]
    column_weights: tuple[Floats, ...]

    def weight(self, index: int) -> Floats:
        """The weight [h, w, 1] of window number `index`; all weights sum to 1 at every place."""
        row, column = divmod(index, len(self.column_weights))
        return (self.row_weights[row][:, None] * self.column_weights[column])[..., None]


class Blender:
    """The weighted sum of windows, grown one window at a time; memory of one picture, whatever their number.

    Args:
        tiling: The windows.
        total: Zeros [B, H, W, C] that the sum grows in; a NumPy, torch or MLX array.
        to_array: From a weight on the host to an array of the kind of `total`.
    """

    def __init__(self, tiling: Tiling, total: Any, to_array: Callable[[Floats], Any] = lambda w: w) -> None:
        self._tiling = tiling
        self._to_array = to_array
        self.total = total
        """The blended result, once every window has been added."""

    def add(self, index: int, values: Any) -> None:
        """Adds the result [B, h, w, C] of window number `index`."""
        window = self._tiling.windows[index]
        weighted = values * self._to_array(self._tiling.weight(index))
        here = (slice(None), window.rows, window.columns)
        self.total[here] = self.total[here] + weighted


def plan_tiling(
    height: int, width: int, window: int | tuple[int, int], overlap: int, multiple: int = 2, margin: int = 0
) -> Tiling:
    """Lays windows over a grid, evenly, so that neighbours overlap by at least `overlap`.

    Args:
        height: Of the grid, a multiple of `multiple`.
        width: Of the grid, a multiple of `multiple`.
        window: Side of a window, or its height and width; a side of the grid that is not longer gets one
            window of its own length.
        overlap: Least overlap of neighbours, at most half a window.
        multiple: Windows start and end on multiples of this (two latents are a token).
        margin: So much of a window's edge is not used where a neighbour has it, too; under half of `overlap`.

    Raises:
        ValueError: The numbers do not fit together.
    """
    tall, wide = (window, window) if isinstance(window, int) else window
    rows, columns = _spans(height, tall, overlap, multiple), _spans(width, wide, overlap, multiple)
    if margin < 0 or (margin > 0 and 2 * margin >= overlap):
        raise ValueError(f"a margin of {margin} leaves nothing of an overlap of {overlap} to fade in")
    return _tiling(height, width, rows, columns, margin)


def autoencoder_window(working_side_px: int) -> tuple[int, int]:
    """Window and overlap, in latents, for the autoencoder of a model of this working side (in pixels).

    A window is the size that the autoencoder was trained at, a quarter overlaps. Its convolutions reach 17
    latents and its attention and group norms everywhere, so no overlap makes a window equal to the whole
    picture; what the fade must hide is a slow difference of tones, and a quarter does.
    """
    window = max(working_side_px // _LATENT_PX // 8 * 8, 8)
    return window, window // 4


def scaled_tiling(tiling: Tiling, scale: Fraction | int, margin: int = 0) -> Tiling:
    """The same windows on a grid of `scale` times the size, with weights of their own at that size.

    Args:
        tiling: On the smaller or larger grid.
        scale: Every border must fall on whole numbers.
        margin: As in plan_tiling, on the new grid.
    """
    rows = sorted({(w.y0, w.y1) for w in tiling.windows})
    columns = sorted({(w.x0, w.x1) for w in tiling.windows})
    return _tiling(
        _whole(tiling.height * scale),
        _whole(tiling.width * scale),
        [(_whole(a * scale), _whole(b * scale)) for a, b in rows],
        [(_whole(a * scale), _whole(b * scale)) for a, b in columns],
        margin,
    )


def tiled_apply(
    fn: Callable[[Floats], Floats],
    x: Floats,
    window: int,
    overlap: int,
    scale: Fraction | int,
    check: Callable[[int, int], None] | None = None,
    margin: int = 0,
) -> Floats:
    """Applies a function window by window and blends what it gives.

    Args:
        fn: [1, h, w, C] -> [1, s*h, s*w, C'].
        x: [1, H, W, C]; what fits into one window goes through `fn` whole.
        window: Side of a window, in places of `x`.
        overlap: Least overlap of neighbours, in places of `x`; at most half a window.
        scale: s: 8 for a decoder, Fraction(1, 8) for an encoder (sides, window and overlap are then
            multiples of 8).
        check: Called before each window with (done, total); raise from it to stop.
        margin: Edge of a window that is not used, in places of `x`: as much as the function's result is
            disturbed by not seeing beyond the window.

    Returns:
        [1, s*H, s*W, C'] float32.

    Raises:
        ValueError: The numbers do not fit together.
    """
    if x.ndim != 4 or x.shape[0] != 1:
        raise ValueError(f"one picture [1, H, W, C] is needed, not {x.shape}")
    scale = Fraction(scale)
    tiling = plan_tiling(x.shape[1], x.shape[2], window, overlap, scale.denominator, margin)
    finished = scaled_tiling(tiling, scale, int(margin * scale))
    blender: Blender | None = None
    for index, here in enumerate(tiling.windows):
        if check is not None:
            check(index, len(tiling.windows))
        values = fn(np.ascontiguousarray(here.cut(x)))
        there = finished.windows[index]
        if values.shape[:3] != (1, there.height, there.width):
            raise ValueError(f"a window became {values.shape}, not [1, {there.height}, {there.width}, C]")
        if blender is None:
            blender = Blender(
                finished, np.zeros((1, finished.height, finished.width, values.shape[3]), np.float32)
            )
        blender.add(index, values)
    if blender is None:
        raise ValueError("a picture without pixels has no windows")
    return blender.total


def _spans(length: int, window: int, overlap: int, multiple: int) -> list[tuple[int, int]]:
    """Where the windows start and end along an axis, in order."""
    if length < 1 or length % multiple or window % multiple or overlap % multiple:
        raise ValueError(f"{length}, {window} and {overlap} must be multiples of {multiple}")
    if not 0 <= 2 * overlap <= window or window < 1:
        raise ValueError(f"windows of {window} cannot overlap by {overlap}; at most half")
    if length <= window:
        return [(0, length)]
    steps = -(-(length - window) // (window - overlap))
    way = (length - window) // multiple
    starts = [i * way // steps * multiple for i in range(steps + 1)]
    return [(start, start + window) for start in starts]


def _tiling(
    height: int, width: int, rows: list[tuple[int, int]], columns: list[tuple[int, int]], margin: int
) -> Tiling:
    windows = tuple(Window(y0, x0, y1, x1) for y0, y1 in rows for x0, x1 in columns)
    return Tiling(height, width, windows, _fades(rows, margin), _fades(columns, margin))


def _fades(spans: list[tuple[int, int]], margin: int) -> tuple[Floats, ...]:
    """The weight of each span along itself.

    Each overlap has one rising curve, each weight is the difference of two neighbouring curves, so the sum
    is 1 by construction, also where three windows meet.
    """
    fades: list[Floats] = []
    for i, (start, end) in enumerate(spans):
        places = np.arange(start, end, dtype=np.float64) + np.float64(0.5)
        rise = _curve(places, start + margin, spans[i - 1][1] - margin) if i else np.ones(end - start)
        is_last = i == len(spans) - 1
        fall = 0.0 if is_last else _curve(places, spans[i + 1][0] + margin, end - margin)
        fades.append((rise - fall).astype(np.float32))
    return tuple(fades)


def _curve(places: NDArray[Any], start: int, end: int) -> NDArray[np.float64]:
    """From 0 at `start` to 1 at `end`, smooth at both; a step where there is no overlap."""
    t = np.clip((places - start) / max(end - start, 1e-9), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _whole(value: Fraction | int) -> int:
    if value != int(value):
        raise ValueError(f"a window's border falls on {value}, not on a whole number")
    return int(value)
