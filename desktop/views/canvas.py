"""The canvas widget: pan, zoom and pen input; what it shows is painted by CanvasScene.

Mouse and tablet events become `Pointer`s for the tools. The view is measured in device pixels; whatever
comes from Qt in logical pixels is converted here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from PySide6.QtCore import QEvent, QPoint, QPointF, QRect, QRectF, QSize, Qt, QTimer, Signal
from PySide6.QtGui import (
    QCursor,
    QEnterEvent,
    QFocusEvent,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QNativeGestureEvent,
    QPainter,
    QPaintEvent,
    QPointingDevice,
    QRegion,
    QResizeEvent,
    QTabletEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QSizePolicy, QWidget

from desktop.document.document import Document
from desktop.document.geometry import Rect
from desktop.i18n import tr
from desktop.tools.bench import Bench
from desktop.tools.click_mask import Clicks
from desktop.tools.pointer import Pointer
from desktop.tools.settings import BRUSHES, ToolName, ToolSettings
from desktop.tools.tools import ToolBox
from desktop.views.canvas_scene import CanvasScene
from desktop.views.cursors import click_cursor
from desktop.views.theme import SPACE_PX, Theme
from desktop.views.viewport import Viewport
from flux_core.errors import FluxError

_MARGIN_PX = 4 * SPACE_PX


class CanvasView(QWidget):
    """Shows a document and hands the pen to the tools.

    Args:
        theme: Colours.
        settings: The tools' settings.
        parent: Qt parent.

    Signals:
        viewport_changed: Zoom or place differ.
        refused(FluxError): A tool could do nothing here.
        gesture_ended: The pen was lifted; what had to wait may go on.
        mask_asked(Clicks): The mask of what was clicked is wanted.
    """

    viewport_changed = Signal()
    refused = Signal(object)
    gesture_ended = Signal()
    mask_asked = Signal(object)

    def __init__(self, theme: Theme, settings: ToolSettings, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._settings = settings
        self._scene = CanvasScene(theme, self._update_canvas)
        self._tools: ToolBox | None = None
        self._disconnect: list[Callable[[], None]] = []
        self._is_fitted = True
        self._cursor_at: QPointF | None = None
        self._is_pen_down = False
        self._has_alt = False
        self._shows_clicks = False
        self.setMouseTracking(True)
        self.setTabletTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumSize(320, 240)
        self.setAccessibleName(tr("Canvas"))

    # -- what is shown -----------------------------------------------------------------------------

    def set_document(self, document: Document | None) -> None:
        """Shows another document, whole."""
        for disconnect in self._disconnect:
            disconnect()
        self._disconnect = []
        self._scene.set_document(document)
        self._is_pen_down = False
        self._tools = None
        if document is not None:
            self._tools = ToolBox(Bench(document, self._settings, self, tr("Layer")))
            self._disconnect = [
                document.events.size_changed.connect(lambda _: self._on_size()),
                document.events.selection_changed.connect(lambda _: self._on_selection()),
                self._settings.changed.connect(self._on_settings),
            ]
            self._on_settings()
        self.zoom_to_fit()
        self._refresh_cursor()

    @property
    def tools(self) -> ToolBox | None:
        return self._tools

    @property
    def is_busy(self) -> bool:
        """Whether a gesture is going on."""
        return self._tools is not None and self._tools.is_busy

    def show_preview(self, job_id: str, box: Rect, image: QImage) -> None:
        """Shows how a job's picture looks so far, over the layers and never part of them."""
        self._scene.show_preview(job_id, box, image)

    def show_frame(self, job_id: str, box: Rect) -> None:
        """Marks where a job works."""
        self._scene.show_frame(job_id, box)

    def remove_preview(self, job_id: str) -> None:
        """The job has ended."""
        self._scene.remove_preview(job_id)

    @property
    def previews(self) -> dict[str, tuple[Rect, QImage]]:
        """What jobs show now, by job id."""
        return self._scene.previews

    def settle(self) -> None:
        """Paints everything before it returns, however long it takes (for pictures of the window)."""
        budget, self._scene.budget_s = self._scene.budget_s, 60.0
        self.grab()
        self._scene.budget_s = budget
        self.update()

    # -- where it is shown -------------------------------------------------------------------------

    @property
    def viewport(self) -> Viewport:
        return self._scene.viewport

    @property
    def view_px(self) -> tuple[int, int]:
        """Size of the view in device pixels."""
        scale = self.devicePixelRatioF()
        return round(self.width() * scale), round(self.height() * scale)

    def set_viewport(self, viewport: Viewport) -> None:
        """Shows another part or zoom, and stops fitting the canvas to the window."""
        self._is_fitted = False
        self._show(viewport)

    def _show(self, viewport: Viewport) -> None:
        if self._scene.document is not None:
            viewport = viewport.kept_in_sight(self._scene.canvas.extent, self.view_px)
        viewport = viewport.snapped()
        if viewport != self._scene.viewport:
            self._scene.viewport = viewport
            self.update()
            self.viewport_changed.emit()

    def zoom_to_fit(self) -> None:
        """Shows the whole canvas, and keeps doing so while the window changes its size."""
        if self._scene.document is not None:
            margin = round(_MARGIN_PX * self.devicePixelRatioF())
            self._show(Viewport.fitting(self._scene.canvas.extent, self.view_px, margin))
            self._is_fitted = True
        self.update()

    def zoom_to(self, zoom: float) -> None:
        """Another zoom about the middle of the view."""
        width, height = self.view_px
        self.set_viewport(self.viewport.zoomed(zoom, width / 2, height / 2))

    def zoom_step(self, direction: int, at: QPointF | None = None) -> None:
        """One stop in or out, about a place in the view or its middle."""
        scale = self.devicePixelRatioF()
        place = at or QPointF(self.width() / 2, self.height() / 2)
        self.set_viewport(self.viewport.stepped(direction, place.x() * scale, place.y() * scale))

    def pan(self, dx: float, dy: float) -> None:
        self.set_viewport(self.viewport.panned(dx, dy))

    def ask_mask(self, clicks: Clicks) -> None:
        self.mask_asked.emit(clicks)

    def show_clicks(self) -> None:
        self.update()

    # -- painting ----------------------------------------------------------------------------------

    def sizeHint(self) -> QSize:
        return QSize(900, 700)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.fillRect(event.rect(), self._theme.color("surround"))
        if self._scene.document is None or self._tools is None:
            return
        scale = self.devicePixelRatioF()
        painter.scale(1 / scale, 1 / scale)
        is_whole = self._scene.paint(painter, self._to_device(event.rect()), scale)
        name = self._tools.name_for(has_alt=self._has_alt)
        if self._cursor_at is not None and name in BRUSHES:
            size_px = self._settings.brush(name).size_px
            self._scene.paint_brush(painter, self._cursor_at * scale, size_px, scale)
        if name is ToolName.CLICK_MASK:
            self._scene.paint_clicks(painter, self._tools.click_mask.clicks, scale)
            self._scene.paint_box(painter, self._tools.click_mask.dragged, scale)
        painter.end()
        if not is_whole:
            QTimer.singleShot(0, self, self.update)

    def _to_device(self, rect: QRect) -> QRect:
        scale = self.devicePixelRatioF()
        corner = QPoint(int(rect.left() * scale), int(rect.top() * scale))
        return QRect(corner, QSize(int(rect.width() * scale) + 2, int(rect.height() * scale) + 2))

    def _update_canvas(self, rect: Rect) -> None:
        """Asks for a repaint of a part of the canvas."""
        if rect.is_empty:
            return
        scale = self.devicePixelRatioF()
        seen = self._scene.rect_in_view(rect)
        part = QRectF(seen.x() / scale, seen.y() / scale, seen.width() / scale, seen.height() / scale)
        self.update(part.toAlignedRect().adjusted(-2, -2, 2, 2))

    def _on_size(self) -> None:
        self._scene.forget_tiles()
        self.zoom_to_fit()

    def _on_selection(self) -> None:
        if self._settings.tool is ToolName.CLICK_MASK:
            self.update()  # whose clicks may be others now, far from what changed

    def _on_settings(self) -> None:
        if (self._settings.tool is ToolName.CLICK_MASK) != self._shows_clicks:
            self._shows_clicks = not self._shows_clicks
            self.update()
        self._scene.set_mask_tinted(self._settings.is_mask_tinted)
        self._refresh_cursor()

    # -- input ---------------------------------------------------------------------------------------

    def resizeEvent(self, event: QResizeEvent) -> None:
        if self._is_fitted:
            self.zoom_to_fit()
        else:
            self._show(self.viewport)

    def pointer_at(
        self,
        place: QPointF,
        modifiers: Qt.KeyboardModifier,
        pressure: float = 1.0,
        *,
        is_eraser_end: bool = False,
        is_right_button: bool = False,
    ) -> Pointer:
        """What a tool is told about a place in the view (logical pixels)."""
        scale = self.devicePixelRatioF()
        view_x, view_y = place.x() * scale, place.y() * scale
        x, y = self.viewport.to_canvas(view_x, view_y)
        return Pointer(
            x,
            y,
            view_x,
            view_y,
            pressure,
            is_eraser_end,
            bool(modifiers & Qt.KeyboardModifier.ShiftModifier),
            bool(modifiers & Qt.KeyboardModifier.ControlModifier),
            bool(modifiers & Qt.KeyboardModifier.AltModifier),
            is_right_button,
        )

    def mousePressEvent(self, event: QMouseEvent) -> None:
        name = ToolName.HAND if event.button() == Qt.MouseButton.MiddleButton else None
        is_right = event.button() == Qt.MouseButton.RightButton
        if is_right and (self._tools is None or self._tools.name_for() is not ToolName.CLICK_MASK):
            return
        if event.button() == Qt.MouseButton.LeftButton or is_right or name is not None:
            pointer = self.pointer_at(event.position(), event.modifiers(), is_right_button=is_right)
            self._press(pointer, name)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        self._hover(event.position())
        if self._is_pen_down:
            self._drag(self.pointer_at(event.position(), event.modifiers()))

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        if self._is_pen_down and event.buttons() == Qt.MouseButton.NoButton:
            self._release(self.pointer_at(event.position(), event.modifiers()))

    def tabletEvent(self, event: QTabletEvent) -> None:
        is_eraser = event.pointerType() == QPointingDevice.PointerType.Eraser
        pointer = self.pointer_at(
            event.position(),
            event.modifiers(),
            event.pressure(),
            is_eraser_end=is_eraser,
            is_right_button=event.button() == Qt.MouseButton.RightButton,
        )
        self._hover(event.position())
        if event.type() == QEvent.Type.TabletPress:
            name = ToolName.HAND if event.button() == Qt.MouseButton.MiddleButton else None
            self._press(pointer, name)
        elif event.type() == QEvent.Type.TabletMove and self._is_pen_down:
            self._drag(pointer)
        elif event.type() == QEvent.Type.TabletRelease and self._is_pen_down:
            self._release(pointer)
        event.accept()

    def wheelEvent(self, event: QWheelEvent) -> None:
        scale = self.devicePixelRatioF()
        has_ctrl = bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
        if not event.pixelDelta().isNull() and not has_ctrl:  # a touchpad scrolls
            delta = event.pixelDelta()
            self.pan(delta.x() * scale, delta.y() * scale)
        else:
            turn = event.angleDelta().y() or event.angleDelta().x()
            if turn:
                self._zoom_by(2 ** (turn / 240), event.position())
        event.accept()

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QNativeGestureEvent) and (
            event.gestureType() == Qt.NativeGestureType.ZoomNativeGesture
        ):
            self._zoom_by(1 + event.value(), event.position())
            return True
        return super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Space and self._tools is not None:
            if not event.isAutoRepeat():
                self._tools.is_space_held = True
                self._refresh_cursor()
        elif event.key() == Qt.Key.Key_Alt:
            self._has_alt = True
            self._refresh_cursor()
        elif event.key() == Qt.Key.Key_Escape and self.is_busy and self._tools is not None:
            self._tools.cancel()
            self._end_gesture()
        else:
            super().keyPressEvent(event)

    def keyReleaseEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Space and self._tools is not None:
            if not event.isAutoRepeat():
                self._tools.is_space_held = False
                self._refresh_cursor()
        elif event.key() == Qt.Key.Key_Alt:
            self._has_alt = False
            self._refresh_cursor()
        else:
            super().keyReleaseEvent(event)

    def enterEvent(self, event: QEnterEvent) -> None:
        self._hover(event.position())

    def leaveEvent(self, event: QEvent) -> None:
        self._update_brush()
        self._cursor_at = None

    def focusOutEvent(self, event: QFocusEvent) -> None:
        self._has_alt = False
        if self._tools is not None:
            self._tools.is_space_held = False
        self._refresh_cursor()

    def _press(self, pointer: Pointer, name: ToolName | None) -> None:
        if self._tools is None or self._is_pen_down:
            return
        self.setFocus(Qt.FocusReason.MouseFocusReason)
        try:
            self._tools.press(pointer, name)
        except FluxError as err:
            self.refused.emit(err)
            return
        self._is_pen_down = True
        self._refresh_cursor()

    def _drag(self, pointer: Pointer) -> None:
        if self._tools is None:
            return
        try:
            self._tools.drag(pointer)
        except FluxError as err:
            self._tools.cancel()
            self._end_gesture()
            self.refused.emit(err)

    def _release(self, pointer: Pointer) -> None:
        if self._tools is not None:
            self._tools.release(pointer)
        self._end_gesture()

    def _end_gesture(self) -> None:
        self._is_pen_down = False
        self._refresh_cursor()
        self.gesture_ended.emit()

    def _zoom_by(self, factor: float, at: QPointF) -> None:
        scale = self.devicePixelRatioF()
        self.set_viewport(self.viewport.zoomed(self.viewport.zoom * factor, at.x() * scale, at.y() * scale))
        self._update_brush()

    def _hover(self, at: QPointF) -> None:
        self._update_brush()
        self._cursor_at = QPointF(at)
        self._update_brush()

    def _update_brush(self) -> None:
        """Asks for a repaint where the outline of the brush is."""
        if self._cursor_at is None:
            return
        radius = self._settings.brush().size_px * self.viewport.zoom / 2 / self.devicePixelRatioF() + 8
        for part in _ring(self._cursor_at, radius):
            self.update(part)

    def _refresh_cursor(self) -> None:
        self.setCursor(self._cursor())
        self._update_brush()

    def _cursor(self) -> QCursor:
        if self._tools is None:
            return QCursor(Qt.CursorShape.ArrowCursor)
        name = self._tools.name_for(has_alt=self._has_alt)
        if name in BRUSHES:
            return QCursor(Qt.CursorShape.BlankCursor)
        if name is ToolName.HAND:
            is_down = self._is_pen_down
            return QCursor(Qt.CursorShape.ClosedHandCursor if is_down else Qt.CursorShape.OpenHandCursor)
        if name is ToolName.CLICK_MASK:
            return click_cursor(self._theme, excludes=self._has_alt, scale=self.devicePixelRatioF())
        if name is ToolName.MOVE:
            return QCursor(Qt.CursorShape.SizeAllCursor)
        return QCursor(Qt.CursorShape.CrossCursor)


def _ring(center: QPointF, radius: float) -> Iterator[QRegion]:
    """The region of a brush outline; a large one leaves its middle out."""
    outer = QRectF(center.x() - radius, center.y() - radius, 2 * radius, 2 * radius).toAlignedRect()
    inside = radius * 0.68 - 12
    if inside < 32:
        yield QRegion(outer)
        return
    hole = QRectF(center.x() - inside, center.y() - inside, 2 * inside, 2 * inside).toAlignedRect()
    yield QRegion(outer).subtracted(QRegion(hole))
