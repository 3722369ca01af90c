from __future__ import annotations

import numpy as np
import pytest
from PySide6.QtCore import QEvent, QPoint, QPointF, Qt
from PySide6.QtGui import QColor, QImage, QPointingDevice, QTabletEvent, QWheelEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication

from desktop.app import RESOURCES_DIR
from desktop.document import commands, mask
from desktop.document.compositor import render
from desktop.document.document import Document
from desktop.document.geometry import Rect
from desktop.document.layers import RasterLayer
from desktop.document.tiles import TileRaster
from desktop.models.workspace import image_of, pixels_of
from desktop.tools.settings import ToolName, ToolSettings
from desktop.views.canvas import CanvasView
from desktop.views.theme import Theme, load_theme
from desktop.views.viewport import Viewport


@pytest.fixture(scope="session")
def theme() -> Theme:
    return load_theme(RESOURCES_DIR)


@pytest.fixture
def settings() -> ToolSettings:
    settings = ToolSettings()
    settings.tool = ToolName.HAND  # so that no brush outline lies over the picture
    return settings


@pytest.fixture
def canvas(qtbot, theme, settings, photo) -> CanvasView:
    canvas = CanvasView(theme, settings)
    qtbot.addWidget(canvas)
    canvas.resize(700, 600)
    canvas.set_document(photo)
    canvas.show()
    return canvas


def seen(canvas: CanvasView) -> np.ndarray:
    """What the widget shows: RGBA [H, W, 4] in device pixels."""
    canvas.settle()
    return pixels_of(canvas.grab().toImage())


def at(canvas: CanvasView, x: float, y: float) -> QPoint:
    left, top = canvas.viewport.to_view(x, y)
    return QPointF(left, top).toPoint()


def test_at_100_percent_every_pixel_is_itself(canvas, photo):
    canvas.set_viewport(Viewport(1.0, 50, 40))
    shown = seen(canvas)[40 : 40 + 240, 50 : 50 + 320]
    assert np.array_equal(shown, render(photo.state))


def test_above_100_percent_pixels_are_squares_with_sharp_edges(canvas, photo):
    canvas.set_viewport(Viewport(4.0, 0, 0))
    shown = seen(canvas)[:400, :600]
    expected = render(photo.state).repeat(4, axis=0).repeat(4, axis=1)[:400, :600]
    assert np.array_equal(shown, expected)


@pytest.mark.parametrize("zoom", [0.75, 0.5, 0.31, 0.1])
def test_below_100_percent_the_picture_is_averaged_without_seams(qtbot, theme, settings, zoom):
    document = Document.blank(1200, 900)
    canvas = CanvasView(theme, settings)
    qtbot.addWidget(canvas)
    canvas.resize(1000, 800)
    canvas.set_document(document)
    pixels = np.empty((900, 1200, 4), np.uint8)
    pixels[...] = (90, 140, 200, 255)
    commands.add_layer(document, RasterLayer(name="flat", raster=TileRaster.from_array(pixels)))
    canvas.set_viewport(Viewport(zoom, 3, 5))
    width, height = int(1200 * zoom), int(900 * zoom)
    shown = seen(canvas)[5 : min(5 + height, 800), 3 : min(3 + width, 1000), :3].astype(int)
    assert np.abs(shown - (90, 140, 200)).max() <= 1


def test_transparency_shows_a_checkerboard_and_the_surround_does_not(qtbot, theme, settings):
    canvas = CanvasView(theme, settings)
    qtbot.addWidget(canvas)
    canvas.resize(400, 300)
    canvas.set_document(Document.blank(100, 100))
    canvas.set_viewport(Viewport(1.0, 10, 10))
    shown = seen(canvas)
    inside = {tuple(color) for color in shown[10:110, 10:110].reshape(-1, 4).tolist()}
    assert len(inside) == 2
    assert QColor(*shown[200, 300][:3].tolist()) == theme.color("surround")


def test_only_what_changed_is_painted_again(qtbot, canvas, photo):
    canvas.set_viewport(Viewport(1.0, 0, 0))
    QApplication.processEvents()
    painted = []
    original = canvas._scene.paint
    canvas._scene.paint = lambda painter, dirty, scale: (
        painted.append(dirty),
        original(painter, dirty, scale),
    )[1]
    commands.set_selection(photo, mask.select_rect(Rect(10, 10, 20, 20)))
    qtbot.waitUntil(lambda: bool(painted))
    assert painted[0].width() < 300
    assert painted[0].height() < 300


def test_the_mask_is_a_tint_or_only_its_outline(canvas, photo, settings):
    canvas.set_viewport(Viewport(1.0, 0, 0))
    commands.set_selection(photo, mask.select_rect(Rect(100, 100, 50, 50)))
    plain = render(photo.state)
    tinted = seen(canvas)
    assert tinted[125, 125, 0] > plain[125, 125, 0]
    settings.is_mask_tinted = False
    outlined = seen(canvas)
    assert np.array_equal(outlined[125, 125], plain[125, 125])
    assert not np.array_equal(outlined[100, 125], plain[100, 125])
    assert np.array_equal(outlined[98, 125], plain[98, 125])


