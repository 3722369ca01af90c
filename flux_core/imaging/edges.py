"""Control maps: the edges, sketches and depths that a controlled model is told to follow.

Every map is [H, W, 3] uint8 with three equal channels: edges and strokes white on black, near things
bright. The conditioning turns it into [-1, 1] like any picture.

Source: black-forest-labs/flux modules/image_embedders.py (Canny on the RGB bytes at 50 and 200; depth as
the depth model gives it, large is near); Canny 1986.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import RequestInvalid
from flux_core.imaging.opencv import grey, opencv

BFL_THRESHOLDS = (50.0, 200.0)
"""What FLUX.1 Canny was trained with."""

_MAX_THRESHOLD = 2040.0  # the largest gradient that a 3 x 3 Sobel gives on bytes, twice
_SPREAD = 0.33  # of the median, either way
_MEDIAN_RANGE = (32.0, 160.0)  # a black or white picture has edges as any other, and noise as any other
_DEPTH_PERCENTILES = (0.5, 99.5)

Pixels = NDArray[np.uint8]


def auto_thresholds(picture: Pixels) -> tuple[float, float]:
    """Thresholds around the median brightness (the median rule), for [H, W], [H, W, 3] or [H, W, 4].

    The median is kept within 32..160: the plain rule finds only noise in a dark picture and nothing in a
    white one.
    """
    median = float(np.clip(np.median(grey(picture)), *_MEDIAN_RANGE))
    return (1.0 - _SPREAD) * median, (1.0 + _SPREAD) * median


def canny_map(picture: Pixels, low: float | None = None, high: float | None = None) -> Pixels:
    """Edges of a picture.

    Args:
        picture: [H, W, 3] or [H, W, 4] sRGB at the size of the result; alpha is ignored.
        low: Gradients above this go on an edge that has begun; None lets the picture decide.
        high: Gradients above this begin an edge; BFL_THRESHOLDS are what FLUX.1 Canny knows best.

    Returns:
        [H, W, 3], 255 on an edge, else 0.

    Raises:
        RequestInvalid: Only one threshold is given, or they are not 0 <= low <= high.
    """
    if (low is None) != (high is None):
        raise RequestInvalid("Edges need both thresholds or none.", "Give low and high, for example 50,200.")
    if low is None or high is None:
        low, high = auto_thresholds(picture)
    if not 0.0 <= low <= high <= _MAX_THRESHOLD:  # also refuses NaN
        raise RequestInvalid(
            f"Edges cannot be found with the thresholds {low} and {high}.",
            f"Use 0 <= low <= high <= {_MAX_THRESHOLD:.0f}, for example 50,200.",
        )
    rgb = picture if picture.ndim == 2 else np.ascontiguousarray(picture[..., :3])
    return _three(opencv().Canny(rgb, low, high))


def sketch_map(layer: Pixels) -> Pixels:
    """A painted layer as a map: strokes bright on black, stretched to the full range.

    Args:
        layer: [H, W], [H, W, 3] or [H, W, 4]. Paint on transparency is taken by its opacity, whatever its
            colour; a drawing on light paper (most of it lighter than grey) is inverted.

    Returns:
        [H, W, 3]; all black where nothing was drawn.
    """
    if layer.ndim == 3 and layer.shape[2] == 4 and int(layer[..., 3].min()) < 255:
        strokes = layer[..., 3].astype(np.float32)
        return _three(_stretched(strokes, 0.0, float(strokes.max())))
    strokes = grey(layer).astype(np.float32)
    if float(np.median(strokes)) > 127.5:
        strokes = 255.0 - strokes
    return _three(_stretched(strokes, float(np.median(strokes)), float(strokes.max())))


def depth_to_map(
    depth: NDArray[np.floating], *, is_near_large: bool = True, size: tuple[int, int] | None = None
) -> Pixels:
    """What a depth model gives as the map that FLUX.1 Depth expects: near is white, far is black.

    Args:
        depth: [H, W] in any unit; what is not finite counts as far away.
        is_near_large: True for inverse depth (Depth Anything), false for distances (Depth Pro, metres).
        size: Width and height of the map; None keeps the size. Bicubic.

    Returns:
        [H, W, 3], stretched between the 0.5 and 99.5 percentiles; mid-grey for a depth without any range.

    Raises:
        RequestInvalid: Not [H, W], empty, or nothing of it is finite.
    """
    if depth.ndim != 2 or not np.isfinite(depth).any():
        raise RequestInvalid(f"A depth of shape {depth.shape} cannot be used.", "Give one depth per pixel.")
    is_finite = np.isfinite(depth)
    nearness = np.where(is_finite, depth, 0).astype(np.float64)
    if not is_near_large:
        floor = max(float(nearness[is_finite].max()) * 1e-4, 1e-12)
        nearness = 1.0 / np.maximum(nearness, floor)
    low, high = (float(v) for v in np.percentile(nearness[is_finite], _DEPTH_PERCENTILES))
    nearness = np.where(is_finite, nearness, low).astype(np.float32)
    if size is not None and (depth.shape[1], depth.shape[0]) != size:
        nearness = opencv().resize(nearness, size, interpolation=opencv().INTER_CUBIC)
    if high - low <= 1e-9 * max(abs(high), abs(low), 1e-30):
        return np.full((*nearness.shape, 3), 128, np.uint8)
    return _three(_stretched(nearness, low, high))


def _stretched(values: NDArray[np.float32], low: float, high: float) -> Pixels:
    """`low` becomes 0 and `high` 255; all 0 where they are equal."""
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    return np.rint(np.clip((values - low) / (high - low), 0.0, 1.0) * 255.0).astype(np.uint8)


def _three(map_: Pixels) -> Pixels:
    return np.repeat(map_[..., None], 3, axis=2)
