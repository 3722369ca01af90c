"""The forms of the tasks: what they say, what they show again, and when the button may be pressed."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest

from desktop.app import RESOURCES_DIR
from desktop.jobs.wish import (
    Action,
    Combine,
    ControlWish,
    LookWish,
    PictureChoice,
    Scope,
    Tuning,
    Wish,
)
from desktop.views.forms.forms import TASKS
from desktop.views.forms.pictures import PicturePicker
from desktop.views.forms.task_form import choose
from desktop.views.generate_panel import GeneratePanel
from desktop.views.theme import load_theme
from flux_core.looking import CaptionLength
from flux_core.messages import ModelInfo
from flux_core.request import ControlKind, Decoder, Solver, StepCache, Task

pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints")  # the offscreen platform has no size hints
EVERYTHING = tuple(task.value for task in Task)
TUNING = Tuning("fog", 2.5, Solver.UNIPC, StepCache.FAST, Decoder.FAST, "ink:0.8", has_layer_regions=True)
WISHES = (
    Wish("a boat", 0.4, "m"),
    Wish("a boat", 1.0, "m", action=Action.GENERATE),
    Wish("a boat", 0.5, "m", action=Action.REFINE),
    Wish("a boat", 0.9, "m", action=Action.FILL, intent="remove"),
    Wish(
        "a boat",
        model="m",
        action=Action.EDIT,
        style="ink",
        references=(PictureChoice(layer_id="two"), PictureChoice(file=Path("/tmp/a.png"))),
        keeps_unchanged=False,
    ),
    Wish(
        "a boat",
        model="m",
        action=Action.CONTROL,
        control=ControlWish(ControlKind.POSE, PictureChoice(layer_id="one"), True, "net", 0.5),
    ),
    Wish(
        "a boat",
        model="m",
        action=Action.VARY,
        style="film",
        likenesses=(PictureChoice(), PictureChoice(layer_id="one", strength=0.3)),
    ),
    Wish("a boat", 0.2, "m", action=Action.UPSCALE, scale=4, upscaler="net", tuning=TUNING),
    Wish(
        "a boat, a lake",
        model="m",
        action=Action.SCORE,
        look=LookWish((PictureChoice(), PictureChoice(layer_id="two")), phrases=("a sail", "waves")),
    ),
    Wish("a boat", model="m", action=Action.SCORE, look=LookWish(scope=Scope.RESULTS)),
    Wish(
        model="m",
        action=Action.DESCRIBE,
        look=LookWish((PictureChoice(layer_id="one"),), question="How many?", length=CaptionLength.LONG),
    ),
    Wish("a boat", model="m", action=Action.SELECT, look=LookWish(combine=Combine.ADD, is_boxed=True)),
    Wish(
        model="m",
        action=Action.MAP,
        look=LookWish((PictureChoice(file=Path("/tmp/a.png")),), map_kind=ControlKind.CANNY),
    ),
    Wish(
        model="m",
        action=Action.SIMILAR,
        look=LookWish((PictureChoice(layer_id="two"),), has_kept=False),
    ),
)


def model(name: str, *tasks: str, is_installed: bool = True) -> ModelInfo:
    return ModelInfo(model=name, title=name.title(), licence="", tasks=tasks, is_installed=is_installed)


@pytest.fixture
def panel(qtbot) -> GeneratePanel:
    panel = GeneratePanel(load_theme(RESOURCES_DIR))
    qtbot.addWidget(panel)
    panel.show()
    panel.set_layers([("two", "sky"), ("one", "lake")])
    panel.set_models([model("m", *EVERYTHING)])
    panel.set_situation(has_document=True, has_picture=True, has_mask=True)
    return panel


@pytest.mark.parametrize("wish", WISHES, ids=lambda wish: wish.action or "what fits")
def test_a_wish_that_is_shown_is_the_wish_that_is_asked(panel, qtbot, wish):
    panel.set_wish(wish)
    with qtbot.waitSignal(panel.asked) as signal:
        QTest.mouseClick(panel.button, Qt.MouseButton.LeftButton)
    assert signal.args == [wish]


def test_only_the_form_of_the_task_is_seen(panel):
    for entry in TASKS:
        panel.choose_task(entry.action)
        assert [type(form) for form in panel.forms.values() if form.isVisible()] == [entry.form]


def test_every_task_has_a_form_and_a_word_on_its_button(panel):
    assert {entry.action for entry in TASKS} == {None, *Action}
    words = []
    for action in Action:
        panel.choose_task(action)
        words.append(panel.button.text())
    assert len(set(words)) == len(words)


def test_image_to_image_does_not_begin_by_forgetting_the_picture(panel):
    panel.choose_task(Action.REFINE)
    assert panel.wish().strength == 0.6
    panel.strength.number.setValue(100)
    assert panel.wish().strength == 1.0, "but a person may want it"


def test_the_meaning_of_a_mask_is_asked_only_where_there_is_one(panel):
    panel.set_wish(Wish("x", action=Action.FILL, intent="remove"))
    assert panel.wish().intent == "remove"
    panel.choose_task(None)
    panel.set_situation(has_document=True, has_picture=True, has_mask=False)
    assert panel.wish().intent == ""


@pytest.mark.parametrize(
    ("action", "situation", "reason"),
    [
        (Action.REFINE, {"has_picture": False}, "nothing on the canvas"),
        (Action.EDIT, {"has_picture": False}, "nothing on the canvas"),
        (Action.UPSCALE, {"has_picture": False}, "nothing on the canvas"),
        (Action.FILL, {"has_mask": False}, "Paint a mask"),
        (Action.GENERATE, {"has_document": False}, "Open or start"),
        (Action.DESCRIBE, {"has_picture": False}, "nothing on the canvas"),
        (Action.SELECT, {}, "Write down what should be masked"),
        (Action.SCORE, {}, "Write down what the pictures should show"),
    ],
)
def test_what_is_missing_is_said_on_the_button(panel, qtbot, action, situation, reason):
    panel.choose_task(action)
    panel.set_situation(**{"has_document": True, "has_picture": True, "has_mask": True, **situation})
    assert not panel.button.isEnabled()
    assert reason in panel.button.toolTip()
    assert panel.explain.text() == panel.button.toolTip()
    with qtbot.assertNotEmitted(panel.asked):
        panel.ask()


def test_a_model_that_cannot_do_the_task_is_named_with_those_that_can(panel):
    panel.set_models(
        [model("plain", "generate"), model("kontext", "edit"), model("far", "control", is_installed=False)]
    )
    panel.choose_task(Action.EDIT)
    assert panel.button.isEnabled(), "what fits can do it"
    panel.model.setCurrentIndex(1)
    assert panel.button.toolTip() == "Plain cannot do this; choose Kontext"
    assert not panel.button.isEnabled()
    panel.model.setCurrentIndex(2)
    assert panel.button.isEnabled()
    panel.choose_task(Action.CONTROL)
    assert panel.button.toolTip() == "Kontext cannot do this; get Far first"


def test_a_map_is_followed_by_a_model_made_for_it_or_through_a_controlnet(panel):
    names = ("flux1-dev", "flux1-schnell", "flux1-canny-dev", "flux1-depth-dev")
    panel.set_models([model(name, "generate", "control") for name in names])
    panel.choose_task(Action.CONTROL)
    choose(panel.form.kind, ControlKind.DEPTH.value)
    panel.model.setCurrentIndex(1)
    panel.form.changed.emit()
    assert panel.button.toolTip() == "Flux1-Dev cannot do this; choose Flux1-Depth-Dev"
    panel.form.model.setText("depth-net")
    assert panel.button.isEnabled(), "a ControlNet follows for it"
    panel.model.setCurrentIndex(3)
    assert panel.button.toolTip() == "Flux1-Canny-Dev cannot do this; choose Flux1-Dev / Flux1-Schnell"
    panel.form.model.clear()
    choose(panel.form.kind, ControlKind.POSE.value)
    panel.form.changed.emit()
    assert panel.button.toolTip() == "No model follows this by itself; name a ControlNet"


def test_something_unwanted_turns_true_guidance_on(panel):
    panel.tuning.negative.setText("fog")
    assert panel.wish().tuning.true_guidance == 3.0
    panel.tuning.true_guidance.setValue(5.0)
    panel.tuning.negative.setText("fog and rain")
    assert panel.wish().tuning.true_guidance == 5.0


def test_pictures_can_be_added_and_left_out(panel):
    panel.choose_task(Action.VARY)
    pictures = panel.form.pictures
    assert not pictures.rows[0].remove.isVisible(), "one must stay"
    QTest.mouseClick(pictures.add, Qt.MouseButton.LeftButton)
    assert len(panel.wish().likenesses) == 2
    QTest.mouseClick(pictures.rows[0].remove, Qt.MouseButton.LeftButton)
    assert len(panel.wish().likenesses) == 1
    for _ in range(20):
        pictures.add.click()
    assert len(panel.wish().likenesses) == 8


def test_a_layer_that_has_gone_is_what_is_visible_from_then_on(qtbot):
    picker = PicturePicker()
    qtbot.addWidget(picker)
    picker.set_layers([("one", "lake")])
    picker.set_choice(PictureChoice(layer_id="one"))
    assert picker.currentText() == "Layer: lake"
    picker.set_layers([("one", "sea")])
    assert (picker.currentText(), picker.choice().layer_id) == ("Layer: sea", "one")
    picker.set_layers([])
    assert picker.choice() == PictureChoice()


def test_choosing_a_file_opens_a_dialog_and_shows_its_name(qtbot, tmp_path):
    picker = PicturePicker()
    qtbot.addWidget(picker)
    picker._on_file(str(tmp_path / "sketch.png"))
    assert picker.currentText() == "sketch.png"
    assert picker.choice().file == tmp_path / "sketch.png"


def test_styles_are_listed_in_the_language_of_the_window(qtbot):
    panel = GeneratePanel(load_theme(RESOURCES_DIR), "zh_CN")
    qtbot.addWidget(panel)
    panel.choose_task(Action.EDIT)
    titles = [panel.form.style_box.itemText(row) for row in range(panel.form.style_box.count())]
    assert "水彩" in titles
    assert "胶片摄影" not in titles, "a style for painting only is not offered for editing"


def test_looking_needs_words_only_where_it_looks_for_them(panel):
    panel.choose_task(Action.SELECT)
    assert not panel.button.isEnabled()
    panel.prompt.setPlainText("the boat")
    assert panel.button.isEnabled()
    panel.prompt.clear()
    panel.choose_task(Action.MAP)
    assert panel.button.isEnabled()
    assert not panel.prompt.isVisible()


def test_a_file_can_be_looked_at_without_a_picture_on_the_canvas(panel):
    panel.set_situation(has_document=True, has_picture=False, has_mask=False)
    panel.choose_task(Action.DESCRIBE)
    assert not panel.button.isEnabled()
    panel.form.picture._on_file("/tmp/a.png")
    assert panel.button.isEnabled()


def test_a_task_that_looks_asks_for_no_model_and_no_seed(panel):
    panel.more.setChecked(True)
    panel.choose_task(Action.SCORE)
    assert not any(widget.isVisible() for widget in (panel.model, panel.more, panel.seed))
    panel.choose_task(None)
    assert all(widget.isVisible() for widget in (panel.model, panel.more, panel.seed))
