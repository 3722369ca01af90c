"""What went wrong, said in the window and not in its way.

A notice is one sentence and the next step; it stays until it is closed, its text can be selected
and copied, and several wait in a row, so none is ever lost to a click in the wrong moment.
"""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QToolButton, QWidget

from desktop.i18n import tr
from desktop.views.theme import ICON_PX, SPACE_PX, Theme


@dataclass(frozen=True, slots=True)
class Notice:
    """One message. `kind` is "error" or "info"; `hint` says what to do next."""

    message: str
    hint: str = ""
    kind: str = "error"

    @property
    def text(self) -> str:
        return f"{self.message} {self.hint}".strip()


class NoticeBar(QFrame):
    """Shows the oldest notice that was not closed yet.

    Signals:
        emptied: The last one was closed.
    """

    emptied = Signal()

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("notice")
        self._theme = theme
        self._waiting: list[Notice] = []
        self._icon = QLabel()
        self._label = QLabel()
        self._label.setWordWrap(True)
        self._label.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
        self._label.setTextFormat(Qt.TextFormat.PlainText)
        self._count = QLabel()
        self._count.setObjectName("dim")
        self._copy = QPushButton(tr("Copy"))
        self._copy.setToolTip(tr("Copy this message"))
        self._copy.clicked.connect(self._copy_text)
        self._close = QToolButton()
        self._close.setIcon(theme.icon("close"))
        self._close.setIconSize(QSize(16, 16))
        self._close.setToolTip(tr("Close this message"))
        self._close.setAccessibleName(tr("Close this message"))
        self._close.clicked.connect(self.close_first)
        row = QHBoxLayout(self)
        row.setContentsMargins(2 * SPACE_PX, SPACE_PX, SPACE_PX, SPACE_PX)
        row.setSpacing(SPACE_PX)
        row.addWidget(self._icon)
        row.addWidget(self._label, 1)
        row.addWidget(self._count)
        row.addWidget(self._copy)
        row.addWidget(self._close)
        self.hide()

    @property
    def notices(self) -> tuple[Notice, ...]:
        """Those that were not closed yet, oldest first."""
        return tuple(self._waiting)

    def show_notice(self, notice: Notice) -> None:
        """Adds a notice; one that is already waiting is not repeated."""
        if notice not in self._waiting:
            self._waiting.append(notice)
        self._refresh()

    def close_first(self) -> None:
        """Closes the notice that is shown; the next one takes its place."""
        self._waiting = self._waiting[1:]
        self._refresh()
        if not self._waiting:
            self.emptied.emit()

    def _copy_text(self) -> None:
        QGuiApplication.clipboard().setText(self._label.text())

    def _refresh(self) -> None:
        self.setVisible(bool(self._waiting))
        if not self._waiting:
            return
        notice = self._waiting[0]
        self.setProperty("kind", notice.kind)
        self.style().unpolish(self)
        self.style().polish(self)
        name, color = ("warning", "danger") if notice.kind == "error" else ("info", "accent")
        self._icon.setPixmap(self._theme.pixmap(name, ICON_PX, color, self.devicePixelRatioF()))
        self._label.setText(notice.text)
        more = len(self._waiting) - 1
        self._count.setText(tr("{count} more", count=more) if more else "")
