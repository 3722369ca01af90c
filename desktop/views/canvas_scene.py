"""What lies on the canvas and how it is painted: checkerboard, picture, previews, mask, frames.

Only tiles that are seen are made, within a time budget, so a stroke on a large canvas never waits for the
rest of the picture. At 100 % and from 200 % on pixels are squares with sharp edges; below they are averaged.
All drawing is done in device pixels, so it is sharp on every display.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from PySide6.QtCore import QPointF, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QBrush, QColor, QImage, QPainter, QPen, QPixmap

from desktop.document.compositor import Compositor
from desktop.document.document import Document
from desktop.document.geometry import EMPTY, Rect
from desktop.document.tiles import TileKey, keys_in
from desktop.tools.click_mask import Clicks
from desktop.views.theme import Theme
from desktop.views.tile_cache import TileCache, level_for, outline, shrunk, tint
from desktop.views.viewport import Viewport

PAINT_BUDGET_S = 0.012
_CHECKER_PX = 8
_MASK_STRENGTH = 0.5
_SMALL_BRUSH_PX = 2.5


class CanvasScene:
    """A document, and what jobs show over it.

    Args:
        theme: Colours.
        on_dirty: Called with the part of the canvas that has to be painted again.

    Attributes:
        viewport: Where the canvas lies in the view.
        budget_s: How long making tiles may take in one paint.
    """

    def __init__(self, theme: Theme, on_dirty: Callable[[Rect], None]) -> None:
        self._theme = theme
        self._on_dirty = on_dirty
        self._document: Document | None = None
        self._disconnect: list[Callable[[], None]] = []
        self._compositor = Compositor()
        self._picture = TileCache(self._render_tile)
        self._mask = TileCache(self._render_mask)
        self._is_mask_tinted = True
        self._previews: dict[str, tuple[Rect, QImage]] = {}
        self._frames: dict[str, Rect] = {}
        self._checker = QPixmap()
        self.viewport = Viewport()
        self.budget_s = PAINT_BUDGET_S

    @property
    def document(self) -> Document | None:
        return self._document

    def set_document(self, document: Document | None) -> None:
        """Shows another document."""
        for disconnect in self._disconnect:
            disconnect()
        self._disconnect = []
        self._document = document
        self.forget_tiles()
        self._previews.clear()
        self._frames.clear()
        if document is not None:
            self._disconnect = [
                document.events.pixels_changed.connect(self._on_pixels),
                document.events.selection_changed.connect(self._on_selection),
            ]

    def forget_tiles(self) -> None:
        """Everything is to be made anew."""
        self._picture.clear()
        self._mask.clear()

    @property
    def canvas(self) -> Rect:
        return EMPTY if self._document is None else self._document.state.canvas

    def set_mask_tinted(self, is_tinted: bool) -> None:
        """Shows the mask as a see-through colour, or only its outline."""
        if is_tinted != self._is_mask_tinted:
            self._is_mask_tinted = is_tinted
            self._mask.clear()
            self._on_dirty(self.canvas)

    def show_preview(self, job_id: str, box: Rect, image: QImage) -> None:
        """Shows how a job's picture looks so far, over the layers and never part of them."""
        self._previews[job_id] = (box, image)
        self._frames[job_id] = box
        self._on_dirty(box)

    def show_frame(self, job_id: str, box: Rect) -> None:
        """Marks where a job works."""
        if self._frames.get(job_id) != box:
            self._frames[job_id] = box
            self._on_dirty(box)

    def remove_preview(self, job_id: str) -> None:
        """The job has ended."""
        box = self._frames.pop(job_id, None)
        self._previews.pop(job_id, None)
        if box is not None:
            self._on_dirty(box)

    @property
    def previews(self) -> dict[str, tuple[Rect, QImage]]:
        """What jobs show now, by job id."""
        return dict(self._previews)

    # -- painting ----------------------------------------------------------------------------------

    def paint(self, painter: QPainter, dirty: QRect, scale: float) -> bool:
        """Paints a part of the view; returns whether there was time for everything.

        Args:
            painter: In device pixels of the view.
            dirty: What to paint, device pixels.
            scale: Device pixels per logical pixel.
        """
        canvas = self.rect_in_view(self.canvas)
        seen = self._to_canvas(dirty.intersected(canvas.toAlignedRect()))
        painter.save()
        painter.setClipRect(canvas.intersected(QRectF(dirty)))
        self._paint_checker(painter, canvas, dirty, scale)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, self.viewport.is_smooth)
        missing = self._paint_tiles(painter, self._picture, seen)
        if self._previews:
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
            for box, image in self._previews.values():
                painter.drawImage(self.rect_in_view(box), image)
        else:
            missing += self._paint_tiles(painter, self._mask, seen)
        painter.restore()
        self._paint_frames(painter, scale)
        return missing == 0

    def paint_brush(self, painter: QPainter, center: QPointF, size_px: float, scale: float) -> None:
        """The outline of a brush of `size_px` canvas pixels; a cross where that is too small to see."""
        radius = size_px * self.viewport.zoom / 2
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        for color, width in ((QColor(0, 0, 0, 150), 2.5), (QColor(255, 255, 255, 230), 1.1)):
            painter.setPen(QPen(color, width * scale))
            if radius < _SMALL_BRUSH_PX * scale:
                arm = 5 * scale
                painter.drawLine(center - QPointF(arm, 0), center + QPointF(arm, 0))
                painter.drawLine(center - QPointF(0, arm), center + QPointF(0, arm))
            else:
                painter.drawEllipse(center, radius, radius)

    def paint_clicks(self, painter: QPainter, clicks: Clicks, scale: float) -> None:
        """A dot for each click, with a plus for what is meant and a minus for what is not, and the box."""
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        radius, arm = 7 * scale, 3.5 * scale
        for mark in clicks.marks:
            center = QPointF(*self.viewport.to_view(mark.x_px + 0.5, mark.y_px + 0.5))
            painter.setPen(QPen(self._theme.color("on_accent"), 1.5 * scale))
            painter.setBrush(self._theme.color("good" if mark.is_included else "text"))
            painter.drawEllipse(center, radius, radius)
            painter.drawLine(center - QPointF(arm, 0), center + QPointF(arm, 0))
            if mark.is_included:
                painter.drawLine(center - QPointF(0, arm), center + QPointF(0, arm))
        self.paint_box(painter, clicks.box, scale)

    def paint_box(self, painter: QPainter, box: Rect | None, scale: float) -> None:
        """The box around what is meant."""
        if box is None:
            return
        painter.setBrush(Qt.BrushStyle.NoBrush)
        for color, style in (("on_accent", Qt.PenStyle.SolidLine), ("good", Qt.PenStyle.DashLine)):
            painter.setPen(QPen(self._theme.color(color), 1.5 * scale, style))
            painter.drawRect(self.rect_in_view(box))

    def rect_in_view(self, rect: Rect) -> QRectF:
        """Device pixels, whole, so that tiles meet without a gap."""
        left, top = self.viewport.to_view(rect.x, rect.y)
        right, bottom = self.viewport.to_view(rect.right, rect.bottom)
        return QRectF(QPointF(round(left), round(top)), QPointF(round(right), round(bottom)))

    def _to_canvas(self, rect: QRect) -> Rect:
        if rect.isEmpty():
            return EMPTY
        left, top = self.viewport.to_canvas(rect.left(), rect.top())
        right, bottom = self.viewport.to_canvas(rect.right() + 1, rect.bottom() + 1)
        x, y = int(left // 1), int(top // 1)
        return Rect(x, y, int(-(-right // 1)) - x, int(-(-bottom // 1)) - y).intersection(self.canvas)

    def _paint_checker(self, painter: QPainter, canvas: QRectF, dirty: QRect, scale: float) -> None:
        cell = round(_CHECKER_PX * scale)
        if self._checker.width() != 2 * cell:
            self._checker = QPixmap(2 * cell, 2 * cell)
            self._checker.fill(self._theme.color("checker_light"))
            squares = QPainter(self._checker)
            for x, y in ((0, 0), (cell, cell)):
                squares.fillRect(x, y, cell, cell, self._theme.color("checker_dark"))
            squares.end()
        painter.setBrushOrigin(canvas.topLeft())
        painter.fillRect(QRectF(dirty).intersected(canvas), QBrush(self._checker))

    def _paint_tiles(self, painter: QPainter, cache: TileCache, seen: Rect) -> int:
        """Draws the tiles in `seen`; returns how many had no time to be made anew."""
        cache.set_level(level_for(self.viewport.zoom))
        deadline = time.perf_counter() + self.budget_s
        missing = 0
        for key in keys_in(seen):
            if not cache.is_fresh(key) and time.perf_counter() > deadline:
                image = cache.stale(key)
                missing += 1
            else:
                image = cache.get(key)
            if image is not None and not image.isNull():
                painter.drawImage(self.rect_in_view(key.rect.intersection(self.canvas)), image)
        return missing

    def _paint_frames(self, painter: QPainter, scale: float) -> None:
        painter.setBrush(Qt.BrushStyle.NoBrush)
        for box in self._frames.values():
            painter.setPen(QPen(self._theme.color("accent"), max(1.0, 1.5 * scale)))
            painter.drawRect(self.rect_in_view(box).adjusted(-0.5, -0.5, 0.5, 0.5))

    def _render_tile(self, key: TileKey, level: int) -> QImage | None:
        if self._document is None:
            return None
        image = self._compositor.tile(self._document.state, key, self._document.active_id)
        return shrunk(image, self._part(key), level)

    def _render_mask(self, key: TileKey, level: int) -> QImage | None:
        if self._document is None:
            return None
        selection, color = self._document.state.selection, self._theme.color("mask")
        if self._is_mask_tinted:
            return tint(selection, key.rect.intersection(self.canvas), level, color, _MASK_STRENGTH)
        return outline(selection, key.rect.intersection(self.canvas), level, color)

    def _part(self, key: TileKey) -> QSize:
        """How much of the tile lies on the canvas; the rest must not bleed into its edge."""
        seen = key.rect.intersection(self.canvas)
        return QSize(seen.width, seen.height)

    # -- what the document says ----------------------------------------------------------------------

    def _on_pixels(self, rect: Rect) -> None:
        self._picture.invalidate(rect)
        self._on_dirty(rect)

    def _on_selection(self, rect: Rect) -> None:
        around = rect.inflated(1 << self._mask.level)  # an outline looks at its neighbours
        self._mask.invalidate(around)
        self._on_dirty(around)
