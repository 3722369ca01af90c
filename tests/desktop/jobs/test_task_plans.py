"""What each task sends of the document, and what its answer becomes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from desktop.document import commands, mask
from desktop.document.compositor import render
from desktop.document.document import Document
from desktop.document.geometry import Extent, Rect
from desktop.document.layers import RasterLayer
from desktop.document.state import DocumentState
from desktop.document.tiles import TileRaster
from desktop.jobs.plan import Prepared, finish, prepare
from desktop.jobs.wish import Action, ControlWish, PictureChoice, Tuning, Wish
from flux_core.catalog import DEV, KONTEXT, TINY
from flux_core.errors import RequestInvalid
from flux_core.imaging import codec
from flux_core.request import ControlKind, Task

EDIT = Wish(prompt="make it night", seed=7, model="flux1-kontext-dev", action=Action.EDIT)


def blobs_of(prepared: Prepared) -> dict[str, np.ndarray]:
    """Every picture that is sent, by the name the request calls it."""
    import hashlib

    return {hashlib.sha256(blob).hexdigest(): codec.decode(blob) for blob in prepared.all_blobs}


@pytest.fixture
def scene() -> Document:
    """320 x 240 of waves, so that a motion can be found in it, under a hidden red layer with a mask."""
    y, x = np.mgrid[0:240, 0:320]
    waves = [128 + 60 * np.sin(x / (9 + k) + k) + 60 * np.cos(y / (7 + k) + x / 40) for k in range(3)]
    pixels = np.dstack([*waves, np.full_like(x, 255)]).clip(0, 255).astype(np.uint8)
    red = np.zeros((240, 320, 4), np.uint8)
    red[...] = (255, 0, 0, 255)
    layers = (
        RasterLayer(name="waves", id="waves", raster=TileRaster.from_array(pixels)),
        RasterLayer(
            name="a red sun",
            id="red",
            raster=TileRaster.from_array(red),
            mask=mask.hide_all().with_pixels(np.full((60, 80), 255, np.uint8), 40, 20),
            is_visible=False,
        ),
    )
    return Document(DocumentState(size=Extent(320, 240), layers=layers))


def test_every_picture_a_request_names_is_sent(scene):
    wishes = [
        replace(EDIT, references=(PictureChoice(layer_id="red"),)),
        Wish(action=Action.CONTROL, model="flux1-dev"),
        Wish(action=Action.VARY, model="flux1-dev", likenesses=(PictureChoice(), PictureChoice("red"))),
        Wish(action=Action.UPSCALE),
    ]
    for wish in wishes:
        prepared = prepare(scene.committed_state, wish, TINY)
        assert set(prepared.request.blobs) == set(blobs_of(prepared))
        assert prepared.request.task.value == wish.action


def test_a_hidden_layer_can_be_a_reference(scene):
    prepared = prepare(scene.committed_state, replace(EDIT, references=(PictureChoice("red"),)), KONTEXT)
    (name,) = prepared.request.references
    picture = blobs_of(prepared)[name][..., :3]
    assert (picture[30, 60] == (255, 0, 0)).all()
    assert (picture[200, 300] == 255).all(), "where it is transparent it is paper"


def test_a_map_from_the_canvas_lies_where_the_result_will(scene):
    wish = Wish(action=Action.CONTROL, control=ControlWish(ControlKind.DEPTH, PictureChoice("red"), True))
    prepared = prepare(scene.committed_state, wish, DEV)
    (use,) = prepared.request.controls
    picture = blobs_of(prepared)[use.image]
    assert picture.shape[:2] == (prepared.request.height_px, prepared.request.width_px)
    scale = prepared.plan.scale
    x, y = (
        (at - start) * scale for at, start in zip((80, 50), prepared.plan.box.__getstate__()[:2], strict=True)
    )
    assert (picture[int(y), int(x), :3] == (255, 0, 0)).all()
    assert (use.kind, use.is_map) == (ControlKind.DEPTH, True)


def test_a_file_is_read_for_a_likeness_and_a_missing_one_is_named(scene, tmp_path):
    file = tmp_path / "b.png"
    file.write_bytes(codec.encode_png(np.full((9, 8, 3), 5, np.uint8)))
    wish = Wish(action=Action.VARY, likenesses=(PictureChoice(file=file, strength=0.4),))
    prepared = prepare(scene.committed_state, wish, DEV)
    (use,) = prepared.request.pictures
    assert (use.strength, blobs_of(prepared)[use.image].shape) == (0.4, (9, 8, 4))
    file.unlink()
    with pytest.raises(RequestInvalid, match=r"b\.png cannot be read"):
        prepare(scene.committed_state, wish, DEV)
    with pytest.raises(RequestInvalid, match="no longer there"):
        prepare(scene.committed_state, replace(wish, likenesses=(PictureChoice("gone"),)), DEV)


def test_an_edit_shows_only_what_it_changed(scene):
    state = scene.committed_state
    before = render(state)
    prepared = prepare(state, EDIT, KONTEXT)
    answer = codec.decode(prepared.image_png)[..., :3].copy()
    height, width = answer.shape[:2]
    answer[height // 4 : height // 2, width // 4 : width // 2] = (250, 20, 20)
    layer = finish(prepared, [(codec.encode_png(answer), 7)], "0" * 32)
    after = render(state.inserted(layer, None, 2))
    changed = (after != before).any(axis=2)
    assert changed[90, 110]
    assert (after[90, 110, :3].astype(int) - (250, 20, 20)).max() < 12
    assert not changed[150:].any()
    assert not changed[:, 200:].any()
    assert layer.mask is not None


def test_an_edit_may_be_taken_as_it_is(scene):
    prepared = prepare(scene.committed_state, replace(EDIT, keeps_unchanged=False), KONTEXT)
    layer = finish(prepared, [(prepared.image_png, 7)], "0" * 32)
    assert layer.mask is None
    assert (layer.raster.read(Rect(0, 0, 320, 240))[..., 3] == 255).all()


def test_a_mask_limits_an_edit(scene):
    commands.set_selection(scene, mask.select_rect(Rect(0, 0, 160, 240)))
    state = scene.committed_state
    prepared = prepare(state, replace(EDIT, keeps_unchanged=False), KONTEXT)
    size = (prepared.request.height_px, prepared.request.width_px, 3)
    layer = finish(prepared, [(codec.encode_png(np.zeros(size, np.uint8)), 7)], "0" * 32)
    before, after = render(state), render(state.inserted(layer, None, 2))
    assert np.array_equal(after[:, 160:], before[:, 160:])
    assert (after[:, :160, :3] == 0).all()


def test_an_enlargement_grows_in_stages_of_two(scene):
    first = prepare(scene.committed_state, Wish(action=Action.UPSCALE, scale=4, strength=0.3), TINY)
    assert (first.request.width_px, first.request.height_px, first.request.strength) == (640, 480, 0.3)
    between = codec.encode_png(np.full((480, 640, 3), 9, np.uint8))
    prepared = first.following(between)
    request = prepared.request
    assert (request.width_px, request.height_px) == (1280, 960)
    assert request.strength == pytest.approx(0.225)
    assert prepared.rest == ()
    assert prepared.all_blobs == (between,), "it starts from the stage before"
    assert prepared.sent_box == Rect(0, 0, 320, 240), "its preview lies on the canvas as it is"
    picture = codec.encode_png(np.full((960, 1280, 3), 9, np.uint8))
    layer = finish(prepared, [(picture, 7)], "0" * 32)
    assert layer.raster.content_bounds == Rect(0, 0, 1280, 960)
    assert layer.recipe.box == Rect(0, 0, 1280, 960)
    with pytest.raises(RequestInvalid, match="asked for"):
        finish(prepared, [(codec.encode_png(np.zeros((960, 1281, 3), np.uint8)), 7)], "0" * 32)


def test_tuning_and_loras_reach_the_request(scene):
    tuning = Tuning("fog", 2.5, loras="ink:0.5, oil paint，wool")
    request = prepare(scene.committed_state, Wish(tuning=tuning), TINY).request
    assert (request.negative_prompt, request.true_guidance) == ("fog", 2.5)
    assert [(use.name, use.strength) for use in request.loras] == [
        ("ink", 0.5),
        ("oil paint", 1),
        ("wool", 1),
    ]
    with pytest.raises(RequestInvalid, match="strong"):
        prepare(scene.committed_state, Wish(tuning=Tuning(loras="ink:strong")), TINY)


def test_layers_with_a_mask_are_regions_called_by_their_name(scene):
    wish = Wish(tuning=Tuning(has_layer_regions=True))
    assert prepare(scene.committed_state, wish, TINY).request.regions == (), "a hidden layer is none"
    commands.set_visible(scene, "red", True)
    prepared = prepare(scene.committed_state, wish, TINY)
    (region,) = prepared.request.regions
    assert region.prompt == "a red sun"
    grey = blobs_of(prepared)[region.mask][..., 0]
    assert grey.shape == (prepared.request.height_px, prepared.request.width_px)
    assert 0.03 < (grey > 128).mean() < 0.1


def test_an_intent_decides_words_strength_and_reach(scene):
    commands.set_selection(scene, mask.select_rect(Rect(100, 80, 60, 50)))
    prepared = prepare(scene.committed_state, Wish(action=Action.FILL, intent="remove"), TINY)
    assert "background" in prepared.request.prompt
    assert prepared.request.strength == 0.9
    kept = prepare(scene.committed_state, Wish(action=Action.FILL, intent="replace-background"), TINY)
    alpha = kept.plan.alpha[100 - kept.plan.core.y0, 130 - kept.plan.core.x0]
    assert alpha == 0, "what is marked stays"


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish(action=Action.EDIT), "what to change"),
        (Wish(action=Action.FILL), "what to repaint"),
        (Wish(action=Action.EDIT, style="film"), "not for editing"),
        (Wish(action=Action.UPSCALE, scale=40), "enlarged 40 times"),
    ],
)
def test_a_wish_that_cannot_be_carried_out_is_a_sentence(scene, wish, words):
    with pytest.raises(RequestInvalid, match=words):
        prepare(scene.committed_state, wish, TINY)


def test_the_tasks_are_the_request_s():
    from desktop.jobs.asks import TASK_OF

    assert set(TASK_OF) == set(Action)
    assert set(TASK_OF.values()) == set(Task)
