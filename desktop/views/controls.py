"""Small controls that several panels share: a slider with its number, a colour swatch, a rule.

They keep no state of their own beyond what they show: a person's change goes out as a signal, the
model's change comes in through `set_value`, and setting never signals back.
"""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QEvent, QObject, QSize, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractButton,
    QFrame,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    QSizePolicy,
    QSlider,
    QSpinBox,
    QToolButton,
    QWidget,
)

from desktop.document.events import Signal as Event
from desktop.i18n import tr
from desktop.views.theme import ICON_PX, SPACE_PX, Theme

_STEPS = 1000


class ValueSlider(QWidget):
    """A label, a slider and a number that always agree.

    Args:
        label: What the number means.
        low, high: Range, whole numbers.
        suffix: Unit after the number, for example " px".
        is_curved: Small values get more room (for sizes).

    Signals:
        value_changed(int): While a person drags or types.
        committed(int): The change is finished; one undo step.
    """

    value_changed = Signal(int)
    committed = Signal(int)

    def __init__(
        self,
        label: str,
        low: int,
        high: int,
        suffix: str = "",
        *,
        is_curved: bool = False,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._low, self._high, self._power = low, high, 2.5 if is_curved else 1.0
        self.label = QLabel(label)
        self.label.setObjectName("dim")
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, _STEPS if is_curved else high - low)
        self.slider.setMinimumWidth(40)
        self.slider.setAccessibleName(label)
        self.number = number_box(low, high, suffix)
        self.number.setKeyboardTracking(False)
        self.number.setFixedWidth(72)
        self.number.setAccessibleName(label)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(SPACE_PX)
        self.label.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Preferred)
        row.addWidget(self.label)
        row.addWidget(self.slider, 1)
        row.addWidget(self.number)
        self.slider.valueChanged.connect(self._on_slider)
        self.slider.sliderReleased.connect(lambda: self.committed.emit(self.value()))
        self.number.valueChanged.connect(self._on_number)

    def value(self) -> int:
        return self.number.value()

    def set_value(self, value: int) -> None:
        """Shows a value without announcing it."""
        for widget in (self.slider, self.number):
            widget.blockSignals(True)
        self.number.setValue(value)
        if not self.slider.isSliderDown():
            self.slider.setValue(self._to_slider(value))
        for widget in (self.slider, self.number):
            widget.blockSignals(False)

    def _to_slider(self, value: int) -> int:
        share = (value - self._low) / (self._high - self._low)
        return round(share ** (1 / self._power) * self.slider.maximum())

    def _on_slider(self, position: int) -> None:
        share = (position / self.slider.maximum()) ** self._power
        value = round(self._low + share * (self._high - self._low))
        self.number.blockSignals(True)
        self.number.setValue(value)
        self.number.blockSignals(False)
        self.value_changed.emit(value)
        if not self.slider.isSliderDown():
            self.committed.emit(value)

    def _on_number(self, value: int) -> None:
        self.set_value(value)
        self.value_changed.emit(value)
        self.committed.emit(value)


class ColorSwatch(QAbstractButton):
    """The paint colour as a button, with the other colour behind it."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._front, self._back = QColor("#000000"), QColor("#ffffff")
        self.setFixedSize(40, 32)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setToolTip(tr("Paint colour (click to choose)"))
        self.setAccessibleName(tr("Paint colour"))

    def set_colors(self, front: QColor, back: QColor) -> None:
        self._front, self._back = front, back
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        line = self._theme.color("accent" if self.hasFocus() else "text_dim")
        painter.setPen(QPen(self._theme.color("border_strong"), 1))
        painter.setBrush(self._back)
        painter.drawRoundedRect(17, 9, 20, 20, 4, 4)
        painter.setPen(QPen(self._theme.color("window"), 2))
        painter.setBrush(self._front)
        painter.drawRoundedRect(4, 3, 24, 22, 4, 4)
        painter.setPen(QPen(line, 1))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRoundedRect(3, 2, 26, 24, 5, 5)
        painter.end()


def icon_button(theme: Theme, icon: str, tip: str, *, is_checkable: bool = False) -> QToolButton:
    """A flat button that is only an icon; its tip is also its name for a screen reader."""
    button = QToolButton()
    button.setIcon(theme.icon(icon))
    button.setIconSize(QSize(ICON_PX, ICON_PX))
    button.setToolTip(tip)
    button.setAccessibleName(tip)
    button.setCheckable(is_checkable)
    return button


def number_box(low: int, high: int, suffix: str = "") -> QSpinBox:
    """A field for a whole number; the wheel and the arrow keys step it."""
    box = QSpinBox()
    box.setRange(low, high)
    box.setSuffix(suffix)
    box.setAlignment(Qt.AlignmentFlag.AlignHCenter)
    return box


def heading(text: str) -> QLabel:
    label = QLabel(text)
    label.setObjectName("heading")
    return label


def dim(text: str) -> QLabel:
    label = QLabel(text)
    label.setObjectName("dim")
    return label


def rule() -> QFrame:
    """A thin line between two groups."""
    line = QFrame()
    line.setObjectName("rule")
    line.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return line


class ElidedLabel(QLabel):
    """One line of plain text that ends in an ellipsis where there is no room."""

    def __init__(self) -> None:
        super().__init__()
        self._full = ""
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)

    def set_text(self, text: str) -> None:
        self._full = text
        self._elide()

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._elide()

    def _elide(self) -> None:
        room = self.contentsRect().width()
        self.setText(self.fontMetrics().elidedText(self._full, Qt.TextElideMode.ElideRight, room))


class SnugScroll(QScrollArea):
    """A scroll area that is as high as its content, and scrolls only when there is no room for that."""

    def __init__(self, content: QWidget, least_px: int = 120) -> None:
        super().__init__()
        self._content = content
        self.setWidget(content)
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self.setMinimumHeight(least_px)

    def sizeHint(self) -> QSize:
        return self._content.sizeHint()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.LayoutRequest and watched is self._content:
            self.updateGeometry()
        return super().eventFilter(watched, event)


def follow(widget: QWidget, signal: Event[()], callback: Callable[[], object]) -> None:
    """Calls `callback` at every emission for as long as the widget lives."""
    disconnect = signal.connect(callback)
    widget.destroyed.connect(lambda: disconnect())
