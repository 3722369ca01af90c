"""Looks in the window with a real service, the torch engine and tiny random helpers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest

from backends.remote.client import ServiceClient
from desktop.app import RESOURCES_DIR
from desktop.document import commands
from desktop.document.compositor import render
from desktop.document.geometry import Rect
from desktop.document.layers import GenerativeLayer, RasterLayer, Recipe, Variant
from desktop.document.tiles import TileRaster
from desktop.jobs.wish import Action, Combine, LookWish, PictureChoice, Scope, Wish
from desktop.tools.settings import ToolName
from flux_core.imaging import codec
from flux_core.looking import CaptionLength, LookKind
from flux_core.messages import JobState
from flux_core.request import ControlKind, Task, build_request
from tests.support import vision_folders
from tests.support.service_process import ServiceProcess
from tests.support.window import Desk, run_program

SIZE = (96, 64)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory) -> Iterator[ServiceProcess]:
    """A service with a tiny helper of every kind, and the bundled model."""
    home = tmp_path_factory.mktemp("seeing")
    vision_folders.clip(home / "models/clip-l-336")
    vision_folders.florence2(home / "models/florence-2-large")
    vision_folders.llava(home / "models/llava-1.5-7b")
    vision_folders.sam2(home / "models/sam2.1-large")
    vision_folders.depth_anything(home / "models/depth-anything-v2-small")
    (home / "models/tiny").symlink_to(RESOURCES_DIR / "models/tiny")
    with ServiceProcess(home, engine="torch") as process:
        yield process


@pytest.fixture
def live(qtbot, tmp_path, seeing) -> Iterator[Desk]:
    with run_program(qtbot, tmp_path / "home", lambda: ServiceClient(seeing.endpoint)) as desk:
        yield desk


@pytest.fixture
def blocks(tmp_path) -> Path:
    """A picture of random blocks."""
    path = tmp_path / "blocks.png"
    path.write_bytes(codec.encode_png(vision_folders.pixels(SIZE[1], SIZE[0], 0)))
    return path


def add_result(desk: Desk, name: str, *seeds: int) -> str:
    """A generated layer whose variants are random blocks."""
    pictures = [vision_folders.pixels(SIZE[1], SIZE[0], seed) for seed in seeds]
    variants = tuple(
        Variant(codec.encode_png(each), seed) for each, seed in zip(pictures, seeds, strict=True)
    )
    request = build_request(task=Task.GENERATE, prompt=name, width_px=SIZE[0], height_px=SIZE[1])
    return commands.insert_generated(
        desk.document,
        name=name,
        recipe=Recipe(request, Rect(0, 0, *SIZE), variants),
        raster=TileRaster.from_array(pictures[0]),
    )


def ask(desk: Desk, action: Action, prompt: str = "", **look: object) -> None:
    """Fills in the form of a task and presses its button."""
    panel = desk.window.generate
    panel.set_wish(Wish(prompt=prompt, action=action, look=LookWish(**look)))
    QTest.mouseClick(panel.button, Qt.MouseButton.LeftButton)


def answered(desk: Desk) -> None:
    desk.until(lambda: desk.window.generate.answers.isVisible(), 60_000)


def test_pictures_are_ranked_by_the_prompt_and_each_phrase_has_a_score(live, blocks):
    live.open(blocks)
    add_result(live, "one", 1)
    ask(
        live,
        Action.SCORE,
        "a red cat, a blue dog",
        pictures=(PictureChoice(), PictureChoice(layer_id=live.document.layers[0].id)),
    )
    answered(live)
    rows = live.window.generate.answers.rows
    assert sorted(row.name.toolTip() for row in rows) == ["What is visible", "blocks"]
    scores = [row.ranked.similarity for row in rows]
    assert scores == sorted(scores, reverse=True)
    for row in rows:
        assert [part.phrase for part in row.ranked.phrases] == ["a red cat", "a blue dog"]
        assert [label.text() for label in row.phrases] == [
            f"{part.similarity:.3f}".replace("-", "−") for part in row.ranked.phrases
        ]
    assert live.window.generate.job_rows == {}


def test_a_click_on_a_ranked_variant_shows_it_as_one_undo_step(live, blocks):
    live.open(blocks)
    layer_id = add_result(live, "three", 1, 2, 3)
    commands.set_visible(live.document, layer_id, False)
    live.document.active_id = live.document.layers[0].id
    ask(live, Action.SCORE, "a cat", scope=Scope.RESULTS)
    answered(live)
    rows = {row.ranked.choice.variant: row for row in live.window.generate.answers.rows}
    assert rows.keys() == {0, 1, 2}
    assert all(row.phrases == [] for row in rows.values()), "the only phrase is the prompt itself"
    assert rows[2].name.toolTip() == "Variant 3 of three"
    QTest.mouseClick(rows[2], Qt.MouseButton.LeftButton)
    live.until(lambda: live.document.state.layer(layer_id).recipe.chosen == 2)
    assert live.document.active_id == layer_id
    shown = vision_folders.pixels(SIZE[1], SIZE[0], 3)
    assert np.array_equal(render(live.document.state), shown)
    assert live.document.undo() == "Choose variant"
    assert np.array_equal(render(live.document.state), vision_folders.pixels(SIZE[1], SIZE[0], 1))


def test_scoring_what_is_not_there_is_said_before_anything_is_sent(live, blocks):
    live.open(blocks)
    ask(live, Action.SCORE, "a cat", scope=Scope.VARIANTS)
    assert "was not generated" in live.window.notices.notices[-1].text
    ask(live, Action.SCORE, "a cat", scope=Scope.RESULTS)
    assert "Nothing was generated" in live.window.notices.notices[-1].text
    ask(live, Action.SCORE, "")
    assert not live.window.generate.button.isEnabled()
    assert live.program.jobs.jobs() == ()


def test_a_helper_that_is_missing_is_named_with_how_to_get_it(live, blocks, seeing):
    kept, hidden = seeing.home / "models/clip-l-336", seeing.home / "clip-l-336"
    kept.rename(hidden)
    try:
        live.open(blocks)
        ask(live, Action.SCORE, "a cat")
        live.until(lambda: bool(live.window.notices.notices))
        assert live.window.notices.notices[-1].text == (
            "No helper for prompt scores is on this machine. Get one with `flowbrush models get clip-l-336`."
        )
        live.until(lambda: live.window.generate.job_rows == {})
    finally:
        hidden.rename(kept)


def test_a_description_becomes_the_prompt_when_it_is_wanted(live, blocks, qapp):
    live.open(blocks)
    ask(live, Action.DESCRIBE, "an older prompt", length=CaptionLength.SHORT)
    answered(live)
    answers = live.window.generate.answers
    assert answers.title.text() == "Description"
    assert live.window.generate.prompt.toPlainText() == "an older prompt"
    words = answers.words_wanted
    with live.qtbot.waitSignal(words) as signal:
        button(answers, "Use as prompt").click()
    assert live.window.generate.prompt.toPlainText() == signal.args[0] != ""
    button(answers, "Copy").click()
    assert qapp.clipboard().text() == signal.args[0]


def test_without_a_helper_for_captions_one_that_answers_questions_describes(live, blocks, seeing):
    captions, answers = (seeing.home / "models" / name for name in ("florence-2-large", "llava-1.5-7b"))
    captions.rename(seeing.home / "captions")
    try:
        live.open(blocks)
        ask(live, Action.DESCRIBE)
        answered(live)
        with seeing.client() as client:
            assert client.jobs()[-1].request.look.kind is LookKind.DESCRIBE
        live.window.generate.answers.clear()
        answers.rename(seeing.home / "answers")
        ask(live, Action.DESCRIBE)
        live.until(lambda: bool(live.window.notices.notices))
        assert "No helper for captions" in live.window.notices.notices[-1].text, "the better one is named"
        live.until(lambda: live.window.generate.job_rows == {})
    finally:
        (seeing.home / "captions").rename(captions)
        if not answers.exists():
            (seeing.home / "answers").rename(answers)


def test_a_question_is_answered_under_its_words(live, blocks):
    live.open(blocks)
    ask(live, Action.DESCRIBE, question="How many cats?")
    answered(live)
    assert live.window.generate.answers.title.text() == "How many cats?"


@pytest.mark.parametrize("is_boxed", [False, True])
def test_words_become_the_mask_as_one_undo_step(live, blocks, is_boxed):
    live.open(blocks)
    ask(live, Action.SELECT, "a cat", is_boxed=is_boxed)
    live.until(lambda: bool(live.document.state.selection.tiles), 60_000)
    first = live.document.state.selection.read(live.document.state.canvas)
    assert live.document.history.undo_label == "Select by words"
    ask(live, Action.SELECT, "a cat", is_boxed=is_boxed, combine=Combine.SUBTRACT)
    live.until(lambda: not live.document.state.selection.tiles, 60_000)
    live.do("undo")
    assert np.array_equal(live.document.state.selection.read(live.document.state.canvas), first)
    live.do("undo")
    assert not live.document.state.selection.tiles


def test_depth_is_a_new_layer_that_can_be_followed(live, blocks):
    live.open(blocks)
    ask(live, Action.MAP, map_kind=ControlKind.DEPTH)
    live.until(lambda: live.layer_names() == ["blocks", "Depth"], 60_000)
    grey = render(live.document.state)
    assert (grey[..., 0] == grey[..., 2]).all()
    assert (grey.min(axis=(0, 1))[0], grey.max(axis=(0, 1))[0]) == (0, 255)
    button(live.window.generate.answers, "Follow this map").click()
    control = live.window.generate.wish().control
    assert live.window.generate.action is Action.CONTROL
    assert (control.kind, control.is_map) == (ControlKind.DEPTH, True)
    assert control.picture.layer_id == live.document.layers[-1].id
    live.do("undo")
    assert live.layer_names() == ["blocks"]


def test_edges_take_no_helper_and_keep_the_place_of_their_layer(live, blocks):
    live.open(blocks)
    square = np.zeros((20, 20, 4), np.uint8)
    square[4:16, 4:16] = 255
    commands.add_layer(
        live.document, RasterLayer(name="square", raster=TileRaster.from_array(square, 30, 10))
    )
    layer_id = live.document.layers[-1].id
    ask(live, Action.MAP, map_kind=ControlKind.CANNY, pictures=(PictureChoice(layer_id=layer_id),))
    live.until(lambda: live.layer_names()[-1] == "Edges: square")


def test_clicks_on_the_canvas_become_the_mask(live, blocks):
    live.open(blocks)
    live.key("W")
    assert live.program.tools.tool is ToolName.CLICK_MASK
    canvas, tool = live.window.canvas, live.window.canvas.tools.click_mask
    QTest.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=live.at(50.5, 10.5))
    live.until(lambda: bool(live.document.state.selection.tiles), 60_000)
    QTest.mouseClick(canvas, Qt.MouseButton.RightButton, pos=live.at(5.5, 35.5))
    live.until(lambda: live.window.generate.job_rows == {}, 60_000)
    live.until(lambda: len(list(labels(live))) == 2)
    assert [(each.x_px, each.y_px, each.is_included) for each in tool.clicks.marks] == [
        (50, 10, True),
        (5, 35, False),
    ]
    assert list(labels(live)) == ["Select by clicks"] * 2
    live.do("undo")
    assert len(tool.clicks.marks) == 1


def test_a_click_while_the_last_one_is_looked_at_takes_its_place(live, blocks):
    live.open(blocks)
    live.key("W")
    canvas = live.window.canvas
    with live.qtbot.assertNotEmitted(live.program.workspace.informed):
        QTest.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=live.at(50.5, 10.5))
        QTest.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=live.at(20.5, 20.5))
        live.until(lambda: bool(live.document.state.selection.tiles), 60_000)
        live.until(lambda: live.program.jobs.jobs() == ())
    assert len(canvas.tools.click_mask.clicks.marks) == 2
    assert list(labels(live)) == ["Select by clicks"]


def test_similar_results_come_first_and_a_second_search_looks_at_nothing(live, blocks, seeing):
    live.open(blocks)
    same = add_result(live, "the same", 0)
    add_result(live, "others", 4, 5)
    ask(live, Action.SIMILAR, pictures=(PictureChoice(layer_id=live.document.layers[0].id),))
    answered(live)
    rows = live.window.generate.answers.rows
    assert rows[0].ranked.choice.layer_id == same
    assert rows[0].ranked.similarity == pytest.approx(1.0, abs=1e-5)
    assert len(rows) == 3
    with seeing.client() as client:
        count = len(client.jobs())
        live.window.generate.answers.clear()
        live.do("similar")
        answered(live)
        assert len(client.jobs()) == count
    assert live.window.generate.answers.rows[0].ranked.similarity < 1.0, "the picture itself is no answer"
    live.window.generate.answers.rows[0].setFocus()
    QTest.keyClick(live.window.generate.answers.rows[0], Qt.Key.Key_Return)
    assert live.document.active_id != live.document.layers[0].id


def test_a_result_of_another_picture_comes_as_a_layer_with_its_recipe(live, blocks, seeing):
    request = build_request(task=Task.GENERATE, prompt="an apple", num_steps=1, width_px=64, height_px=64)
    with seeing.client() as client:
        assert client.wait(client.submit(request).job_id).state is JobState.DONE
    live.open(blocks)
    ask(live, Action.SIMILAR)
    answered(live)
    row = next(row for row in live.window.generate.answers.rows if row.ranked.kept is not None)
    assert row.name.toolTip() == "an apple (0)"
    QTest.mouseClick(row, Qt.MouseButton.LeftButton)
    live.until(lambda: len(live.document.layers) == 2)
    layer = live.document.layers[-1]
    assert isinstance(layer, GenerativeLayer)
    assert layer.recipe.request.prompt == "an apple"
    assert layer.recipe.box == Rect(16, 0, 64, 64)


def test_an_answer_for_a_closed_picture_is_nobodys(live, blocks, tmp_path):
    live.open(blocks)
    ask(live, Action.DESCRIBE)
    other = tmp_path / "other.png"
    shutil.copy(blocks, other)
    live.open(other)
    live.until(lambda: live.program.jobs.jobs() == ())
    assert not live.window.generate.answers.isVisible()


def test_an_answer_comes_into_the_window_of_the_language_that_was_chosen_meanwhile(live, blocks):
    live.open(blocks)
    ask(live, Action.DESCRIBE)
    live.program.set_language("zh_CN")
    answered(live)
    assert live.window.generate.answers.title.text() == "描述"
    live.until(lambda: live.window.generate.job_rows == {})


def test_a_look_can_be_cancelled_like_every_job(live, blocks, seeing):
    live.open(blocks)
    ask(live, Action.DESCRIBE)
    live.until(lambda: len(live.window.generate.job_rows) == 1)
    (row,) = live.window.generate.job_rows.values()
    row.cancel.click()
    live.until(lambda: live.window.generate.job_rows == {})
    assert not live.window.generate.answers.isVisible()


def labels(desk: Desk) -> Iterator[str]:
    """What undo would take back, the newest last."""
    return (step.label for step, _ in desk.document.history._undo)


def button(answers, text: str):
    from PySide6.QtWidgets import QPushButton

    return next(each for each in answers.findChildren(QPushButton) if each.text() == text)
