"""One row of the layer list: eye, picture, mask, name, and what is special about the layer.

Painted by hand so that all of it fits into one calm row; a click on the eye hides, a click on the mask's
picture lets the brush work on the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QAbstractItemModel, QEvent, QModelIndex, QPersistentModelIndex, QRect, QSize, Qt
from PySide6.QtGui import QMouseEvent, QPainter, QPen, QPixmap
from PySide6.QtWidgets import QStyle, QStyledItemDelegate, QStyleOptionViewItem, QWidget

from desktop.document.blend import BlendMode
from desktop.i18n import tr
from desktop.models.layer_list import LayerRole
from desktop.models.thumbnails import THUMB_PX
from desktop.tools.settings import ToolSettings
from desktop.views.blend_titles import BLEND_TITLES
from desktop.views.theme import SPACE_PX, Theme

ROW_PX = 48
_EYE_PX = 18
_Index = QModelIndex | QPersistentModelIndex


@dataclass(frozen=True, slots=True)
class _Places:
    eye: QRect
    picture: QRect
    mask: QRect
    text: QRect


class LayerDelegate(QStyledItemDelegate):
    """Paints and edits rows of a LayerListModel."""

    def __init__(self, theme: Theme, settings: ToolSettings, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme = theme
        self._settings = settings
        self._icons: dict[tuple[str, str, float], QPixmap] = {}

    def sizeHint(self, option: QStyleOptionViewItem, index: _Index) -> QSize:
        return QSize(160, ROW_PX)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: _Index) -> None:
        places = _places(option.rect, has_mask=bool(index.data(LayerRole.HAS_MASK)))
        is_current = bool(option.state & QStyle.StateFlag.State_Selected)
        is_hovered = bool(option.state & QStyle.StateFlag.State_MouseOver)
        is_visible = index.data(Qt.ItemDataRole.CheckStateRole) == Qt.CheckState.Checked
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if is_current or is_hovered:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(self._theme.color("accent_quiet" if is_current else "window"))
            painter.drawRoundedRect(option.rect.adjusted(2, 1, -2, -1), 5, 5)
        eye = self._icon("eye" if is_visible else "eye-off", "text" if is_visible else "text_off", painter)
        painter.drawPixmap(places.eye.topLeft(), eye)
        painter.setOpacity(1.0 if is_visible else 0.45)
        picture = index.data(Qt.ItemDataRole.DecorationRole)
        edits_mask = is_current and self._settings.edits_layer_mask
        self._paint_picture(painter, places.picture, picture, is_target=False)
        if not places.mask.isEmpty():
            mask = index.data(LayerRole.MASK_THUMBNAIL)
            self._paint_picture(painter, places.mask, mask, is_target=edits_mask)
        self._paint_text(painter, places.text, option, index)
        painter.restore()

    def _paint_picture(self, painter: QPainter, rect: QRect, picture: QPixmap, *, is_target: bool) -> None:
        painter.drawPixmap(rect, picture)
        line = self._theme.color("accent" if is_target else "border_strong")
        painter.setPen(QPen(line, 2 if is_target else 1))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRoundedRect(rect.adjusted(-1, -1, 0, 0), 3, 3)

    def _paint_text(
        self, painter: QPainter, rect: QRect, option: QStyleOptionViewItem, index: _Index
    ) -> None:
        right = rect.right()
        for role, icon in ((LayerRole.IS_LOCKED, "lock"), (LayerRole.IS_GENERATED, "sparkle")):
            if index.data(role):
                right -= 18
                painter.drawPixmap(right, rect.center().y() - 8, self._icon(icon, "text_dim", painter, 16))
        rect = QRect(rect.left(), rect.top(), right - rect.left() - SPACE_PX // 2, rect.height())
        detail = _detail(index)
        name = (
            rect if not detail else QRect(rect.left(), rect.top() + 6, rect.width(), rect.height() // 2 - 6)
        )
        flags = Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft
        metrics = option.fontMetrics
        painter.setPen(self._theme.color("text"))
        text = metrics.elidedText(str(index.data()), Qt.TextElideMode.ElideRight, name.width())
        painter.drawText(name, flags, text)
        if detail:
            font = painter.font()
            font.setPointSizeF(font.pointSizeF() * 0.88)
            painter.setFont(font)
            painter.setPen(self._theme.color("text_dim"))
            low = QRect(rect.left(), rect.center().y(), rect.width(), rect.height() // 2 - 4)
            painter.drawText(low, flags, detail)

    def editorEvent(
        self, event: QEvent, model: QAbstractItemModel, option: QStyleOptionViewItem, index: _Index
    ) -> bool:
        is_click = isinstance(event, QMouseEvent) and event.button() == Qt.MouseButton.LeftButton
        if not is_click or not isinstance(event, QMouseEvent):
            return False
        places = _places(option.rect, has_mask=bool(index.data(LayerRole.HAS_MASK)))
        at = event.position().toPoint()
        if places.eye.adjusted(-6, -12, 4, 12).contains(at):
            if event.type() == QEvent.Type.MouseButtonRelease:
                is_visible = index.data(Qt.ItemDataRole.CheckStateRole) == Qt.CheckState.Checked
                state = Qt.CheckState.Unchecked if is_visible else Qt.CheckState.Checked
                model.setData(index, state, Qt.ItemDataRole.CheckStateRole)
            return True
        if event.type() == QEvent.Type.MouseButtonRelease:
            if places.mask.contains(at):
                self._settings.edits_layer_mask = True
            elif places.picture.contains(at):
                self._settings.edits_layer_mask = False
        return False

    def updateEditorGeometry(self, editor: QWidget, option: QStyleOptionViewItem, index: _Index) -> None:
        text = _places(option.rect, has_mask=bool(index.data(LayerRole.HAS_MASK))).text
        height = editor.sizeHint().height()
        editor.setGeometry(
            text.left() - 6, option.rect.center().y() - height // 2, option.rect.right() - text.left(), height
        )

    def _icon(self, name: str, color: str, painter: QPainter, size_px: int = _EYE_PX) -> QPixmap:
        scale = painter.device().devicePixelRatio()
        key = (f"{name}/{size_px}", color, scale)
        if key not in self._icons:
            self._icons[key] = self._theme.pixmap(name, size_px, color, scale)
        return self._icons[key]


def _places(row: QRect, *, has_mask: bool) -> _Places:
    middle = row.center().y() + 1
    eye = QRect(row.left() + SPACE_PX, middle - _EYE_PX // 2, _EYE_PX, _EYE_PX)
    picture = QRect(eye.right() + 1 + SPACE_PX, middle - THUMB_PX // 2, THUMB_PX, THUMB_PX)
    mask = QRect()
    right = picture.right() + 1
    if has_mask:
        mask = picture.translated(THUMB_PX + SPACE_PX // 2, 0)
        right = mask.right() + 1
    left = right + SPACE_PX
    return _Places(
        eye, picture, mask, QRect(left, row.top(), row.right() - left - SPACE_PX // 2, row.height())
    )


def _detail(index: _Index) -> str:
    """What differs from an ordinary layer, in a few words."""
    parts: list[str] = []
    mode = BlendMode(index.data(LayerRole.BLEND))
    if mode is not BlendMode.NORMAL:
        parts.append(tr(BLEND_TITLES[mode]))
    opacity = float(index.data(LayerRole.OPACITY))
    if opacity < 1.0:
        parts.append(f"{round(opacity * 100)} %")
    return " · ".join(parts)
