"""Another variant of a generated layer lies where the first one lay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from desktop.document import commands, mask
from desktop.document.compositor import render
from desktop.document.geometry import Rect
from desktop.document.layers import GenerativeLayer
from desktop.document.tiles import TileRaster
from desktop.jobs import plan
from desktop.jobs.variants import variant_raster
from desktop.jobs.wish import Action, Wish
from flux_core import catalog
from flux_core.errors import RequestInvalid
from flux_core.imaging import codec


def deliver(photo, wish: Wish, *shades: int) -> GenerativeLayer:
    """The layer of a job that came back with a picture for each shade."""
    prepared = plan.prepare(photo.committed_state, wish, catalog.find("tiny"))
    size = (prepared.request.height_px, prepared.request.width_px, 3)
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    pictures = [
        (codec.encode_png(np.dstack([(x + shade) % 256, y % 256, x * 0 + shade]).astype(np.uint8)), shade)
        for shade in shades
    ]
    layer = plan.finish(prepared, pictures, "result")
    photo.commit("Insert result", photo.committed_state.inserted(layer, None, 1), active_id=layer.id)
    return layer


def test_the_first_variant_placed_again_is_the_same_to_the_byte(photo):
    layer = deliver(photo, Wish(prompt="x", action=Action.GENERATE), 10, 200)
    assert variant_raster(photo.committed_state, layer, 0).equals(layer.raster)
    assert not variant_raster(photo.committed_state, layer, 1).equals(layer.raster)


def test_outside_of_its_mask_another_variant_of_a_fill_changes_nothing(photo):
    commands.set_selection(photo, mask.select_rect(Rect(100, 80, 60, 50)))
    before = render(photo.committed_state)
    layer = deliver(photo, Wish(prompt="x", action=Action.FILL), 10, 200)
    first = render(photo.committed_state)
    raster = variant_raster(photo.committed_state, layer, 1)
    commands.choose_variant(photo, layer.id, 1, raster)
    after = render(photo.committed_state)
    inside = np.zeros(before.shape[:2], bool)
    inside[80:130, 100:160] = True
    assert np.array_equal(after[~inside], before[~inside])
    assert not np.array_equal(after[inside], first[inside])
    assert raster.bounds == layer.raster.bounds


def test_a_variant_follows_its_layer_when_that_was_moved_also_off_the_canvas(photo):
    layer = deliver(photo, Wish(prompt="x", action=Action.GENERATE), 10, 200)
    there = variant_raster(photo.committed_state, layer, 1)
    commands.shift_layer(photo, layer.id, 300, -7)
    moved = photo.committed_state.layer(layer.id)
    assert variant_raster(photo.committed_state, moved, 1).equals(there.shifted(300, -7))


def test_an_edits_variant_lies_on_its_source(photo):
    layer = deliver(photo, Wish(prompt="x", action=Action.EDIT, keeps_unchanged=False), 10, 200)
    assert variant_raster(photo.committed_state, layer, 0).equals(layer.raster)


def test_a_layer_that_was_erased_says_so(photo):
    layer = deliver(photo, Wish(prompt="x", action=Action.GENERATE), 10)
    with pytest.raises(RequestInvalid, match="is empty"):
        variant_raster(photo.committed_state, replace(layer, raster=TileRaster()), 0)
