"""The picture on the screen: pan, zoom, pen input, and what lies over it (mask, preview, brush outline).

Only what changed is painted, tile by tile and within a time budget, so a stroke on a large canvas never
waits for the rest of the picture. At 100 % and above pixels are squares with sharp edges; below they are
averaged. All drawing is done in device pixels, so it is sharp on every display.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from PySide6.QtCore import QEvent, QPoint, QPointF, QRect, QRectF, QSize, Qt, QTimer, Signal
from PySide6.QtGui import (
    QBrush,
    QColor,
    QCursor,
    QEnterEvent,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QNativeGestureEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPixmap,
    QPointingDevice,
    QRegion,
    QResizeEvent,
    QTabletEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QSizePolicy, QWidget

from desktop.document.compositor import Compositor
from desktop.document.document import Document
from desktop.document.geometry import Extent, Rect
from desktop.document.tiles import TileKey, keys_in
from desktop.i18n import tr
from desktop.tools.pointer import Pointer
from desktop.tools.settings import BRUSHES, ToolName, ToolSettings
from desktop.tools.tools import Bench, ToolBox
from desktop.views.theme import SPACE_PX, Theme
from desktop.views.tile_cache import TileCache, level_for, outline, shrunk, tint
from desktop.views.viewport import Viewport
from flux_core.errors import FluxError

PAINT_BUDGET_S = 0.012
_MARGIN_PX = 4 * SPACE_PX
_CHECKER_PX = 8
_MASK_STRENGTH = 0.5


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
    """

    viewport_changed = Signal()
    refused = Signal(object)
    gesture_ended = Signal()

    def __init__(self, theme: Theme, settings: ToolSettings, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._settings = settings
        self._document: Document | None = None
        self._tools: ToolBox | None = None
        self._disconnect: list[Callable[[], None]] = []
        self._viewport = Viewport()
        self._is_fitted = True
        self._compositor = Compositor()
        self._picture = TileCache(self._render_tile)
        self._mask = TileCache(self._render_mask)
        self._is_mask_tinted = True
        self._previews: dict[str, tuple[Rect, QImage]] = {}
        self._frames: dict[str, Rect] = {}
        self._cursor_at: QPointF | None = None
        self._is_pen_down = False
        self._has_alt = False
        self._checker = QPixmap()
        self.budget_s = PAINT_BUDGET_S
        self.setMouseTracking(True)
        self.setTabletTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumSize(320, 240)
        self.setAccessibleName(tr("Canvas"))
        settings.changed.connect(self._on_settings)

    # -- what is shown -----------------------------------------------------------------------------

    def set_document(self, document: Document | None) -> None:
        """Shows another document, whole."""
        for disconnect in self._disconnect:
            disconnect()
        self._disconnect = []
        self._document = document
        self._picture.clear()
        self._mask.clear()
        self._previews.clear()
        self._frames.clear()
        self._is_mask_tinted = True
        self._tools = None
        if document is not None:
            self._tools = ToolBox(Bench(document, self._settings, self, tr("Layer")))
            self._disconnect = [
                document.events.pixels_changed.connect(self._on_pixels),
                document.events.selection_changed.connect(self._on_selection),
                document.events.size_changed.connect(self._on_size),
            ]
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
        self._previews[job_id] = (box, image)
        self._frames[job_id] = box
        self._update_canvas(box)

    def show_frame(self, job_id: str, box: Rect) -> None:
        """Marks where a job works."""
        if self._frames.get(job_id) != box:
            self._frames[job_id] = box
            self._update_canvas(box)

    def remove_preview(self, job_id: str) -> None:
        """The job has ended."""
        box = self._frames.pop(job_id, None)
        self._previews.pop(job_id, None)
        if box is not None:
            self._update_canvas(box)

    @property
    def is_mask_tinted(self) -> bool:
        """Whether the mask is a see-through colour; otherwise only its outline is drawn."""
        return self._is_mask_tinted

    @is_mask_tinted.setter
    def is_mask_tinted(self, is_tinted: bool) -> None:
        if is_tinted != self._is_mask_tinted:
            self._is_mask_tinted = is_tinted
            self._mask.clear()
            self.update()

    def settle(self) -> None:
        """Paints everything before it returns, however long it takes (for pictures of the window)."""
        budget, self.budget_s = self.budget_s, 60.0
        self.repaint()
        self.budget_s = budget

    # -- where it is shown -------------------------------------------------------------------------

    @property
    def viewport(self) -> Viewport:
        return self._viewport

    @property
    def view_px(self) -> tuple[int, int]:
        """Size of the view in device pixels."""
        scale = self.devicePixelRatioF()
        return round(self.width() * scale), round(self.height() * scale)

    def set_viewport(self, viewport: Viewport) -> None:
        if self._document is not None:
            viewport = viewport.kept_in_sight(self._document.size, self.view_px)
        viewport = viewport.snapped()
        if viewport != self._viewport:
            self._viewport = viewport
            self.update()
            self.viewport_changed.emit()

    def zoom_to_fit(self) -> None:
        """Shows the whole canvas, and keeps doing so while the window changes its size."""
        if self._document is not None:
            margin = round(_MARGIN_PX * self.devicePixelRatioF())
            self._set_fitted(Viewport.fitting(self._document.size, self.view_px, margin))
        self.update()

    def zoom_to(self, zoom: float) -> None:
        """Another zoom about the middle of the view."""
        self._is_fitted = False
        width, height = self.view_px
        self.set_viewport(self._viewport.zoomed(zoom, width / 2, height / 2))

    def zoom_step(self, direction: int, at: QPointF | None = None) -> None:
        """One stop in or out, about a place in the view or its middle."""
        self._is_fitted = False
        scale = self.devicePixelRatioF()
        place = at or QPointF(self.width() / 2, self.height() / 2)
        self.set_viewport(self._viewport.stepped(direction, place.x() * scale, place.y() * scale))

    def pan(self, dx: float, dy: float) -> None:
        self._is_fitted = False
        self.set_viewport(self._viewport.panned(dx, dy))

    def _set_fitted(self, viewport: Viewport) -> None:
        self.set_viewport(viewport)
        self._is_fitted = True

    # -- painting ----------------------------------------------------------------------------------

    def sizeHint(self) -> QSize:
        return QSize(900, 700)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        scale = self.devicePixelRatioF()
        painter.fillRect(event.rect(), self._theme.color("surround"))
        if self._document is None:
            return
        painter.scale(1 / scale, 1 / scale)
        dirty = self._to_device(event.rect())
        canvas = self._canvas_in_view(self._document.state.canvas)
        seen = self._to_canvas(dirty.intersected(canvas.toAlignedRect()))
        painter.save()
        painter.setClipRect(canvas.intersected(QRectF(dirty)))
        self._paint_checker(painter, canvas, dirty, scale)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, self._viewport.zoom < 1)
        missing = self._paint_tiles(painter, self._picture, seen)
        self._paint_previews(painter)
        if not self._previews:
            missing += self._paint_tiles(painter, self._mask, seen)
        painter.restore()
        self._paint_frames(painter, scale)
        self._paint_brush(painter, scale)
        painter.end()
        if missing:
            QTimer.singleShot(0, self.update)

    def _paint_checker(self, painter: QPainter, canvas: QRectF, dirty: QRect, scale: float) -> None:
        cell = round(_CHECKER_PX * scale)
        if self._checker.width() != 2 * cell:
            self._checker = QPixmap(2 * cell, 2 * cell)
            self._checker.fill(self._theme.color("checker_light"))
            squares = QPainter(self._checker)
            for x, y in ((0, 0), (cell, cell)):
                squares.fillRect(x, y, cell, cell, self._theme.color("checker_dark"))
            squares.end()
        brush = QBrush(self._checker)
        painter.setBrushOrigin(canvas.topLeft())
        painter.fillRect(QRectF(dirty).intersected(canvas), brush)

    def _paint_tiles(self, painter: QPainter, cache: TileCache, seen: Rect) -> int:
        """Draws the tiles in `seen`; returns how many had no time to be made anew."""
        cache.set_level(level_for(self._viewport.zoom))
        deadline = time.perf_counter() + self.budget_s
        missing = 0
        for key in keys_in(seen):
            if not cache.is_fresh(key) and time.perf_counter() > deadline:
                image = cache.stale(key)
                missing += 1
            else:
                image = cache.get(key)
            if image is not None and not image.isNull():
                painter.drawImage(self._rect_in_view(key.rect), image)
        return missing

    def _render_tile(self, key: TileKey, level: int) -> QImage | None:
        document = self._document
        if document is None:
            return None
        return shrunk(self._compositor.tile(document.state, key, document.active_id), level)

    def _render_mask(self, key: TileKey, level: int) -> QImage | None:
        if self._document is None:
            return None
        selection = self._document.state.selection
        if self._is_mask_tinted:
            return tint(selection, key, level, self._theme.color("mask"), _MASK_STRENGTH)
        return outline(selection, key, level, self._theme.color("mask"))

    def _paint_previews(self, painter: QPainter) -> None:
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        for box, image in self._previews.values():
            painter.drawImage(self._rect_in_view(box), image)

    def _paint_frames(self, painter: QPainter, scale: float) -> None:
        painter.setBrush(Qt.BrushStyle.NoBrush)
        for box in self._frames.values():
            rect = self._rect_in_view(box).adjusted(-0.5, -0.5, 0.5, 0.5)
            painter.setPen(QPen(self._theme.color("accent"), max(1.0, 1.5 * scale)))
            painter.drawRect(rect)

    def _paint_brush(self, painter: QPainter, scale: float) -> None:
        if self._cursor_at is None or self._tools is None:
            return
        name = self._tools.name_for(has_alt=self._has_alt)
        if name not in BRUSHES:
            return
        radius = self._settings.brush(name).size_px * self._viewport.zoom / 2
        center = self._cursor_at * scale
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        for color, width in ((QColor(0, 0, 0, 150), 2.5), (QColor(255, 255, 255, 230), 1.1)):
            painter.setPen(QPen(color, width * scale))
            if radius < 2.5 * scale:
                arm = 5 * scale
                painter.drawLine(center - QPointF(arm, 0), center + QPointF(arm, 0))
                painter.drawLine(center - QPointF(0, arm), center + QPointF(0, arm))
            else:
                painter.drawEllipse(center, radius, radius)

    # -- coordinates -------------------------------------------------------------------------------

    def _rect_in_view(self, rect: Rect) -> QRectF:
        """Device pixels, whole, so that tiles meet without a gap."""
        left, top = self._viewport.to_view(rect.x, rect.y)
        right, bottom = self._viewport.to_view(rect.right, rect.bottom)
        return QRectF(QPointF(round(left), round(top)), QPointF(round(right), round(bottom)))

    def _canvas_in_view(self, canvas: Rect) -> QRectF:
        return self._rect_in_view(canvas)

    def _to_device(self, rect: QRect) -> QRect:
        scale = self.devicePixelRatioF()
        corner = QPoint(int(rect.left() * scale), int(rect.top() * scale))
        return QRect(corner, QSize(int(rect.width() * scale) + 2, int(rect.height() * scale) + 2))

    def _to_canvas(self, rect: QRect) -> Rect:
        if rect.isEmpty() or self._document is None:
            return Rect(0, 0, 0, 0)
        left, top = self._viewport.to_canvas(rect.left(), rect.top())
        right, bottom = self._viewport.to_canvas(rect.right() + 1, rect.bottom() + 1)
        x, y = int(left // 1), int(top // 1)
        found = Rect(x, y, int(-(-right // 1)) - x, int(-(-bottom // 1)) - y)
        return found.intersection(self._document.state.canvas)

    def _update_canvas(self, rect: Rect) -> None:
        """Asks for a repaint of a part of the canvas."""
        if rect.is_empty:
            return
        scale = self.devicePixelRatioF()
        seen = self._rect_in_view(rect)
        part = QRectF(seen.x() / scale, seen.y() / scale, seen.width() / scale, seen.height() / scale)
        self.update(part.toAlignedRect().adjusted(-2, -2, 2, 2))

    # -- what the document says ----------------------------------------------------------------------

    def _on_pixels(self, rect: Rect) -> None:
        self._picture.invalidate(rect)
        self._update_canvas(rect)

    def _on_selection(self, rect: Rect) -> None:
        was_tinted, self._is_mask_tinted = self._is_mask_tinted, True
        if not was_tinted:
            self._mask.clear()
            self.update()
        self._mask.invalidate(rect.inflated(1))
        self._update_canvas(rect)

    def _on_size(self, extent: Extent) -> None:
        self._picture.clear()
        self._mask.clear()
        self.zoom_to_fit()

    def _on_settings(self) -> None:
        self._refresh_cursor()
        self._update_brush()

    # -- input ---------------------------------------------------------------------------------------

    def resizeEvent(self, event: QResizeEvent) -> None:
        if self._is_fitted:
            self.zoom_to_fit()
        else:
            self.set_viewport(self._viewport)

    def pointer_at(
        self,
        place: QPointF,
        modifiers: Qt.KeyboardModifier,
        pressure: float = 1.0,
        *,
        is_eraser_end: bool = False,
    ) -> Pointer:
        """What a tool is told about a place in the view (logical pixels)."""
        scale = self.devicePixelRatioF()
        view_x, view_y = place.x() * scale, place.y() * scale
        x, y = self._viewport.to_canvas(view_x, view_y)
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
        )

    def mousePressEvent(self, event: QMouseEvent) -> None:
        name = ToolName.HAND if event.button() == Qt.MouseButton.MiddleButton else None
        if event.button() == Qt.MouseButton.LeftButton or name is not None:
            self._press(self.pointer_at(event.position(), event.modifiers()), name)

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
            event.position(), event.modifiers(), event.pressure(), is_eraser_end=is_eraser
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

    def focusOutEvent(self, event: QEvent) -> None:
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
        self._is_fitted = False
        self.set_viewport(self._viewport.zoomed(self._viewport.zoom * factor, at.x() * scale, at.y() * scale))
        self._update_brush()

    def _hover(self, at: QPointF) -> None:
        self._update_brush()
        self._cursor_at = QPointF(at)
        self._update_brush()

    def _update_brush(self) -> None:
        """Asks for a repaint where the outline of the brush is."""
        if self._cursor_at is None:
            return
        radius = self._settings.brush().size_px * self._viewport.zoom / 2 / self.devicePixelRatioF() + 8
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