def test_a_preview_lies_over_the_picture_until_it_is_removed(canvas, photo):
    canvas.set_viewport(Viewport(1.0, 0, 0))
    image = QImage(8, 8, QImage.Format.Format_RGB32)
    image.fill(0xFF00FF00)
    canvas.show_preview("job", Rect(50, 60, 40, 30), image)
    assert seen(canvas)[70, 70].tolist() == [0, 255, 0, 255]
    canvas.remove_preview("job")
    assert np.array_equal(seen(canvas)[70, 70], render(photo.state)[70, 70])


def test_a_tight_budget_leaves_the_rest_for_the_next_paint_and_loses_nothing(qtbot, canvas, photo):
    canvas._scene.budget_s = 0.0
    canvas.set_viewport(Viewport(1.0, 0, 0))
    for _ in range(3):
        canvas.repaint()
    canvas._scene.budget_s = 1.0
    qtbot.waitUntil(lambda: np.array_equal(seen(canvas)[:240, :320], render(photo.state)))


def test_tablet_pressure_changes_the_width_of_the_stroke(qapp, canvas, photo, settings):
    canvas.set_viewport(Viewport(1.0, 0, 0))
    settings.tool = ToolName.BRUSH
    settings.set_front((255, 0, 0))
    settings.set_brush(size_px=60.0, is_size_by_pressure=True)
    device = QPointingDevice.primaryPointingDevice()

    def pen(kind: QEvent.Type, x: float, y: float, pressure: float) -> None:
        place = QPointF(x, y)
        button = Qt.MouseButton.LeftButton
        held = Qt.MouseButton.NoButton if kind == QEvent.Type.TabletRelease else button
        none = Qt.KeyboardModifier.NoModifier
        event = QTabletEvent(kind, device, place, place, pressure, 0, 0, 0, 0, 0, none, button, held)
        qapp.sendEvent(canvas, event)

    for x, pressure in ((60, 0.1), (200, 1.0)):
        pen(QEvent.Type.TabletPress, x, 100, pressure)
        pen(QEvent.Type.TabletRelease, x, 100, pressure)
    red = (render(photo.state)[..., :3] == (255, 0, 0)).all(axis=2)
    assert 0 < red[:, 30:90].sum() < red[:, 170:230].sum() / 4


def test_the_wheel_zooms_about_the_cursor_and_keeps_that_point(qapp, canvas):
    place = QPointF(300, 200)
    before = canvas.viewport.to_canvas(300, 200)
    none = Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase
    qapp.sendEvent(canvas, QWheelEvent(place, place, QPoint(), QPoint(0, 120), *none, False))
    assert canvas.viewport.to_canvas(300, 200) == pytest.approx(before, abs=1.0)
    zoom = canvas.viewport.zoom
    qapp.sendEvent(canvas, QWheelEvent(place, place, QPoint(20, 10), QPoint(40, 20), *none, False))
    assert canvas.viewport.zoom == zoom, "a touchpad scrolls"


def test_the_middle_button_and_space_drag_the_view(canvas):
    canvas.zoom_to(4.0)
    start = canvas.viewport.left
    middle, none = Qt.MouseButton.MiddleButton, Qt.KeyboardModifier.NoModifier
    QTest.mousePress(canvas, middle, none, QPoint(300, 300))
    QTest.mouseMove(canvas, QPoint(320, 300))
    QTest.mouseRelease(canvas, middle, none, QPoint(320, 300))
    assert canvas.viewport.left == start + 20
    QTest.keyPress(canvas, Qt.Key.Key_Space)
    left = Qt.MouseButton.LeftButton
    QTest.mousePress(canvas, left, none, QPoint(300, 300))
    QTest.mouseMove(canvas, QPoint(290, 300))
    QTest.mouseRelease(canvas, left, none, QPoint(290, 300))
    QTest.keyRelease(canvas, Qt.Key.Key_Space)
    assert canvas.viewport.left == start + 10


def test_escape_takes_the_stroke_back(canvas, photo, settings):
    settings.tool = ToolName.BRUSH
    before = render(photo.state)
    left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    QTest.mousePress(canvas, left, none, at(canvas, 50, 50))
    QTest.mouseMove(canvas, at(canvas, 90, 90))
    QTest.keyClick(canvas, Qt.Key.Key_Escape)
    QTest.mouseRelease(canvas, left, none, at(canvas, 90, 90))
    assert np.array_equal(render(photo.state), before)
    assert not photo.can_undo


def test_a_resized_canvas_is_fitted_again(canvas, photo):
    zoom = canvas.viewport.zoom
    commands.resize_canvas(photo, 3200, 2400)
    assert canvas.viewport.zoom < zoom


def test_pixels_survive_the_way_through_qt_unchanged(photo):
    pixels = render(photo.state)
    pixels[:, :, 3] = np.arange(320, dtype=np.uint16) % 256
    assert np.array_equal(pixels_of(image_of(pixels)), pixels)
