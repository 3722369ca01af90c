"""What a task's answer becomes: the pixels of a layer and its editable mask."""

from __future__ import annotations

import numpy as np

from desktop.document import mask
from desktop.document.tiles import Pixels, TileRaster
from desktop.jobs.pieces import fit_of, on_canvas
from flux_core.errors import RequestInvalid
from flux_core.imaging import change_mask, codec, geometry, inpaint, registration, sizes
from flux_core.imaging.inpaint import InpaintPlan

Raster = tuple[TileRaster, TileRaster | None]
"""Pixels, and the layer mask or None."""


def placed(plan: InpaintPlan, piece: Pixels, generated: Pixels, *, is_masked: bool) -> Raster:
    """A picture [h, w, 3] back at its place, in the colours of its surroundings."""
    patch = inpaint.place(on_canvas(piece, plan), plan, generated)
    raster = _opaque(patch.pixels, patch.x0, patch.y0)
    if not is_masked:
        return raster, None
    return raster, mask.hide_all().with_pixels(patch.alpha, patch.x0, patch.y0)


def edited(plan: InpaintPlan, piece: Pixels, generated: Pixels, *, is_laid_back: bool) -> Raster:
    """An edit of the whole canvas.

    Args:
        plan: Its alpha is where the result may show.
        piece: RGBA of the canvas, as it was sent.
        generated: [h, w, 3] at the working size.
        is_laid_back: Whether it is moved onto its source, and hidden where it changed nothing.
    """
    source, fitted = codec.flat(piece), fit_of(plan)
    result = sizes.unfit_picture(generated, fitted)
    shown = plan.alpha
    if is_laid_back:
        # Detail that was lost on the way to the working size and back is no change.
        before = sizes.unfit_picture(sizes.fit_picture(source, fitted), fitted)
        result = registration.lay_back(result, registration.register(before, result))
        changed = change_mask.change_mask(source, result, round_trip=before)
        result = change_mask.match_to_kept(source, result, changed)
        shown = np.minimum(changed, shown)
    is_whole = int(shown.min()) == mask.SHOW
    return _opaque(result, 0, 0), None if is_whole else mask.hide_all().with_pixels(shown, 0, 0)


def enlarged(piece: Pixels, generated: Pixels, size: tuple[int, int]) -> Raster:
    """An enlarged canvas, as transparent as the canvas was.

    Raises:
        RequestInvalid: It has another size than was asked for.
    """
    height, width = generated.shape[:2]
    if (width, height) != size:
        raise RequestInvalid(
            f"The result is {width} x {height} pixels, but {size[0]} x {size[1]} were asked for.",
            "Start the job again.",
        )
    alpha = geometry.resize(np.ascontiguousarray(piece[..., 3]), width, height)
    return TileRaster.from_array(np.dstack([generated, alpha])), None


def _opaque(pixels: Pixels, x: int, y: int) -> TileRaster:
    solid = np.full(pixels.shape[:2], 255, np.uint8)
    return TileRaster.from_array(np.dstack([pixels, solid]), x, y)
