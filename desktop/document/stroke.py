"""Brush strokes: from pen samples to tiles.

A stroke keeps its own coverage buffer and blends it over the pixels as they were when it began, so
overlapping dabs never build up beyond the brush's opacity. Dabs are set at even distances whatever the
pen's sample rate. The result is previewed on the document while painting and committed as one undo step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from desktop.document.document import Document
from desktop.document.geometry import Rect


class Target(Enum):
    """What a stroke paints on."""

    PIXELS = "pixels"  # of a raster or generative layer; erasing lowers alpha
    LAYER_MASK = "layer mask"  # painting shows, erasing hides
    SELECTION = "selection"  # painting marks for repainting, erasing keeps


class Sample(NamedTuple):
    """One position of the pen in document pixels, with pressure in [0, 1]; a mouse has 1."""

    x: float
    y: float
    pressure: float = 1.0


@dataclass(frozen=True, slots=True)
class Brush:
    """How a stroke looks.

    Attributes:
        size_px: Diameter in [1, 2000].
        hardness: Part of the radius that is solid, in [0, 1]; an edge of about a pixel is always soft.
        opacity: What the whole stroke covers at most, in (0, 1].
        flow: How quickly repeated dabs reach that, in (0, 1]; 1 = at once.
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
        raise NotImplementedError

    def add(self, samples: Iterable[Sample]) -> Rect:
        """Paints on to these samples and previews; returns what changed, EMPTY if nothing."""
        raise NotImplementedError

    def finish(self) -> None:
        """Commits the stroke as one undo step; none if it changed nothing."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Takes the stroke back as if it had never begun."""
        raise NotImplementedError
