"""A document that grows as a whole: canvas, layers, masks, selection and recipes."""

from __future__ import annotations

import numpy as np
import pytest

from desktop.document import mask
from desktop.document.compositor import render
from desktop.document.enlarging import enlarged, scale_for
from desktop.document.geometry import Extent, Rect
from desktop.document.layers import GenerativeLayer, GroupLayer, RasterLayer, Recipe, Variant
from desktop.document.state import DocumentState
from desktop.document.tiles import TileRaster
from flux_core.errors import RequestInvalid
from flux_core.request import GenerationRequest


def square(x: int, y: int, side: int) -> TileRaster:
    return TileRaster.from_array(np.full((side, side, 4), (10, 200, 30, 255), np.uint8), x, y)


def test_everything_is_as_many_times_as_large():
    made = GenerativeLayer(
        name="made",
        raster=square(20, 30, 40),
        mask=mask.show_all().with_pixels(np.zeros((10, 10), np.uint8), 25, 35),
        recipe=Recipe(GenerationRequest(), Rect(20, 30, 40, 40), (Variant(b"", 1),)),
    )
    group = GroupLayer(name="group", children=(made,))
    paper = RasterLayer(name="paper", raster=TileRaster.from_array(np.full((80, 100, 4), 255, np.uint8)))
    state = DocumentState(
        size=Extent(100, 80), layers=(paper, group), selection=mask.select_rect(Rect(5, 6, 7, 8))
    )
    larger = enlarged(state, 3)
    assert larger.size == Extent(300, 240)
    assert larger.selection.content_bounds == Rect(15, 18, 21, 24)
    (child,) = larger.children(group.id)
    assert isinstance(child, GenerativeLayer)
    assert child.id == made.id
    assert child.recipe.box == Rect(60, 90, 120, 120)
    assert child.raster.content_bounds == Rect(60, 90, 120, 120)
    assert child.mask is not None
    assert child.mask.content_bounds == Rect(75, 105, 30, 30)
    picture = render(larger)
    assert picture.shape == (240, 300, 4)
    assert (picture[..., 3] == 255).all(), "the paper reaches the border"
    assert np.array_equal(picture[1::3, 1::3][40:60, 45:58], render(state)[40:60, 45:58])


def test_an_empty_layer_stays_empty():
    state = DocumentState(size=Extent(10, 10), layers=(RasterLayer(name="new"),))
    assert enlarged(state, 2).layers[0].bounds.is_empty


def test_a_canvas_that_would_be_too_large_is_refused():
    with pytest.raises(RequestInvalid):
        enlarged(DocumentState(size=Extent(9000, 9000)), 4)


@pytest.mark.parametrize(
    ("task", "size", "scale"),
    [
        ("upscale", (100, 80), 4),
        ("upscale", (200, 160), 2),
        ("upscale", (400, 320), 1),  # another enlargement came before
        ("upscale", (90, 80), 1),  # the canvas was cut meanwhile
        ("generate", (100, 80), 1),
    ],
)
def test_the_canvas_grows_as_far_as_the_result_needs(task, size, scale):
    image = "a" * 64 if task == "upscale" else None
    request = GenerationRequest(task=task, image=image, width_px=400, height_px=320)
    recipe = Recipe(request, Rect(0, 0, 400, 320), (Variant(b"", 1),))
    assert scale_for(Extent(*size), recipe) == scale
