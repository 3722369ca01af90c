"""The tasks in the window with a real service: a form is filled in, and its result is in the document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backends.remote.client import ServiceClient
from desktop.document.compositor import render
from desktop.document.geometry import Extent
from desktop.document.layers import GenerativeLayer
from desktop.jobs.wish import Action, PictureChoice, Wish
from flux_core.request import Task
from tests.support.service_process import ServiceProcess
from tests.support.window import Desk, run_program


@pytest.fixture(scope="module")
def able(tmp_path_factory) -> Iterator[ServiceProcess]:
    """A service whose models can do every task."""
    home = tmp_path_factory.mktemp("able")
    with ServiceProcess(home, module="tests.support.able_service") as process:
        yield process


@pytest.fixture
def live(qtbot, tmp_path, able) -> Iterator[Desk]:
    with run_program(qtbot, tmp_path / "home", lambda: ServiceClient(able.endpoint)) as desk:
        yield desk


@pytest.fixture
def waves(tmp_path) -> Path:
    """A picture without hard edges, which no scaling there and back changes much."""
    y, x = np.mgrid[0:240, 0:320]
    pixels = np.dstack([128 + 100 * np.sin(x / (17 + k)) * np.cos(y / (13 + k)) for k in range(3)])
    path = tmp_path / "waves.png"
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def result(live: Desk, number: int = 2) -> GenerativeLayer:
    live.until(lambda: len(live.document.layers) == number)
    layer = live.document.layers[-1]
    assert isinstance(layer, GenerativeLayer)
    return layer


def test_an_edit_that_changes_nothing_leaves_the_picture_to_the_byte(live, waves):
    live.open(waves)
    before = render(live.document.state)
    live.window.generate.choose_task(Action.EDIT)
    live.ask("echo")
    layer = result(live)
    assert layer.recipe.request.task is Task.EDIT
    assert layer.mask is not None
    assert np.array_equal(render(live.document.state), before)


def test_a_variation_of_two_pictures_is_a_new_layer(live, picture):
    live.open(picture)
    panel = live.window.generate
    panel.choose_task(Action.VARY)
    panel.form.pictures.set_choices([PictureChoice(), PictureChoice(file=picture, strength=0.5)])
    live.ask("steps=1")
    request = result(live).recipe.request
    assert [use.strength for use in request.pictures] == [1.0, 0.5]


def test_a_followed_layer_is_a_new_picture_on_the_canvas(live, picture):
    live.open(picture)
    panel = live.window.generate
    panel.choose_task(Action.CONTROL)
    panel.form.picture.set_choice(PictureChoice(layer_id=live.document.layers[0].id))
    live.ask("steps=1")
    layer = result(live)
    (use,) = layer.recipe.request.controls
    assert not use.is_map
    assert (render(live.document.state)[..., 3] == 255).all()


def test_an_enlargement_makes_canvas_and_layers_larger_in_one_step(live, picture):
    live.open(picture)
    before = render(live.document.state)
    live.window.generate.choose_task(Action.UPSCALE)
    assert live.window.generate.button.text() == "Enlarge"
    live.ask("steps=1")
    result(live)
    assert live.document.size == Extent(640, 480)
    assert live.document.layers[0].bounds.width >= 640
    assert live.document.history.undo_label == "Enlarge picture"
    live.do("undo")
    assert live.document.size == Extent(320, 240)
    assert np.array_equal(render(live.document.state), before)


def test_four_times_as_large_comes_in_two_jobs_and_one_step(live, picture, able):
    live.open(picture)
    with able.client() as client:
        known = {record.job_id for record in client.jobs()}
        panel = live.window.generate
        panel.choose_task(Action.UPSCALE)
        panel.form.show_wish(Wish(scale=4, strength=0.4))
        live.ask("steps=1")
        layer = result(live)
        new = [record for record in client.jobs() if record.job_id not in known]
    assert [record.request.width_px for record in new] == [640, 1280]
    assert new[1].request.image == new[0].finished.images[0].sha256
    assert new[1].request.strength == pytest.approx(0.3)
    assert live.document.size == Extent(1280, 960)
    assert layer.recipe.box.extent == live.document.size
    assert panel.job_rows == {}
    live.do("undo")
    assert live.document.size == Extent(320, 240)


def test_two_enlargements_that_were_asked_for_at_once_make_the_canvas_larger_once(live, picture):
    live.open(picture)
    live.window.generate.choose_task(Action.UPSCALE)
    live.ask("steps=1")
    live.ask("steps=2")
    result(live, 3)
    assert live.document.size == Extent(640, 480)


def test_the_form_stays_when_the_language_changes(live, picture):
    live.open(picture)
    live.window.generate.choose_task(Action.UPSCALE)
    live.window.generate.form.detail.set_value(44)
    live.window.generate.strength.set_value(33)
    live.program.set_language("zh_CN")
    assert live.window.generate.action is Action.UPSCALE
    assert live.window.generate.wish().strength == 0.44
    assert live.window.generate.strength.value() == 33, "so do those that are not seen"
    assert live.window.generate.button.text() == "放大图片"
