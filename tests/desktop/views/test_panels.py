"""The generate panel, the job rows, the health line and the small controls, each on its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest

from desktop.app import RESOURCES_DIR
from desktop.document.geometry import Rect
from desktop.jobs.job import Health, Job, Phase, ServiceState
from desktop.jobs.wish import Action, Wish
from desktop.views.controls import ValueSlider
from desktop.views.generate_panel import GeneratePanel
from desktop.views.health_line import sentence
from desktop.views.job_row import describe
from desktop.views.theme import load_theme
from flux_core import catalog
from flux_core.messages import ModelInfo

pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints")  # the offscreen platform has no size hints
JOB = Job("1", "doc", "a boat", Action.FILL, Rect(0, 0, 8, 8), Phase.RUNNING, 0.25, 5, 20)


@pytest.fixture
def panel(qtbot) -> GeneratePanel:
    panel = GeneratePanel(load_theme(RESOURCES_DIR))
    qtbot.addWidget(panel)
    panel.show()
    return panel


def model(
    name: str, *, is_installed: bool, tasks: tuple[str, ...] = ("generate", "transform", "fill")
) -> ModelInfo:
    return ModelInfo(model=name, title=name.title(), licence="", tasks=tasks, is_installed=is_installed)


def test_the_button_names_the_act(panel):
    for has_picture, has_mask, strength, text in (
        (False, False, 100, "Generate"),
        (True, False, 100, "Generate"),
        (True, False, 60, "Refine"),
        (True, True, 60, "Fill"),
    ):
        panel.set_situation(has_document=True, has_picture=has_picture, has_mask=has_mask)
        panel.strength.number.setValue(strength)
        assert panel.button.text() == text


def test_without_a_document_there_is_nothing_to_press(panel, qtbot):
    panel.set_situation(has_document=False, has_picture=False, has_mask=False)
    with qtbot.assertNotEmitted(panel.asked):
        QTest.mouseClick(panel.button, Qt.MouseButton.LeftButton)
        panel.ask()


def test_the_wish_is_what_the_panel_says(panel, qtbot):
    panel.set_situation(has_document=True, has_picture=True, has_mask=False)
    panel.set_models([model("tiny", is_installed=True), model("flux1-dev", is_installed=True)])
    wish = Wish("a boat", 0.4, "flux1-dev", 1234567890123, 12, 2.5, 3)
    panel.set_wish(wish)
    with qtbot.waitSignal(panel.asked) as signal:
        QTest.mouseClick(panel.button, Qt.MouseButton.LeftButton)
    assert signal.args == [wish]


def test_an_untouched_panel_lets_the_model_choose(panel):
    wish = panel.wish()
    assert (wish.seed, wish.num_steps, wish.guidance, wish.num_images) == (None, None, None, 1)


def test_only_models_that_are_here_and_run_are_offered_and_the_choice_is_kept(panel):
    not_yet = model("flux1-fill-dev", is_installed=True, tasks=())
    panel.set_models([model("tiny", is_installed=True), model("flux1-dev", is_installed=False), not_yet])
    assert [panel.model.itemData(row) for row in range(panel.model.count())] == ["", "tiny"]
    panel.model.setCurrentIndex(1)
    panel.set_models([model("flux1-dev", is_installed=True), model("tiny", is_installed=True)])
    assert panel.model.currentData() == "tiny"


def test_without_a_choice_the_panel_says_which_model_fits_and_what_the_bundled_ones_are(panel):
    bundled = list(catalog.model_infos((RESOURCES_DIR / "models",)))[:4]
    bundled = [info.model_copy(update={"is_installed": True}) for info in bundled]
    kontext = model("flux1-kontext-dev", is_installed=True, tasks=("edit",))
    panel.set_situation(has_document=True, has_picture=True, has_mask=False)
    panel.set_models(bundled)
    assert (panel.wish().model, panel.model.currentText()) == ("", "What fits: Tiny FLUX (bundled)")
    assert panel.about_model.isVisibleTo(panel)
    panel.choose_task(Action.EDIT)
    assert panel.model.currentText() == "What fits: Tiny FLUX Kontext (bundled)"
    panel.set_models([*bundled, kontext])
    assert panel.model.currentText() == "What fits: FLUX.1 Kontext [dev]"
    assert not panel.about_model.isVisibleTo(panel)
    panel.set_models([*bundled[:1], kontext.model_copy(update={"is_installed": False})])
    assert panel.model.currentText() == "What fits"
    assert panel.explain.text() == "No model that is here can do this; get Flux1-Kontext-Dev first"


def test_each_job_has_a_row_with_a_cancel_of_its_own(panel, qtbot):
    panel.show_job(JOB)
    panel.show_job(replace(JOB, id="2", phase=Phase.WAITING, position=1))
    assert panel.job_rows["1"].bar.value() == 250
    assert panel.job_rows["2"].detail.text() == "1 before it"
    with qtbot.waitSignal(panel.cancel_asked) as signal:
        QTest.mouseClick(panel.job_rows["2"].cancel, Qt.MouseButton.LeftButton)
    assert signal.args == ["2"]
    panel.show_job(replace(JOB, phase=Phase.CANCELLING))
    assert not panel.job_rows["1"].cancel.isEnabled()
    panel.remove_job("1")
    assert list(panel.job_rows) == ["2"]


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (Phase.PREPARING, "Preparing…"),
        (Phase.WAITING, "Waiting…"),
        (Phase.LOADING, "Loading the model…"),
        (Phase.RUNNING, "Step 5 of 20"),
        (Phase.FETCHING, "Fetching the result…"),
        (Phase.CANCELLING, "Cancelling…"),
    ],
)
def test_a_row_says_where_the_job_is(phase, expected):
    assert describe(replace(JOB, phase=phase)) == expected


@pytest.mark.parametrize(
    ("health", "jobs", "expected"),
    [
        (Health(), (), "Starting the engine…"),
        (Health(ServiceState.READY), (), "Ready"),
        (Health(ServiceState.BUSY), (), "Busy"),
        (Health(ServiceState.BUSY), (JOB,), "Painting: 25 %"),
        (Health(ServiceState.BUSY), (JOB, JOB, JOB), "Painting, 2 waiting"),
        (Health(ServiceState.BUSY), (replace(JOB, phase=Phase.LOADING),), "Loading the model: 25 %"),
        (Health(ServiceState.READY, "it fell"), (), "Ready again. The engine had died: it fell"),
        (
            Health(ServiceState.ENGINE_DIED, "out of memory"),
            (),
            "The engine died; the next job starts a new one. out of memory",
        ),
        (Health(ServiceState.STALLED, "20 s"), (), "The service is slow to answer"),
        (Health(ServiceState.LOST, "gone"), (JOB,), "The service does not answer; trying again. gone"),
    ],
)
def test_the_health_line_has_a_sentence_for_every_state(health, jobs, expected):
    assert sentence(health, jobs) == expected


def test_a_slider_and_its_number_agree_and_setting_is_silent(qtbot):
    slider = ValueSlider("Size", 1, 1000, " px", is_curved=True)
    qtbot.addWidget(slider)
    with qtbot.assertNotEmitted(slider.value_changed):
        for value in (1, 2, 37, 500, 1000):
            slider.set_value(value)
            assert slider.value() == value
    with qtbot.waitSignal(slider.committed) as signal:
        slider.slider.setValue(slider.slider.maximum() // 2)
    assert 1 < signal.args[0] < 500, "small sizes get more room"
    assert slider.value() == signal.args[0]
