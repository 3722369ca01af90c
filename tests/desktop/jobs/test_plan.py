from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from desktop.document import commands, mask
from desktop.document.compositor import render
from desktop.document.document import Document
from desktop.document.geometry import Rect
from desktop.document.state import DocumentState
from desktop.jobs.plan import finish, layer_name, prepare
from desktop.jobs.wish import Action, Wish, action_for
from flux_core.catalog import DEV, TINY
from flux_core.errors import RequestInvalid
from flux_core.imaging import codec
from flux_core.request import Task

WISH = Wish(prompt="a boat", seed=7)


def masked(document: Document, rect: Rect) -> DocumentState:
    commands.set_selection(document, mask.select_rect(rect))
    return document.committed_state


def painted(width: int, height: int, color: tuple[int, int, int]) -> bytes:
    return codec.encode_png(np.full((height, width, 3), color, np.uint8))


@pytest.mark.parametrize(
    ("has_picture", "has_mask", "strength", "expected"),
    [
        (False, False, 1.0, Action.GENERATE),
        (False, False, 0.5, Action.GENERATE),
        (True, False, 1.0, Action.GENERATE),
        (True, False, 0.99, Action.REFINE),
        (True, True, 1.0, Action.FILL),
        (True, True, 0.3, Action.FILL),
        (False, True, 1.0, Action.FILL),
    ],
)
def test_the_act_follows_from_picture_mask_and_strength(has_picture, has_mask, strength, expected):
    assert action_for(has_picture=has_picture, has_mask=has_mask, strength=strength) is expected


def test_generate_sends_no_picture_and_asks_for_the_shape_of_the_canvas(photo):
    prepared = prepare(photo.committed_state, WISH, TINY)
    request = prepared.request
    assert request.task is Task.GENERATE
    assert request.blobs == ()
    assert request.width_px / request.height_px == pytest.approx(320 / 240, rel=0.15)
    assert max(request.width_px, request.height_px) <= TINY.max_side_px
    assert prepared.box == Rect(0, 0, 320, 240)


def test_refine_sends_the_whole_picture_with_the_strength(photo):
    prepared = prepare(photo.committed_state, replace(WISH, strength=0.4), TINY)
    assert prepared.request.task is Task.TRANSFORM
    assert prepared.request.strength == 0.4
    image = codec.decode(prepared.image_png)
    assert image.shape[:2] == (prepared.request.height_px, prepared.request.width_px)


def test_fill_sends_the_piece_around_the_mask(photo):
    prepared = prepare(masked(photo, Rect(100, 80, 40, 30)), WISH, TINY)
    assert prepared.request.task is Task.FILL
    assert prepared.request.seed == 7
    repaint = codec.decode_grey(prepared.mask_png)
    assert set(np.unique(repaint)) == {0, 255}
    assert prepared.box.union(Rect(100, 80, 40, 30)) == prepared.box


def test_without_a_seed_every_job_gets_its_own(photo):
    wish = replace(WISH, seed=None)
    seeds = {prepare(photo.committed_state, wish, TINY).request.seed for _ in range(4)}
    assert len(seeds) == 4


def test_a_filled_layer_covers_the_mask_and_nothing_else(photo):
    state = masked(photo, Rect(100, 80, 40, 30))
    before = render(state)
    prepared = prepare(state, WISH, TINY)
    request = prepared.request
    png = painted(request.width_px, request.height_px, (255, 0, 0))
    layer = finish(prepared, [(png, 7)], "0" * 32)
    after = render(state.inserted(layer, None, len(state.layers)))
    outside = np.ones(before.shape[:2], bool)
    outside[80:110, 100:140] = False
    assert np.array_equal(after[outside], before[outside])
    assert not np.array_equal(after[90, 120], before[90, 120])


def test_a_filled_layer_keeps_the_whole_crop_so_that_its_mask_can_grow(photo):
    prepared = prepare(masked(photo, Rect(100, 80, 40, 30)), WISH, TINY)
    png = painted(prepared.request.width_px, prepared.request.height_px, (255, 0, 0))
    layer = finish(prepared, [(png, 7), (png, 8)], "0" * 32)
    assert layer.mask is not None
    assert (layer.raster.read(prepared.box)[..., 3] == 255).all()
    assert [variant.seed for variant in layer.recipe.variants] == [7, 8]
    assert layer.name == "a boat (7)"


def test_a_generated_layer_covers_the_canvas_and_has_no_mask(photo):
    prepared = prepare(photo.committed_state, WISH, TINY)
    png = painted(prepared.request.width_px, prepared.request.height_px, (1, 2, 3))
    layer = finish(prepared, [(png, 7)], "0" * 32)
    assert layer.mask is None
    assert (layer.raster.read(Rect(0, 0, 320, 240)) == (1, 2, 3, 255)).all()


def test_a_result_of_another_size_is_refused_with_a_sentence(photo):
    prepared = prepare(photo.committed_state, WISH, TINY)
    with pytest.raises(RequestInvalid, match="pixels"):
        finish(prepared, [(painted(16, 16, (0, 0, 0)), 7)], "0" * 32)
    with pytest.raises(RequestInvalid, match="without a picture"):
        finish(prepared, [], "0" * 32)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (5, 400), (64, 64), (2000, 30)])
def test_canvases_of_any_shape_can_be_filled_to_the_border(width, height):
    document = Document.blank(width, height)
    commands.select_all(document)
    for spec in (TINY, DEV):
        prepared = prepare(document.committed_state, replace(WISH, model=spec.model), spec)
        png = painted(prepared.request.width_px, prepared.request.height_px, (9, 9, 9))
        layer = finish(prepared, [(png, 7)], "0" * 32)
        assert not layer.raster.bounds.is_empty


def test_an_impossible_wish_is_refused_with_a_sentence(photo):
    with pytest.raises(RequestInvalid, match="Strength"):
        prepare(masked(photo, Rect(9, 9, 9, 9)), replace(WISH, strength=float("nan")), TINY)
    with pytest.raises(RequestInvalid, match="Prompt"):
        prepare(photo.committed_state, replace(WISH, prompt="x" * 1_000_000), TINY)


def test_a_layer_is_named_after_its_prompt_shortened_and_its_seed():
    assert layer_name("a  red\napple", 3) == "a red apple (3)"
    assert layer_name("", 3) == "(3)"
    assert len(layer_name("x" * 500, 3)) < 50
