"""Choosing pictures for a task: what is visible, a layer, or a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PySide6.QtCore import QSize, Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from desktop.i18n import tr
from desktop.jobs.wish import PictureChoice
from desktop.views.controls import icon_button, number_box
from desktop.views.forms.task_form import LayerNames
from desktop.views.theme import SPACE_PX, Theme

_VISIBLE, _LAYER, _FILE, _ASK = "visible", "layer:", "file:", "ask"
_MAX_STRENGTH = 200


class PicturePicker(QComboBox):
    """One picture.

    Signals:
        picked: A person chose another.
    """

    picked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(6)
        self.setAccessibleName(tr("Picture"))
        self.setToolTip(tr("Which picture: what is visible, a layer, or a file"))
        self._layers: LayerNames = ()
        self._file: Path | None = None
        self._shown = _VISIBLE
        self._fill()
        self.activated.connect(self._on_activated)

    def choice(self) -> PictureChoice:
        """What is chosen."""
        if self._shown.startswith(_LAYER):
            return PictureChoice(layer_id=self._shown.removeprefix(_LAYER))
        return PictureChoice(file=self._file if self._shown.startswith(_FILE) else None)

    def set_choice(self, choice: PictureChoice) -> None:
        """Shows a choice without announcing it."""
        self._file = choice.file or self._file
        self._shown = _VISIBLE
        if choice.file is not None:
            self._shown = f"{_FILE}{choice.file}"
        elif choice.layer_id:
            self._shown = f"{_LAYER}{choice.layer_id}"
        self._fill()

    def set_layers(self, layers: LayerNames) -> None:
        """The layers that can be chosen; one that has gone is what is visible from now on."""
        if tuple(layers) != tuple(self._layers):
            self._layers = tuple(layers)
            self._fill()

    def _fill(self) -> None:
        self.blockSignals(True)
        self.clear()
        self.addItem(tr("What is visible"), _VISIBLE)
        for layer_id, name in self._layers:
            self.addItem(tr("Layer: {name}", name=name), f"{_LAYER}{layer_id}")
        if self._file is not None:
            self.addItem(self._file.name, f"{_FILE}{self._file}")
        self.addItem(tr("Choose a file…"), _ASK)
        row = self.findData(self._shown)
        if row < 0:
            self._shown, row = _VISIBLE, 0
        self.setCurrentIndex(row)
        self.blockSignals(False)

    def _on_activated(self, _row: int) -> None:
        chosen = str(self.currentData())
        if chosen == _ASK:
            self.setCurrentIndex(self.findData(self._shown))
            self._ask()
            return
        self._shown = chosen
        self.picked.emit()

    def _ask(self) -> None:
        folder = "" if self._file is None else str(self._file.parent)
        pictures = "*.png *.jpg *.jpeg *.webp *.bmp *.gif *.tif *.tiff *.avif"
        dialog = QFileDialog(self.window(), tr("Choose a picture"), folder, f"{tr('Pictures')} ({pictures})")
        is_offscreen = QGuiApplication.platformName() == "offscreen"
        dialog.setOption(QFileDialog.Option.DontUseNativeDialog, is_offscreen)
        dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
        dialog.fileSelected.connect(self._on_file)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def _on_file(self, name: str) -> None:
        self.set_choice(PictureChoice(file=Path(name)))
        self.picked.emit()


class PictureList(QWidget):
    """Several pictures, each with a strength where that counts.

    Args:
        theme: The look.
        least: So many rows stay.
        most: No more than so many can be added.
        has_strengths: Whether each row has one.

    Signals:
        changed: A person changed the list.
    """

    changed = Signal()

    def __init__(
        self,
        theme: Theme,
        *,
        least: int,
        most: int,
        has_strengths: bool,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._theme, self._least, self._most, self._has_strengths = theme, least, most, has_strengths
        self._layers: LayerNames = ()
        self.rows: list[PictureRow] = []
        self.add = QPushButton(tr("Add a picture"))
        self.add.setObjectName("quiet")
        self.add.clicked.connect(self._on_add)
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(SPACE_PX // 2)
        self._column.addWidget(self.add)
        self.set_choices([PictureChoice()] * least)

    def choices(self) -> tuple[PictureChoice, ...]:
        """The pictures, in order."""
        return tuple(row.choice() for row in self.rows)

    def set_choices(self, choices: Sequence[PictureChoice]) -> None:
        """Shows these, and no fewer rows than must stay."""
        for row in list(self.rows):
            self._drop(row)
        for choice in choices:
            self._append(choice)
        while len(self.rows) < self._least:
            self._append(PictureChoice())
        self._refresh()

    def set_layers(self, layers: LayerNames) -> None:
        self._layers = layers
        for row in self.rows:
            row.picker.set_layers(layers)

    def _append(self, choice: PictureChoice) -> None:
        row = PictureRow(self._theme, has_strength=self._has_strengths)
        row.picker.set_layers(self._layers)
        row.set_choice(choice)
        row.changed.connect(self.changed)
        row.remove.clicked.connect(lambda: self._on_remove(row))
        self.rows.append(row)
        self._column.insertWidget(len(self.rows) - 1, row)

    def _drop(self, row: PictureRow) -> None:
        self.rows.remove(row)
        self._column.removeWidget(row)
        row.hide()
        row.deleteLater()

    def _on_add(self) -> None:
        self._append(PictureChoice())
        self._refresh()
        self.changed.emit()

    def _on_remove(self, row: PictureRow) -> None:
        self._drop(row)
        self._refresh()
        self.changed.emit()

    def _refresh(self) -> None:
        for row in self.rows:
            row.remove.setVisible(len(self.rows) > self._least)
        self.add.setEnabled(len(self.rows) < self._most)


class PictureRow(QWidget):
    """One picture of a list.

    Signals:
        changed: A person changed it.
    """

    changed = Signal()

    def __init__(self, theme: Theme, *, has_strength: bool, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.picker = PicturePicker()
        self.strength: QSpinBox = number_box(0, _MAX_STRENGTH, " %")
        self.strength.setValue(100)
        self.strength.setAccessibleName(tr("Strength"))
        self.strength.setToolTip(tr("How much this picture counts: 100 % is what the model was made for"))
        self.strength.setVisible(has_strength)
        self._has_strength = has_strength
        self.remove = icon_button(theme, "close", tr("Leave this picture out"))
        self.remove.setIconSize(QSize(14, 14))
        line = QHBoxLayout(self)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(SPACE_PX // 2)
        line.addWidget(self.picker, 1)
        line.addWidget(self.strength)
        line.addWidget(self.remove)
        self.picker.picked.connect(self.changed)
        self.strength.valueChanged.connect(lambda _: self.changed.emit())

    def choice(self) -> PictureChoice:
        return replace(self.picker.choice(), strength=self.strength.value() / 100)

    def set_choice(self, choice: PictureChoice) -> None:
        self.picker.set_choice(choice)
        self.strength.setValue(round(choice.strength * 100))
