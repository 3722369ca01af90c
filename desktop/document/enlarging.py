"""The whole document a whole number of times as large: canvas, layers, masks, selection, recipes.

Nothing is merged, so that everything can still be edited at the new size. Lanczos with the centres of both
grids aligned; a layer's own border stays a border.
"""

from __future__ import annotations

from dataclasses import replace

from desktop.document.geometry import Extent, Rect, check_canvas_size
from desktop.document.layers import GenerativeLayer, GroupLayer, Layer, RasterLayer, Recipe
from desktop.document.state import DocumentState
from desktop.document.tiles import TileRaster
from flux_core.imaging import geometry
from flux_core.request import Task


def scale_for(size: Extent, recipe: Recipe) -> int:
    """How many times as large a canvas becomes for a result.

    1 for whatever is no enlargement, and where it fits already (another one came before) or does not fit
    any more (the canvas was cut meanwhile).
    """
    request = recipe.request
    if request.task is not Task.UPSCALE:
        return 1
    across, rest = divmod(request.width_px, size.width)
    down, more = divmod(request.height_px, size.height)
    return across if across == down and not (rest or more) else 1


def enlarged(state: DocumentState, scale: int) -> DocumentState:
    """The document `scale` times as wide and high.

    Raises:
        RequestInvalid: The canvas would be too large.
    """
    size: Extent = check_canvas_size(state.size.width * scale, state.size.height * scale)
    return replace(
        state,
        size=size,
        layers=tuple(_layer(layer, scale) for layer in state.layers),
        selection=_raster(state.selection, scale),
    )


def _layer(layer: Layer, scale: int) -> Layer:
    mask = None if layer.mask is None else _raster(layer.mask, scale)
    if isinstance(layer, GroupLayer):
        return replace(layer, mask=mask, children=tuple(_layer(child, scale) for child in layer.children))
    if isinstance(layer, GenerativeLayer):
        recipe = replace(layer.recipe, box=_rect(layer.recipe.box, scale))
        return replace(layer, mask=mask, raster=_raster(layer.raster, scale), recipe=recipe)
    if isinstance(layer, RasterLayer):
        return replace(layer, mask=mask, raster=_raster(layer.raster, scale))
    return replace(layer, mask=mask)


def _raster(raster: TileRaster, scale: int) -> TileRaster:
    part = raster.content_bounds
    if part.is_empty:
        return raster
    target = _rect(part, scale)
    pixels = geometry.resize(raster.read(part), target.width, target.height)
    return TileRaster.from_array(pixels, target.x, target.y, raster.fill)


def _rect(rect: Rect, scale: int) -> Rect:
    return Rect(rect.x * scale, rect.y * scale, rect.width * scale, rect.height * scale)
