"""Another variant of a generated layer in place of the one it shows, without a model.

A recipe keeps each variant as the engine gave it; here it is brought to its place again, in the colours of
what lies below the layer now. The layer's mask stays as it is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from desktop.document import compositor, mask
from desktop.document.geometry import Rect
from desktop.document.layers import GenerativeLayer, Layer
from desktop.document.state import DocumentState
from desktop.document.tiles import Pixels, TileRaster
from desktop.jobs import results
from desktop.jobs.pieces import edit_box
from flux_core.errors import RequestInvalid
from flux_core.imaging import codec, geometry
from flux_core.imaging.geometry import Box
from flux_core.imaging.inpaint import InpaintPlan
from flux_core.request import Task


def variant_raster(state: DocumentState, layer: GenerativeLayer, number: int) -> TileRaster:
    """The pixels of a variant, placed on the document; slow, so not for the GUI thread.

    Args:
        state: Holds the layer.
        layer: Whose recipe has the variant.
        number: Which one, from 0.

    Raises:
        RequestInvalid: The layer has no pixels.
        Corrupt: The variant is damaged.
    """
    recipe = layer.recipe
    generated = codec.decode(recipe.variants[number].png, "the variant")[..., :3]
    height, width = generated.shape[:2]
    seen = recipe.box.intersection(layer.raster.content_bounds)  # moved along, also off the canvas
    if seen.is_empty:
        raise RequestInvalid(f'"{layer.name}" is empty.', "Undo what erased it first.")
    whole = np.full((seen.height, seen.width), mask.SHOW, np.uint8)
    shown = whole if layer.mask is None else layer.mask.read(seen)
    task = recipe.request.task
    plan = InpaintPlan(
        picture_size=seen.extent,
        box=_box(recipe.box.translated(-seen.x, -seen.y)),
        work_width_px=width,
        work_height_px=height,
        work_mask=_at_work(shown, seen, recipe.box, width, height),
        core=Box(0, 0, seen.width, seen.height),
        alpha=shown,
        is_colour_matched=task is Task.FILL,
    )
    edited = edit_box(state.size, (width, height))
    if task is Task.EDIT and (edited.width, edited.height) == recipe.box.extent:
        source = compositor.render_layers(_below(state, layer), state.canvas)
        everywhere = np.full((state.size.height, state.size.width), mask.SHOW, np.uint8)
        plan = replace(plan, picture_size=state.size, alpha=everywhere)
        raster, _ = results.edited(plan, source, generated, is_laid_back=layer.mask is not None)
        return raster.shifted(recipe.box.x - edited.x0, recipe.box.y - edited.y0)
    below = compositor.render_layers(_below(state, layer), seen)
    raster, _ = results.placed(plan, below, generated, is_masked=False)
    return raster.shifted(seen.x, seen.y)


def _at_work(shown: Pixels, seen: Rect, box: Rect, width: int, height: int) -> Pixels:
    """Where the layer shows, at the size that the model saw: 255 = repainted."""
    piece = np.zeros((box.height, box.width), np.uint8)
    piece[seen.y - box.y : seen.bottom - box.y, seen.x - box.x : seen.right - box.x] = shown
    is_shown = geometry.resize(piece, width, height) > mask.HIDE
    return np.where(is_shown, mask.REPAINT, mask.KEEP).astype(np.uint8)


def _below(state: DocumentState, layer: GenerativeLayer) -> tuple[Layer, ...]:
    """The root's layers under the one that is, or holds, this layer."""
    place = state.location(layer.id)
    while place.parent is not None:
        place = state.location(place.parent)
    return state.layers[: place.position]


def _box(rect: Rect) -> Box:
    return Box(rect.x, rect.y, rect.right, rect.bottom)
