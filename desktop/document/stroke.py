"""Brush strokes: from pen samples to tiles.

A stroke keeps its own coverage buffer and blends it over the pixels as they were when it began, so
overlapping dabs never build up beyond the brush's opacity. Dabs are set at even distances whatever the
pen's sample rate. The result is previewed on the document while painting and committed as one undo step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from enum import Enum

import numpy as np

from desktop.document import mask
from desktop.document.dabs import Coverage, Dab, Floats, Sample, path
from desktop.document.document import Document
from desktop.document.geometry import EMPTY, Rect
from desktop.document.layers import RasterLayer
from desktop.document.state import DocumentState
from desktop.document.tiles import Pixels, TileKey, TileRaster, keys_in
from flux_core.errors import RequestInvalid

MAX_BRUSH_PX = 2000.0
_FAR_PX = 1e7  # no pen is further away, whatever a driver says


class Target(Enum):
    """What a stroke paints on."""

    PIXELS = "pixels"  # of a raster or generative layer; erasing lowers alpha
    LAYER_MASK = "layer mask"  # painting shows, erasing hides
    SELECTION = "selection"  # painting marks for repainting, erasing keeps


@dataclass(frozen=True, slots=True)
class Brush:
    """How a stroke looks.

    Attributes:
        size_px: Diameter in [1, 2000].
        hardness: Part of the radius that is solid, in [0, 1]; an edge of about a pixel is always soft.
        opacity: What the whole stroke covers at most, in [0, 1].
        flow: How quickly repeated dabs reach that, in [0.01, 1]; 1 = at once.
        spacing: Distance of dabs as a part of the size, in [0.02, 1].
        is_size_by_pressure: Whether light pressure makes smaller dabs.
        is_opacity_by_pressure: Whether light pressure makes fainter dabs.
        is_eraser: Whether to take away instead of painting.
        color: RGB in [0, 255], for Target.PIXELS.
    """

    size_px: float = 40.0
    hardness: float = 0.8
    opacity: float = 1.0
    flow: float = 1.0
    spacing: float = 0.1
    is_size_by_pressure: bool = True
    is_opacity_by_pressure: bool = False
    is_eraser: bool = False
    color: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        """Raises RequestInvalid if a value is out of its range."""
        ranges = {
            "size_px": (1.0, MAX_BRUSH_PX),
            "hardness": (0.0, 1.0),
            "opacity": (0.0, 1.0),
            "flow": (0.01, 1.0),
            "spacing": (0.02, 1.0),
        }
        for one in fields(self):
            low, high = ranges.get(one.name, (0.0, 0.0))
            if one.name in ranges and not low <= getattr(self, one.name) <= high:
                value = getattr(self, one.name)
                raise RequestInvalid(f"A brush cannot have {one.name} {value}.", f"Use {low:g} to {high:g}.")

    def dab_at(self, sample: Sample) -> Dab:
        """What the brush leaves at this position of the pen."""
        size = self.size_px * sample.pressure if self.is_size_by_pressure else self.size_px
        strength = sample.pressure if self.is_opacity_by_pressure else 1.0
        return Dab(sample.x, sample.y, max(size, 1.0) / 2, self.hardness, strength)


class Stroke:
    """One stroke, from pen down to pen up.

    Args:
        document: Previewed while painting; no other edit may happen before `finish` or `cancel`.
        brush: Fixed for the stroke.
        target: What is painted on.
        layer_id: For PIXELS and LAYER_MASK; by default the active layer.

    Raises:
        RequestInvalid: There is no such layer, it is locked or hidden, a group has no pixels, or there
            is no mask to paint on.
    """

    def __init__(self, document: Document, brush: Brush, target: Target, layer_id: str | None = None) -> None:
        self._document = document
        self._brush = brush
        self._target = target
        self._layer_id = layer_id or document.active_id
        self._base = document.committed_state
        self._before = self._find_raster()
        self._after = self._before
        self._coverage = Coverage(brush.flow)
        self._last: Sample | None = None
        self._to_next_px = 0.0  # way left until the next dab

    def add(self, samples: Iterable[Sample]) -> Rect:
        """Paints on to these samples and previews; returns what changed, EMPTY if nothing.

        Samples that are not finite are skipped, pressure is clamped to [0, 1], and what lies outside
        the canvas is not painted.
        """
        canvas = self._base.canvas
        dirty = EMPTY
        for sample in samples:
            if not all(map(math.isfinite, sample)):
                continue
            x, y = (min(max(value, -_FAR_PX), _FAR_PX) for value in (sample.x, sample.y))
            sample = Sample(x, y, min(max(sample.pressure, 0.0), 1.0))
            points, self._to_next_px = path(self._last, sample, self._to_next_px, self._step_px, canvas)
            for point in points:
                dirty = dirty.union(self._coverage.stamp(self._brush.dab_at(point), canvas))
            self._last = sample
        if not dirty.is_empty:
            self._blend(dirty)
            self._document.preview(self._state_with(self._after))
        return dirty

    def finish(self) -> None:
        """Commits the stroke as one undo step; none if it changed nothing."""
        changed = self._before.with_tiles(
            {key: self._after.tile(key) for key in self._coverage.keys if self._is_changed(key)}
        )
        if changed.changed_rect(self._before).is_empty:
            self._document.discard_preview()
            return
        verb = "Erase" if self._brush.is_eraser else "Paint"
        noun = "" if self._target is Target.PIXELS else f" {self._target.value}"
        self._document.commit(f"{verb}{noun}", self._state_with(changed))

    def cancel(self) -> None:
        """Takes the stroke back as if it had never begun."""
        self._document.discard_preview()

    @property
    def _step_px(self) -> float:
        return max(self._brush.size_px * self._brush.spacing, 0.5)

    def _is_changed(self, key: TileKey) -> bool:
        return not np.array_equal(self._after.tile(key), self._before.tile(key))

    def _find_raster(self) -> TileRaster:
        if self._target is Target.SELECTION:
            return self._base.selection
        layer = self._base.find(self._layer_id)
        if layer is None:
            raise RequestInvalid("There is no layer to paint on.", "Add a layer first.")
        if layer.is_locked or not layer.is_visible:
            word, hint = ("locked", "Unlock") if layer.is_locked else ("hidden", "Show")
            raise RequestInvalid(f'"{layer.name}" is {word}.', f"{hint} the layer to paint on it.")
        if self._target is Target.LAYER_MASK:
            if layer.mask is None:
                raise RequestInvalid(f'"{layer.name}" has no mask.', "Add a mask first.")
            return layer.mask
        if not isinstance(layer, RasterLayer):
            raise RequestInvalid(f'"{layer.name}" is a group.', "Choose a layer inside it to paint on.")
        return layer.raster

    def _state_with(self, raster: TileRaster) -> DocumentState:
        if self._target is Target.SELECTION:
            return replace(self._base, selection=raster)
        assert self._layer_id is not None
        layer = self._base.layer(self._layer_id)
        if self._target is Target.LAYER_MASK:
            return self._base.replaced(replace(layer, mask=raster))
        assert isinstance(layer, RasterLayer)
        return self._base.replaced(replace(layer, raster=raster))

    def _blend(self, dirty: Rect) -> None:
        """Blends the coverage in `dirty` over the pixels as they were before the stroke."""
        changes: dict[TileKey, Pixels] = {}
        for key in keys_in(dirty):
            cover = self._coverage.tile(key)
            if cover is None:
                continue
            inner = dirty.intersection(key.rect).slices_in(key.rect)
            tile = self._after.tile(key).copy()
            before = self._before.tiles.get(key)
            below = np.full_like(tile[inner], self._before.fill) if before is None else before[inner]
            tile[inner] = self._mixed(below, cover[inner] * np.float32(self._brush.opacity))
            changes[key] = tile
        self._after = TileRaster(self._before.channels, self._before.fill, {**self._after.tiles, **changes})

    def _mixed(self, below: Pixels, alpha: Floats) -> Pixels:
        """`below` ([H, W, 4] or [H, W]) painted or erased with coverage [H, W] in [0, 1]."""
        if self._target is not Target.PIXELS:
            aim = np.float32(mask.KEEP if self._brush.is_eraser else mask.REPAINT)  # also HIDE and SHOW
            return (below + (aim - below) * alpha + np.float32(0.5)).astype(np.uint8)
        if self._brush.is_eraser:
            out = below.copy()
            out[..., 3] = below[..., 3] * (1 - alpha) + np.float32(0.5)
            return out
        return _painted(below, alpha, self._brush.color)


def _painted(below: Pixels, alpha: Floats, color: tuple[int, int, int]) -> Pixels:
    """Straight RGBA [H, W, 4] with `color` laid over it; untouched pixels keep their bytes."""
    out = np.empty_like(below)
    alpha_below = below[..., 3] * np.float32(1 / 255)
    alpha_out = alpha + alpha_below * (1 - alpha)
    share = alpha / np.maximum(alpha_out, np.float32(1e-6))  # of the new colour in the result
    for channel in range(3):
        old = below[..., channel].astype(np.float32)
        np.add(
            old + (color[channel] - old) * share,
            np.float32(0.5),
            out=out[..., channel],
            casting="unsafe",
        )
    np.add(alpha_out * 255, np.float32(0.5), out=out[..., 3], casting="unsafe")
    return out
