"""The few questions that need an answer before anything can go on; all are drawn by Qt, none blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QMessageBox,
    QVBoxLayout,
    QWidget,
)

from desktop.document.geometry import MAX_SIDE_PX
from desktop.i18n import mark, tr
from desktop.views.controls import ValueSlider, dim, heading, number_box
from desktop.views.theme import SPACE_PX

_KEY_COLUMNS = 3
_WHITE = (255, 255, 255)
_PRESETS = (
    (mark("Square"), 1024, 1024),
    (mark("Landscape 3:2"), 1216, 832),
    (mark("Portrait 2:3"), 832, 1216),
    (mark("Wide 16:9"), 1344, 768),
    (mark("Small square"), 256, 256),
)


class NewCanvasDialog(QDialog):
    """Size and background of a new canvas."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle(tr("New canvas"))
        self.preset = QComboBox()
        for title, width, height in _PRESETS:
            self.preset.addItem(f"{tr(title)} · {width} × {height}", (width, height))
        self.width_px, self.height_px = number_box(1, MAX_SIDE_PX, " px"), number_box(1, MAX_SIDE_PX, " px")
        self.background = QComboBox()
        self.background.addItem(tr("White"), _WHITE)
        self.background.addItem(tr("Transparent"), None)
        form = QFormLayout()
        form.setSpacing(SPACE_PX)
        form.setLabelAlignment(Qt.AlignmentFlag.AlignRight)
        form.addRow(tr("Preset"), self.preset)
        form.addRow(tr("Width"), self.width_px)
        form.addRow(tr("Height"), self.height_px)
        form.addRow(tr("Background"), self.background)
        _finish(self, form, tr("Create"))
        self.preset.currentIndexChanged.connect(self._on_preset)
        self._on_preset()

    def _on_preset(self) -> None:
        width, height = self.preset.currentData()
        self.width_px.setValue(width)
        self.height_px.setValue(height)


class ExportDialog(QDialog):
    """How a picture is written: quality where the format has one, and metadata."""

    def __init__(self, path: Path, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle(tr("Export {name}", name=path.name))
        self.quality = ValueSlider(tr("Quality"), 1, 100)
        self.quality.set_value(92)
        self.metadata = QCheckBox(tr("Write how it was made into the file"))
        self.metadata.setChecked(True)
        note = dim(tr("Prompt, seed and model of visible generated layers, and that AI had a part in it."))
        note.setWordWrap(True)
        column = QVBoxLayout()
        column.setSpacing(SPACE_PX)
        if path.suffix.lower() != ".png":
            column.addWidget(self.quality)
        column.addWidget(self.metadata)
        column.addWidget(note)
        _finish(self, column, tr("Export"))


def ask_about_unsaved(
    parent: QWidget, title: str, *, on_save: Callable[[], None], on_discard: Callable[[], None]
) -> QMessageBox:
    """Asks what becomes of unsaved work; Cancel calls nothing."""
    box = QMessageBox(parent)
    box.setOption(QMessageBox.Option.DontUseNativeDialog)
    box.setIcon(QMessageBox.Icon.NoIcon)
    box.setWindowTitle(tr("Unsaved changes"))
    box.setText(f"<b>{tr('Save the changes to {title}?', title=title)}</b>")
    box.setInformativeText(tr("Without saving they are lost."))
    save = box.addButton(tr("Save"), QMessageBox.ButtonRole.AcceptRole)
    discard = box.addButton(tr("Discard"), QMessageBox.ButtonRole.DestructiveRole)
    box.addButton(tr("Cancel"), QMessageBox.ButtonRole.RejectRole)
    box.setDefaultButton(save)
    save.setObjectName("primary")
    save.style().polish(save)
    _give_room(box)

    def answer() -> None:
        if box.clickedButton() is save:
            on_save()
        elif box.clickedButton() is discard:
            on_discard()

    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.finished.connect(lambda _: answer())
    box.open()
    return box


def about(parent: QWidget, version: str) -> QMessageBox:
    """What this program is."""
    box = QMessageBox(parent)
    box.setOption(QMessageBox.Option.DontUseNativeDialog)
    box.setWindowTitle(tr("About Flowbrush"))
    box.setText(f"<b>Flowbrush {version}</b>")
    box.setInformativeText(tr("An image editor with layers and masks whose brush is FLUX.1."))
    box.addButton(tr("Close"), QMessageBox.ButtonRole.AcceptRole)
    _give_room(box)
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.open()
    return box


def keys_dialog(parent: QWidget, groups: list[tuple[str, list[tuple[str, str]]]]) -> QDialog:
    """All keys, menu by menu in three columns."""
    dialog = QDialog(parent)
    dialog.setWindowTitle(tr("Keys"))
    columns = QHBoxLayout(dialog)
    columns.setContentsMargins(*(3 * SPACE_PX,) * 4)
    columns.setSpacing(5 * SPACE_PX)
    sides = [QVBoxLayout() for _ in range(_KEY_COLUMNS)]
    for side in sides:
        side.setSpacing(SPACE_PX)
    heights = [0] * _KEY_COLUMNS
    for title, rows in groups:
        shortest = heights.index(min(heights))
        heights[shortest] += len(rows) + 2
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.setHorizontalSpacing(3 * SPACE_PX)
        form.setVerticalSpacing(SPACE_PX // 2)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.FieldsStayAtSizeHint)
        for name, key in rows:
            cap = QLabel(key)
            cap.setObjectName("keycap")
            form.addRow(dim(name), cap)
        sides[shortest].addWidget(heading(title))
        sides[shortest].addLayout(form)
        sides[shortest].addSpacing(2 * SPACE_PX)
    for side in sides:
        side.addStretch(1)
        columns.addLayout(side)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.open()
    return dialog


def _give_room(box: QMessageBox) -> None:
    layout = box.layout()
    if layout is not None:
        layout.setContentsMargins(*(3 * SPACE_PX,) * 4)
        layout.setSpacing(SPACE_PX)


def _finish(dialog: QDialog, content: QFormLayout | QVBoxLayout, accept_text: str) -> None:
    buttons = QDialogButtonBox()
    accept = buttons.addButton(accept_text, QDialogButtonBox.ButtonRole.AcceptRole)
    accept.setObjectName("primary")
    accept.setDefault(True)
    buttons.addButton(tr("Cancel"), QDialogButtonBox.ButtonRole.RejectRole)
    buttons.accepted.connect(dialog.accept)
    buttons.rejected.connect(dialog.reject)
    column = QVBoxLayout(dialog)
    column.setContentsMargins(*(3 * SPACE_PX,) * 4)
    column.setSpacing(3 * SPACE_PX)
    column.addLayout(content)
    column.addWidget(buttons)
    dialog.setMinimumWidth(360)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
