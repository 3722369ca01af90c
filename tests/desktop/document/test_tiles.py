"""Tiles hold exactly what was put in, share what they can, and mean one picture whatever the path."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desktop.document import mask
from desktop.document.geometry import EMPTY, Extent, Rect, check_canvas_size
from desktop.document.tiles import TileRaster
from flux_core.errors import RequestInvalid
from tests.support.documents import noise

places = st.integers(-600, 600)
sizes = st.integers(1, 600)


@settings(max_examples=60, deadline=None)
@given(places, places, sizes, sizes, places, places, st.sampled_from([0, 255]), st.sampled_from([1, 4]))
def test_what_is_put_in_is_read_back_wherever_it_was_moved(
    x: int, y: int, width: int, height: int, dx: int, dy: int, fill: int, channels: int
) -> None:
    pixels = noise(width, width, height, channels)
    raster = TileRaster.from_array(pixels, x, y, fill=fill)
    moved = raster.shifted(dx, dy)
    around = Rect(x + dx - 3, y + dy - 3, width + 6, height + 6)
    wanted = np.full((height + 6, width + 6, *pixels.shape[2:]), fill, np.uint8)
    wanted[3:-3, 3:-3] = pixels
    assert np.array_equal(moved.read(around), wanted)
    assert moved.content_bounds.intersection(Rect(x + dx, y + dy, width, height)) == moved.content_bounds
    assert moved.shifted(-dx, -dy).equals(raster)
    assert np.array_equal(moved.inverted().read(around), 255 - wanted)
    kept = Rect(x + dx, y + dy, (width + 1) // 2, height)
    assert np.array_equal(moved.cropped(kept).read(kept), moved.read(kept))
    assert moved.cropped(kept).content_bounds.intersection(kept) == moved.cropped(kept).content_bounds


def test_blank_tiles_are_not_stored() -> None:
    assert not TileRaster.from_array(np.zeros((500, 500, 4), np.uint8)).tiles
    assert not TileRaster.from_array(np.full((500, 500), 255, np.uint8), fill=255).tiles
    painted = TileRaster.from_array(noise(1, 300, 300))
    assert len(painted.tiles) == 4
    assert len(painted.with_pixels(np.zeros((300, 100, 4), np.uint8), 256, 0).tiles) == 2


def test_colour_under_full_transparency_is_kept() -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[1, 1] = [9, 8, 7, 0]
    assert np.array_equal(TileRaster.from_array(pixels).read(Rect(0, 0, 4, 4)), pixels)


def test_painting_shares_every_tile_it_does_not_touch() -> None:
    raster = TileRaster.from_array(noise(1, 1024, 1024))
    other = raster.with_pixels(noise(2, 10, 10), 300, 300)
    assert sum(other.tiles[key] is not raster.tiles[key] for key in raster.tiles) == 1
    assert other.changed_rect(raster) == Rect(256, 256, 256, 256)
    assert raster.changed_rect(raster) == EMPTY


def test_growing_and_shrinking_a_selection_moves_its_edge_and_keeps_the_canvas() -> None:
    canvas = Rect(0, 0, 200, 100)
    selection = mask.select_rect(Rect(50, 40, 20, 20))
    grown = mask.grown(selection, 5, canvas)
    assert grown.content_bounds == Rect(45, 35, 30, 30)
    assert mask.grown(selection, -5, canvas).content_bounds == Rect(55, 45, 10, 10)
    assert mask.grown(selection, 90, canvas).content_bounds.intersection(canvas).height == 100


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (10**6, 10**6), (10**6, 1), (16384, 16384)])
def test_impossible_sizes_are_refused_with_a_sentence(size: tuple[int, int]) -> None:
    with pytest.raises(RequestInvalid, match=str(size[0])):
        check_canvas_size(*size)
    assert check_canvas_size(8000, 8000) == Extent(8000, 8000)
