"""Super-resolution as a plan: how a picture grows in stages of at most 2x, each painted window by window.

A stage enlarges the picture (Lanczos, or an upscaler model), lets the model repaint it at a low strength in
overlapping windows of its own working size, and hands it on. The plan is arithmetic alone, so the work
is known before anything is loaded; `seam_energy` measures whether the windows can be seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import RequestInvalid
from flux_core.imaging.codec import check_size
from flux_core.imaging.geometry import Box, resize
from flux_core.imaging.tiles import Tiling, plan_tiling
from flux_core.request import SIZE_MULTIPLE_PX

SCALES = (2, 4)
LATENT_PX = 8  # pixels per latent
STRENGTH = 0.3  # of the first stage: new texture, old composition
_LATER_STRENGTH = 0.75  # of the stage before: a later stage starts from texture that is there already
_OVERLAP_SHARE = 0.25  # of a window

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """One enlargement.

    Attributes:
        scale: Against the stage before; 2.
        width_px, height_px: The picture afterwards.
        strength: How much the model may change of the enlarged picture.
        tiling: Windows in latents, over the size padded to multiples of 16 px.
    """

    scale: int
    width_px: int
    height_px: int
    strength: float
    tiling: Tiling

    @property
    def padded_width_px(self) -> int:
        return self.tiling.width * LATENT_PX

    @property
    def padded_height_px(self) -> int:
        return self.tiling.height * LATENT_PX

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The windows in pixels, for `seam_energy`."""
        return tuple(
            Box(w.x0 * LATENT_PX, w.y0 * LATENT_PX, w.x1 * LATENT_PX, w.y1 * LATENT_PX)
            for w in self.tiling.windows
        )


@dataclass(frozen=True, slots=True, eq=False)
class UpscalePlan:
    """All stages, in order."""

    stages: tuple[Stage, ...]

    @property
    def num_windows(self) -> int:
        """Windows over all stages: the work is this times the steps of a window."""
        return sum(len(stage.tiling.windows) for stage in self.stages)


def plan_upscale(
    width_px: int, height_px: int, scale: int, working_side_px: int, strength: float = STRENGTH
) -> UpscalePlan:
    """Plans 2x as one stage and 4x as two.

    Args:
        width_px: Of the picture.
        height_px: Of the picture.
        scale: 2 or 4.
        working_side_px: Side of the square the model paints best; a window has this size.
        strength: Of the first stage, in (0, 1]; 1024 to 4096 at 0.3 is 0.3, then 0.225.

    Raises:
        RequestInvalid: Another scale or strength, or a result that is too large.
    """
    if scale not in SCALES:
        raise RequestInvalid(f"A picture cannot be enlarged {scale} times.", "Use 2 or 4.")
    if not 0.0 < strength <= 1.0:  # also refuses NaN
        raise RequestInvalid(f"A strength of {strength} is not possible.", "Use more than 0, at most 1.")
    if min(width_px, height_px) < 1:
        raise RequestInvalid(
            f"A picture of {width_px} x {height_px} pixels is empty.", "Use another picture."
        )
    check_size(width_px * scale, height_px * scale, "the enlarged picture")
    window = working_side_px // SIZE_MULTIPLE_PX * SIZE_MULTIPLE_PX // LATENT_PX
    overlap = round(window * _OVERLAP_SHARE / 2) * 2
    stages: list[Stage] = []
    for index in range({2: 1, 4: 2}[scale]):
        width_px, height_px = 2 * width_px, 2 * height_px
        tiling = plan_tiling(_latents(height_px), _latents(width_px), window, overlap)
        stages.append(Stage(2, width_px, height_px, strength * _LATER_STRENGTH**index, tiling))
    return UpscalePlan(tuple(stages))


def start_picture(picture: Pixels, stage: Stage) -> Pixels:
    """What a stage starts from: [H, W, 3] enlarged by Lanczos, then continued to multiples of 16 px.

    A picture that an upscaler model has made larger than needed is reduced instead.

    Raises:
        RequestInvalid: The picture has other proportions than the stage.
    """
    height, width = picture.shape[:2]
    if width * stage.height_px != height * stage.width_px:
        raise RequestInvalid(
            f"A picture of {width} x {height} pixels cannot become {stage.width_px} x {stage.height_px}.",
            "Keep its proportions.",
        )
    enlarged = resize(picture, stage.width_px, stage.height_px)
    below, right = stage.padded_height_px - stage.height_px, stage.padded_width_px - stage.width_px
    return np.pad(enlarged, ((0, below), (0, right), (0, 0)), mode="edge")


def seam_energy(picture: NDArray[np.generic], windows: Iterable[Box]) -> float:
    """How much stronger the jumps are across the windows' borders than elsewhere; 1 when nothing shows.

    The energy is the mean square difference of neighbouring pixels, across borders that lie inside the
    picture (along the whole side of its window) over all other neighbours in the same directions.

    Args:
        picture: [H, W] or [H, W, C].
        windows: In pixels of the picture.

    Returns:
        The ratio; 1 without an inner border, infinite where only the borders have any jump.
    """
    height, width = picture.shape[:2]
    boxes = [box.clipped(width, height) for box in windows]
    on_rows, on_columns = np.zeros((2, height, width), bool)  # a border lies before this pixel
    for box in boxes:
        on_rows[[y for y in (box.y0, box.y1) if 0 < y < height], box.x0 : box.x1] = True
        on_columns[box.y0 : box.y1, [x for x in (box.x0, box.x1) if 0 < x < width]] = True
    ratios: list[tuple[float, int]] = []
    for axis, borders in ((0, on_rows), (1, on_columns)):
        energy = _jumps(picture, axis)
        is_border = np.delete(borders, 0, axis=axis)
        if is_border.any() and not is_border.all():
            across, elsewhere = float(energy[is_border].mean()), float(energy[~is_border].mean())
            ratio = across / elsewhere if elsewhere > 0 else (np.inf if across > 0 else 1.0)
            ratios.append((ratio, int(is_border.sum())))
    total = sum(count for _, count in ratios)
    return sum(ratio * count for ratio, count in ratios) / total if total else 1.0


def _jumps(picture: NDArray[np.generic], axis: int) -> NDArray[np.float32]:
    """Square difference of each pixel from the one before it along an axis, summed over channels."""
    values = picture.astype(np.float32).reshape(*picture.shape[:2], -1)
    return np.square(np.diff(values, axis=axis)).sum(axis=2)


def _latents(side_px: int) -> int:
    return -(-side_px // SIZE_MULTIPLE_PX) * SIZE_MULTIPLE_PX // LATENT_PX
