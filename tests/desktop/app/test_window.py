"""The window without a service: files, layers, masks, keys, the language, and unsaved work."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image
from PySide6.QtCore import QEvent, QMimeData, QPoint, QPointF, Qt, QUrl
from PySide6.QtGui import QDropEvent, QImage
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QDialog, QLabel, QMessageBox, QPushButton
from shiboken6 import isValid

from desktop.document import commands
from desktop.document.blend import BlendMode
from desktop.document.compositor import render
from desktop.tools.settings import ToolName
from flux_core.errors import RequestInvalid

pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints")  # the offscreen platform has no size hints


def answer(desk, text: str) -> None:
    """Presses a button of the message box that is open."""
    desk.until(lambda: bool(desk.window.findChildren(QMessageBox)))
    box = desk.window.findChildren(QMessageBox)[-1]
    button = next(one for one in box.findChildren(QPushButton) if one.text() == text)
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)


def drop(desk, mime: QMimeData) -> None:
    desk.window.dropEvent(
        QDropEvent(
            QPointF(50, 50),
            Qt.DropAction.CopyAction,
            mime,
            Qt.MouseButton.LeftButton,
            Qt.KeyboardModifier.NoModifier,
        )
    )


def test_the_window_is_there_before_the_service_and_says_so(desk):
    assert desk.window.isVisible()
    assert desk.window.stack.currentWidget() is desk.window.start
    assert not desk.window.generate.button.isEnabled()
    desk.until(lambda: "does not answer" in desk.window.health.text.text())


def test_an_opened_picture_is_fitted_and_its_size_is_told(desk, picture):
    desk.open(picture)
    assert desk.window.stack.currentWidget() is desk.window.canvas
    assert desk.window.windowTitle() == "lake.png[*] — Flowbrush"
    assert desk.window.size_label.text() == "320 × 240 px"
    assert not desk.window.isWindowModified()


def test_a_file_that_is_no_picture_is_refused_in_the_window(desk, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    with desk.qtbot.waitSignal(desk.program.workspace.failed):
        desk.window.files.open_files([broken])
    assert desk.window.notices.isVisible()
    assert desk.program.workspace.session is None


def test_notices_wait_in_line_until_they_are_closed(desk):
    for number in (1, 2):
        desk.window.show_error(RequestInvalid(f"Trouble {number}.", "Do this."))
        desk.window.show_error(RequestInvalid(f"Trouble {number}.", "Do this."))
    assert [notice.message for notice in desk.window.notices.notices][-2:] == ["Trouble 1.", "Trouble 2."]
    while desk.window.notices.notices:
        desk.window.notices.close_first()
    assert not desk.window.notices.isVisible()


def test_a_second_picture_dropped_on_the_first_becomes_a_layer(desk, picture, tmp_path):
    desk.open(picture)
    stamp = tmp_path / "stamp.png"
    Image.new("RGB", (40, 20), (255, 0, 0)).save(stamp)
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(stamp))])
    drop(desk, mime)
    desk.until(lambda: desk.layer_names() == ["lake", "stamp"])
    assert render(desk.document.state)[120, 160].tolist() == [255, 0, 0, 255]
    desk.do("undo")
    assert desk.layer_names() == ["lake"]


def test_a_picture_is_pasted_as_a_layer_and_the_whole_is_copied(desk, picture, qapp):
    desk.open(picture)
    image = QImage(30, 30, QImage.Format.Format_RGB32)
    image.fill(0xFF00FF00)
    qapp.clipboard().setImage(image)
    desk.do("paste")
    desk.until(lambda: len(desk.document.layers) == 2)
    desk.do("copy")
    desk.until(lambda: qapp.clipboard().image().width() == 320)
    assert qapp.clipboard().image().pixelColor(160, 120).green() == 255


def test_pasting_without_a_document_starts_one_of_that_size(desk, qapp):
    qapp.clipboard().setImage(QImage(33, 44, QImage.Format.Format_RGB32))
    with desk.qtbot.waitSignal(desk.program.workspace.session_opened):
        desk.do("paste")
    assert desk.document.size == (33, 44)
    assert desk.window.isWindowModified()


def test_painting_and_undo_work_by_mouse_and_keys(desk, picture):
    desk.open(picture)
    before = render(desk.document.state)
    desk.key("B")
    desk.stroke((40, 60), (80, 60), (120, 60))
    assert not np.array_equal(render(desk.document.state), before)
    assert desk.window.isWindowModified()
    desk.key("Ctrl+Z")
    assert np.array_equal(render(desk.document.state), before)
    assert not desk.window.isWindowModified()
    desk.key("Ctrl+Shift+Z")
    assert not np.array_equal(render(desk.document.state), before)


@pytest.mark.parametrize(
    ("key", "tool"),
    [
        ("B", ToolName.BRUSH),
        ("E", ToolName.ERASER),
        ("M", ToolName.MASK_BRUSH),
        ("Shift+M", ToolName.MASK_ERASER),
        ("W", ToolName.CLICK_MASK),
        ("V", ToolName.MOVE),
        ("I", ToolName.PICKER),
        ("H", ToolName.HAND),
    ],
)
def test_every_tool_has_its_key(desk, picture, key, tool):
    desk.open(picture)
    desk.program.tools.tool = ToolName.HAND if tool is not ToolName.HAND else ToolName.BRUSH
    desk.key(key)
    assert desk.program.tools.tool is tool
    assert desk.window.tool_bar.tool_actions[tool].isChecked()


def test_letters_typed_into_the_prompt_are_text_and_no_keys(desk, picture):
    desk.open(picture)
    desk.program.tools.tool = ToolName.HAND
    desk.key("Alt+A")
    assert desk.window.generate.prompt.hasFocus()
    QTest.keyClicks(desk.window.generate.prompt, "be mixed")
    assert desk.window.generate.prompt.toPlainText() == "be mixed"
    assert desk.program.tools.tool is ToolName.HAND


def test_brackets_x_and_d_change_the_brush_and_its_colours(desk, picture):
    desk.open(picture)
    tools = desk.program.tools
    tools.tool = ToolName.BRUSH
    size = tools.brush().size_px
    desk.key("]")
    assert tools.brush().size_px > size
    tools.set_front((1, 2, 3))
    desk.key("X")
    assert tools.back == (1, 2, 3)
    desk.key("D")
    assert (tools.front, tools.back) == ((0, 0, 0), (255, 255, 255))


def test_zoom_keys_go_to_the_named_zooms(desk, picture):
    desk.open(picture)
    for key, zoom in (("Ctrl+1", 1.0), ("Ctrl+2", 2.0), ("Ctrl+3", 4.0), ("Ctrl+4", 8.0)):
        desk.key(key)
        assert desk.window.canvas.viewport.zoom == zoom
    desk.key("Ctrl+0")
    assert desk.window.canvas.viewport.zoom in (2.0, 3.0)
    assert desk.window.zoom_label.text().endswith(" %")


def test_the_mask_is_masked_cleared_inverted_and_undone(desk, picture):
    desk.open(picture)
    assert not desk.window.actions_by_name["mask_clear"].isEnabled()
    desk.do("mask_all")
    assert desk.window.generate.button.text() == "Fill"
    desk.do("mask_clear")
    assert desk.window.generate.button.text() == "Generate"
    desk.do("mask_invert")
    assert desk.window.generate.button.text() == "Fill"
    for _ in range(3):
        desk.do("undo")
    assert desk.window.generate.button.text() == "Generate"


def test_the_layer_panel_adds_hides_reorders_and_deletes(desk, picture):
    desk.open(picture)
    panel = desk.window.layers
    desk.do("add_layer")
    assert desk.layer_names() == ["lake", "Layer 2"]
    desk.do("layer_down")
    assert desk.layer_names() == ["Layer 2", "lake"]
    desk.do("toggle_visible")
    assert not desk.document.layers[0].is_visible
    panel.opacity.number.setValue(40)
    assert desk.document.layers[0].opacity == 0.4
    panel.blend.setCurrentIndex(panel.blend.findData(BlendMode.MULTIPLY))
    panel.blend.activated.emit(panel.blend.currentIndex())
    assert desk.document.layers[0].blend is BlendMode.MULTIPLY
    desk.do("delete_layer")
    assert desk.layer_names() == ["lake"]
    while desk.document.can_undo:
        desk.do("undo")
    assert desk.layer_names() == ["lake"]


def test_dragging_the_opacity_slider_is_one_undo_step(desk, picture):
    desk.open(picture)
    slider = desk.window.layers.opacity.slider
    slider.setSliderDown(True)
    for value in (90, 70, 30):
        slider.setValue(value)
    slider.setSliderDown(False)
    assert desk.document.layers[0].opacity == pytest.approx(0.3)
    desk.do("undo")
    assert desk.document.layers[0].opacity == 1.0
    assert desk.window.layers.opacity.value() == 100


def test_a_click_on_the_eye_hides_and_on_the_mask_lets_the_brush_work_on_it(desk, picture):
    desk.open(picture)
    desk.do("toggle_mask")
    tree = desk.window.layers.tree
    row = tree.visualRect(tree.model().index(0, 0))

    def click(x: int) -> None:
        place = QPoint(row.left() + x, row.center().y())
        QTest.mouseClick(tree.viewport(), Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, place)

    assert desk.program.tools.edits_layer_mask
    click(50)
    assert not desk.program.tools.edits_layer_mask
    click(90)
    assert desk.program.tools.edits_layer_mask
    click(16)
    assert not desk.document.layers[0].is_visible


def test_in_the_middle_of_a_stroke_no_key_edits_the_document(desk, picture):
    desk.open(picture)
    desk.do("add_layer")
    desk.program.tools.tool = ToolName.BRUSH
    left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    QTest.mousePress(desk.window.canvas, left, none, desk.at(20, 20))
    for name in ("delete_layer", "undo", "mask_all", "close"):
        desk.window.actions_by_name[name].trigger()
    QTest.mouseMove(desk.window.canvas, desk.at(60, 20))
    QTest.mouseRelease(desk.window.canvas, left, none, desk.at(60, 20))
    assert desk.layer_names() == ["lake", "Layer 2"]
    assert desk.document.history.undo_label == "Paint"


def test_a_locked_layer_says_so_in_the_window(desk, picture):
    desk.open(picture)
    commands.set_locked(desk.document, desk.document.layers[0].id, True)
    desk.key("B")
    desk.stroke((40, 60), (80, 60))
    assert any("locked" in notice.message for notice in desk.window.notices.notices)


def test_closing_with_unsaved_work_asks_and_cancel_keeps_it(desk, picture):
    desk.open(picture)
    desk.do("add_layer")
    desk.window.close()
    answer(desk, "Cancel")
    assert desk.window.isVisible()
    assert desk.layer_names() == ["lake", "Layer 2"]
    desk.do("close")
    answer(desk, "Discard")
    desk.until(lambda: desk.program.workspace.session is None)
    assert desk.window.stack.currentWidget() is desk.window.start


def test_saving_asks_for_a_name_once_and_reopening_gives_the_same_document(desk, picture, tmp_path):
    desk.open(picture)
    desk.do("mask_all")
    desk.do("add_layer")
    path = tmp_path / "work.ora"
    with desk.qtbot.waitSignal(desk.program.workspace.saved):
        desk.program.workspace.save(path)
    assert desk.window.windowTitle() == "work.ora[*] — Flowbrush"
    assert not desk.window.isWindowModified()
    state = desk.document.state
    desk.do("close")
    desk.open(path)
    assert desk.layer_names() == ["lake", "Layer 2"]
    assert desk.document.state.selection.equals(state.selection)
    assert desk.window.generate.button.text() == "Fill"
    desk.do("add_layer")
    with desk.qtbot.waitSignal(desk.program.workspace.saved):
        desk.do("save")


def test_save_before_close_goes_on_when_the_file_is_on_disk(desk, picture, tmp_path):
    desk.open(picture)
    path = tmp_path / "work.ora"
    with desk.qtbot.waitSignal(desk.program.workspace.saved):
        desk.program.workspace.save(path)
    desk.do("add_layer")
    desk.do("close")
    answer(desk, "Save")
    desk.until(lambda: desk.program.workspace.session is None)
    desk.open(path)
    assert desk.layer_names() == ["lake", "Layer 2"]


@pytest.mark.parametrize("name", ["out.png", "out.jpg", "out.webp"])
def test_the_picture_is_exported_in_every_format(desk, picture, tmp_path, name):
    desk.open(picture)
    with desk.qtbot.waitSignal(desk.program.workspace.informed):
        desk.program.workspace.export(tmp_path / name, quality=90, has_metadata=True, done_text="Exported")
    with Image.open(tmp_path / name) as image:
        assert image.size == (320, 240)


def test_the_new_canvas_dialog_makes_the_canvas_it_shows(desk):
    desk.do("new")
    dialog = next(one for one in desk.window.findChildren(QDialog) if one.isVisible())
    dialog.width_px.setValue(200)
    dialog.height_px.setValue(100)
    dialog.accept()
    assert desk.document.size == (200, 100)
    assert (render(desk.document.state) == 255).all()


def test_another_language_keeps_the_document_the_prompt_and_the_tool(desk, picture):
    desk.open(picture)
    desk.do("add_layer")
    desk.program.tools.tool = ToolName.MOVE
    desk.window.generate.prompt.setPlainText("一只苹果")
    document = desk.document
    old = desk.window
    desk.program.set_language("zh_CN")
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
    assert not isValid(old)
    desk.program.tools.step_size(1)
    desk.program.workspace.informed.emit("nobody of the old window may answer")
    assert desk.document is document
    assert desk.window.generate.prompt.toPlainText() == "一只苹果"
    assert desk.window.generate.button.text() == "生成"
    assert desk.window.tool_bar.tool_actions[ToolName.MOVE].isChecked()
    assert desk.window.actions_by_name["undo"].text() == "撤销: 添加图层"
    desk.do("undo")
    assert desk.layer_names() == ["lake"]


def test_in_chinese_no_english_word_is_left_in_the_window(desk, picture):
    desk.program.set_language("zh_CN")
    desk.open(picture)
    texts = [label.text() for label in desk.window.findChildren(QLabel)]
    texts += [button.text() for button in desk.window.findChildren(QPushButton)]
    texts += [action.text() for action in desk.window.actions_by_name.values()]
    texts += [desk.window.layers.blend.itemText(row) for row in range(desk.window.layers.blend.count())]
    tool_tips = [action.toolTip() for action in desk.window.tool_bar.tool_actions.values()]
    allowed = {
        "Flowbrush",
        "FLUX",
        "ControlNet",
        "LoRA",
        "PNG",
        "JPEG",
        "WebP",
        "OpenRaster",
        "Ctrl",
        "Shift",
        "Alt",
        "px",
        "px…",
        "b",
        "br",
    }
    for text in texts + tool_tips:
        if "does not answer" in text or "There is no service" in text:
            continue
        words = set(re.findall(r"[A-Za-z]{2,}", text))
        assert words <= allowed, text
