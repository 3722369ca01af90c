"""The tools on the left, and above the picture what can be set for the one in hand."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QAction, QActionGroup, QColor, QKeySequence
from PySide6.QtWidgets import QHBoxLayout, QLabel, QSizePolicy, QToolBar, QWidget

from desktop.i18n import mark, tr
from desktop.tools.settings import BRUSHES, MASK_TOOLS, MAX_SIZE_PX, ToolName, ToolSettings
from desktop.views.controls import ColorSwatch, ValueSlider, dim, follow, icon_button
from desktop.views.theme import SPACE_PX, Theme

TOOLS: tuple[tuple[ToolName, str, str, str], ...] = (
    (ToolName.BRUSH, mark("Brush"), "B", mark("Paint on the active layer")),
    (ToolName.ERASER, mark("Eraser"), "E", mark("Erase from the active layer")),
    (ToolName.MASK_BRUSH, mark("Mask brush"), "M", mark("Mark what the model repaints")),
    (ToolName.MASK_ERASER, mark("Mask eraser"), "Shift+M", mark("Take away from the mask")),
    (ToolName.CLICK_MASK, mark("Click to mask"), "W", mark("Click a thing to mask it whole")),
    (ToolName.MOVE, mark("Move"), "V", mark("Move the active layer")),
    (ToolName.PICKER, mark("Colour picker"), "I", mark("Take a colour from the picture")),
    (ToolName.HAND, mark("Hand"), "H", mark("Drag the view")),
)
_HINTS = {
    ToolName.CLICK_MASK: mark(
        "Click what belongs to the mask; Alt or the right button what does not. "
        "Drag a box around it. Shift adds to the mask."
    ),
    ToolName.MOVE: mark("Drag to move the active layer. Shift keeps to one direction."),
    ToolName.PICKER: mark("Click to take a colour from the picture."),
    ToolName.HAND: mark("Drag to move the view. The wheel zooms; Space is the hand at any time."),
}


class ToolBar(QToolBar):
    """One button for each tool; the keys work wherever the focus is, except in a text field."""

    def __init__(self, theme: Theme, settings: ToolSettings, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("tools")
        self.setWindowTitle(tr("Tools"))
        self.setMovable(False)
        self.setOrientation(Qt.Orientation.Vertical)
        self.setIconSize(QSize(22, 22))
        self._settings = settings
        group = QActionGroup(self)
        self.tool_actions: dict[ToolName, QAction] = {}
        for name, title, key, tip in TOOLS:
            if name in (ToolName.MASK_BRUSH, ToolName.MOVE):
                self.addSeparator()
            action = QAction(theme.icon(name.value), tr(title), self)
            action.setShortcut(QKeySequence(key))
            action.setToolTip(f"<b>{tr(title)}</b> ({key})<br>{tr(tip)}")
            action.setCheckable(True)
            action.setData(name)
            group.addAction(action)
            self.addAction(action)
            self.tool_actions[name] = action
        group.triggered.connect(self._on_triggered)
        follow(self, settings.changed, self._refresh)
        self._refresh()

    def _on_triggered(self, action: QAction) -> None:
        self._settings.tool = ToolName(action.data())

    def _refresh(self) -> None:
        self.tool_actions[self._settings.tool].setChecked(True)


class OptionsBar(QToolBar):
    """What the active tool can be told.

    Signals:
        color_asked: The swatch was clicked.
        invert_asked, clear_asked: For the mask.
    """

    color_asked = Signal()
    invert_asked = Signal()
    clear_asked = Signal()

    def __init__(self, theme: Theme, settings: ToolSettings, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("options")
        self.setWindowTitle(tr("Tool options"))
        self.setMovable(False)
        self._settings = settings
        self.title = QLabel()
        self.title.setObjectName("heading")
        self.title.setMinimumWidth(96)
        self.swatch = ColorSwatch(theme)
        self.swatch.clicked.connect(self.color_asked)
        self.swap = icon_button(theme, "swap", tr("Swap the two colours (X)"))
        self.swap.clicked.connect(settings.swap_colors)
        self.size_px = ValueSlider(tr("Size"), 1, MAX_SIZE_PX, " px", is_curved=True)
        self.size_px.setToolTip(tr("Size of the brush ([ and ])"))
        self.hardness = ValueSlider(tr("Hardness"), 0, 100, " %")
        self.opacity = ValueSlider(tr("Opacity"), 1, 100, " %")
        self.pressure_size = icon_button(
            theme, "pressure-size", tr("Pen pressure changes the size"), is_checkable=True
        )
        self.pressure_opacity = icon_button(
            theme, "pressure-opacity", tr("Pen pressure changes the opacity"), is_checkable=True
        )
        self.invert = icon_button(theme, "invert", tr("Invert the mask (Shift+V)"))
        self.invert.clicked.connect(self.invert_asked)
        self.clear_mask = icon_button(theme, "clear-mask", tr("Clear the mask (Ctrl+D)"))
        self.clear_mask.clicked.connect(self.clear_asked)
        self.hint = dim("")
        self._lay_out()
        for slider, name, unit in (
            (self.size_px, "size_px", 1.0),
            (self.hardness, "hardness", 100.0),
            (self.opacity, "opacity", 100.0),
        ):
            slider.value_changed.connect(
                lambda value, name=name, unit=unit: settings.set_brush(**{name: value / unit})
            )
        self.pressure_size.toggled.connect(lambda on: settings.set_brush(is_size_by_pressure=on))
        self.pressure_opacity.toggled.connect(lambda on: settings.set_brush(is_opacity_by_pressure=on))
        follow(self, settings.changed, self._refresh)
        self._refresh()

    def _lay_out(self) -> None:
        content = QWidget()
        row = QHBoxLayout(content)
        row.setContentsMargins(SPACE_PX, 0, SPACE_PX, 0)
        row.setSpacing(SPACE_PX)
        row.addWidget(self.title)
        row.addWidget(self.swatch)
        row.addWidget(self.swap)
        for slider in (self.size_px, self.hardness, self.opacity):
            slider.slider.setMaximumWidth(96)
            slider.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Preferred)
            row.addWidget(slider)
            row.addSpacing(SPACE_PX)
        for widget in (self.pressure_size, self.pressure_opacity, self.invert, self.clear_mask, self.hint):
            row.addWidget(widget)
        row.addStretch()
        content.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        content.setMinimumHeight(36)
        self.addWidget(content)

    def _refresh(self) -> None:
        tool = self._settings.tool
        title = next(text for name, text, _, _ in TOOLS if name is tool)
        self.title.setText(tr(title))
        is_brush, is_mask = tool in BRUSHES, tool in MASK_TOOLS
        paints = tool in (ToolName.BRUSH, ToolName.PICKER)
        for widget, is_shown in (
            (self.swatch, paints),
            (self.swap, paints),
            (self.size_px, is_brush),
            (self.hardness, is_brush),
            (self.opacity, is_brush),
            (self.pressure_size, is_brush),
            (self.pressure_opacity, is_brush),
            (self.invert, is_mask),
            (self.clear_mask, is_mask),
            (self.hint, tool in _HINTS),
        ):
            widget.setVisible(is_shown)
        self.hint.setText(tr(_HINTS[tool]) if tool in _HINTS else "")
        self.swatch.set_colors(QColor(*self._settings.front), QColor(*self._settings.back))
        brush = self._settings.brush()
        self.size_px.set_value(round(brush.size_px))
        self.hardness.set_value(round(brush.hardness * 100))
        self.opacity.set_value(round(brush.opacity * 100))
        for button, is_on in (
            (self.pressure_size, brush.is_size_by_pressure),
            (self.pressure_opacity, brush.is_opacity_by_pressure),
        ):
            button.blockSignals(True)
            button.setChecked(is_on)
            button.blockSignals(False)
