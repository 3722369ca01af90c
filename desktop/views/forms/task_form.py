"""What every task's form is: a few fields that write themselves into a wish and show one."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QComboBox, QGridLayout, QLabel, QWidget

from desktop.jobs.wish import Action, Wish
from desktop.views.controls import dim
from desktop.views.theme import SPACE_PX, Theme

LayerNames = Sequence[tuple[str, str]]
"""(id, name) of each layer, top-most first."""


class TaskForm(QWidget):
    """The fields of one task, label beside field.

    Args:
        theme: The look.
        language: For texts that come from files.

    Signals:
        changed: A person changed a field.
    """

    changed = Signal()

    def __init__(self, theme: Theme, language: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.theme, self.language = theme, language
        self.grid = QGridLayout(self)
        self.grid.setContentsMargins(0, 0, 0, 0)
        self.grid.setHorizontalSpacing(SPACE_PX)
        self.grid.setVerticalSpacing(SPACE_PX)
        self.grid.setColumnStretch(1, 1)

    def filled_in(self, wish: Wish) -> Wish:
        """The wish with what this form says."""
        return wish

    def show_wish(self, wish: Wish) -> None:
        """Shows what a wish says of this form's fields."""

    def fits(self, model: str) -> bool:
        """Whether a model that can do the task can do it as the fields say."""
        return True

    def if_none_fits(self) -> str:
        """What to do where no model does what the fields say; "" is to get one."""
        return ""

    def needs_canvas(self) -> bool:
        """Whether the task uses what is on the canvas, where that depends on a field."""
        return True

    def set_layers(self, layers: LayerNames) -> None:
        """The document's layers, for those forms that choose pictures."""

    def set_act(self, chosen: Action | None, act: Action) -> None:
        """What was chosen (None is what fits) and what the button will do."""

    def add_row(self, text: str, field: QWidget, *, is_list: bool = False) -> QLabel:
        """A label and its field; the label is also the field's name for a screen reader.

        A list may grow, so its label stays beside its first row.
        """
        row = self.grid.rowCount()
        label = dim(text)
        if is_list:
            label.setContentsMargins(0, SPACE_PX, 0, 0)
        self.grid.addWidget(label, row, 0, Qt.AlignmentFlag.AlignTop if is_list else Qt.AlignmentFlag(0))
        self.grid.addWidget(field, row, 1)
        if not field.accessibleName():
            field.setAccessibleName(text)
        return label

    def add_wide(self, field: QWidget) -> None:
        """A field of the form's whole width."""
        self.grid.addWidget(field, self.grid.rowCount(), 0, 1, 2)


def choice_box(entries: Sequence[tuple[str, str]], tip: str = "") -> QComboBox:
    """A list of (text, value); it shrinks before it makes the panel wider."""
    box = QComboBox()
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(6)
    box.setToolTip(tip)
    for text, value in entries:
        box.addItem(text, value)
    return box


def choose(box: QComboBox, value: str) -> None:
    """Shows the entry of this value, the first if there is none, without announcing it."""
    box.blockSignals(True)
    box.setCurrentIndex(max(box.findData(value), 0))
    box.blockSignals(False)
