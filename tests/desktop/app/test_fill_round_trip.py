"""The main job in the window, with a real service: open, mask, fill, cancel, undo, engines that die."""

from __future__ import annotations

import os
import signal

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest

from desktop.document.compositor import render
from desktop.document.layers import GenerativeLayer
from desktop.jobs.job import Phase
from desktop.tools.settings import ToolName


def mask_the_middle(desk) -> None:
    desk.key("M")
    desk.program.tools.set_brush(size_px=60.0)
    desk.stroke((140, 120), (160, 120), (180, 120))


def test_a_masked_photo_is_filled_with_progress_preview_and_a_layer_that_undo_removes(
    live, picture, tmp_path
):
    live.open(picture)
    assert live.window.generate.button.text() == "Generate"
    mask_the_middle(live)
    assert live.window.generate.button.text() == "Fill"
    before = render(live.document.state)
    selected = live.document.state.selection.read(live.document.state.canvas) > 0

    live.ask(f"until={tmp_path / 'go'} steps=4")
    live.until(lambda: bool(live.window.canvas.previews))
    row = next(iter(live.window.generate.job_rows.values()))
    assert row.detail.text() == "Step 1 of 4"
    assert row.bar.value() == 250
    assert live.window.health.text.text() == "Painting: 25 %"
    assert np.array_equal(render(live.document.state), before), "a preview is never part of the picture"

    (tmp_path / "go").touch()
    live.until(lambda: len(live.document.layers) == 2)
    layer = live.document.layers[-1]
    assert isinstance(layer, GenerativeLayer)
    assert layer.mask is not None
    assert live.document.active_id == layer.id
    assert live.window.generate.job_rows == {}
    assert live.window.canvas.previews == {}
    after = render(live.document.state)
    assert np.array_equal(after[~selected], before[~selected])
    assert not np.array_equal(after[selected], before[selected])

    live.do("undo")
    assert np.array_equal(render(live.document.state), before)
    live.do("redo")
    assert np.array_equal(render(live.document.state), after)


def test_what_was_not_done_as_asked_is_said_when_the_layer_comes(live, picture):
    live.open(picture)
    live.ask("warn")
    live.until(lambda: len(live.document.layers) == 2)
    (notice,) = live.window.notices.notices
    assert (notice.kind, notice.message) == ("info", "The fake engine left something out.")


def test_painting_goes_on_while_a_job_runs_and_a_result_waits_for_the_pen(live, picture, tmp_path):
    live.open(picture)
    mask_the_middle(live)
    live.ask(f"until={tmp_path / 'go'}")
    live.until(lambda: bool(live.window.canvas.previews))
    live.key("B")
    canvas, left = live.window.canvas, Qt.MouseButton.LeftButton
    QTest.mousePress(canvas, left, Qt.KeyboardModifier.NoModifier, live.at(20, 20))
    (tmp_path / "go").touch()
    live.until(lambda: live.program.jobs.jobs() == ())
    live.until(lambda: live.window.generate.job_rows == {})
    QTest.mouseMove(canvas, live.at(60, 20))
    assert live.layer_names() == ["lake"]
    QTest.mouseRelease(canvas, left, Qt.KeyboardModifier.NoModifier, live.at(60, 20))
    assert len(live.document.layers) == 2
    assert live.document.history.undo_label == "Insert result"


def test_cancel_stops_the_job_and_leaves_the_picture_alone(live, picture, tmp_path):
    live.open(picture)
    mask_the_middle(live)
    live.ask(f"until={tmp_path / 'go'}")
    live.until(lambda: bool(live.window.canvas.previews))
    QTest.mouseClick(next(iter(live.window.generate.job_rows.values())).cancel, Qt.MouseButton.LeftButton)
    live.until(lambda: live.window.generate.job_rows == {})
    assert live.window.canvas.previews == {}
    assert live.layer_names() == ["lake"]
    assert live.window.notices.notices == ()


def test_several_jobs_wait_in_line_and_all_arrive(live, picture):
    live.open(picture)
    mask_the_middle(live)
    for seed in ("1", "2", "3"):
        live.window.generate.seed.setText(seed)
        live.ask("steps=1")
    live.until(lambda: len(live.document.layers) == 4)
    assert [layer.name for layer in live.document.layers[1:]] == [f"steps=1 ({n})" for n in (1, 2, 3)]


def test_an_engine_killed_in_the_middle_of_a_job_is_named_and_the_next_job_runs(
    live, picture, tmp_path, service
):
    live.open(picture)
    mask_the_middle(live)
    live.ask(f"until={tmp_path / 'go'}")
    live.until(lambda: bool(live.window.canvas.previews))
    os.kill(service.engine_pids()[0], signal.SIGKILL)
    live.until(lambda: bool(live.window.notices.notices))
    assert "SIGKILL" in live.window.notices.notices[0].message
    assert live.layer_names() == ["lake"]
    live.until(lambda: "SIGKILL" in live.window.health.toolTip())
    live.ask("steps=1")
    live.until(lambda: len(live.document.layers) == 2)


def test_a_refused_job_says_why_in_the_window_and_the_text_can_be_copied(live, picture, qapp):
    live.open(picture)
    live.ask("fail")
    live.until(lambda: bool(live.window.notices.notices))
    assert live.window.notices.isVisible()
    QTest.mouseClick(live.window.notices._copy, Qt.MouseButton.LeftButton)
    assert qapp.clipboard().text() == "The fake engine does not like this. Ask for something else."


def test_generate_fills_an_empty_canvas_and_refine_reworks_it(live):
    live.program.workspace.new_canvas(256, 192, None, "Background", "Untitled")
    assert live.window.generate.button.text() == "Generate"
    live.ask("steps=1")
    live.until(lambda: len(live.document.layers) == 2)
    assert (render(live.document.state)[..., 3] == 255).all()
    live.window.generate.strength.number.setValue(60)
    assert live.window.generate.button.text() == "Refine"
    live.ask("steps=1")
    live.until(lambda: len(live.document.layers) == 3)


def test_the_result_of_a_fill_can_be_seen_because_the_mask_becomes_an_outline(live, picture):
    live.open(picture)
    mask_the_middle(live)
    assert live.program.tools.is_mask_tinted
    live.ask("steps=1")
    live.until(lambda: len(live.document.layers) == 2)
    assert not live.program.tools.is_mask_tinted
    live.program.tools.tool = ToolName.MASK_BRUSH
    assert live.program.tools.is_mask_tinted


def test_the_keys_of_the_job_work(live, picture, tmp_path):
    live.open(picture)
    mask_the_middle(live)
    live.window.generate.prompt.setPlainText(f"until={tmp_path / 'go'}")
    live.key("Ctrl+Return")
    live.until(lambda: any(job.phase is Phase.RUNNING for job in live.program.jobs.jobs()))
    live.key("Shift+X")
    live.until(lambda: live.program.jobs.jobs() == ())
