"""What a person sees before there is a picture: one place to drop it, and two buttons.

The whole area takes dropped files. It only asks; the main window decides what opening means.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import QDateTime, QLocale, Qt, Signal
from PySide6.QtGui import QDragEnterEvent, QDragLeaveEvent, QDropEvent, QImage
from PySide6.QtWidgets import QFrame, QGridLayout, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from desktop.files.autosave import Recoverable
from desktop.i18n import tr
from desktop.views.controls import dim
from desktop.views.theme import SPACE_PX, Theme


class StartPage(QFrame):
    """The empty state.

    Signals:
        files_dropped(list[Path]), image_dropped(QImage): Something was dropped here.
        open_asked, new_asked, paste_asked: A button was pressed.
        recover_asked(Recoverable), discard_asked(Recoverable): What becomes of work a crash left behind.
    """

    files_dropped = Signal(list)
    image_dropped = Signal(QImage)
    open_asked = Signal()
    new_asked = Signal()
    paste_asked = Signal()
    recover_asked = Signal(object)
    discard_asked = Signal(object)

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("start")
        self.setAcceptDrops(True)
        self._frame = QFrame()
        self._frame.setObjectName("drop")
        self._frame.setMinimumSize(440, 304)
        self._frame.setMaximumSize(560, 360)
        picture = QLabel()
        picture.setPixmap(theme.pixmap("image", 56, "text_dim", self.devicePixelRatioF()))
        picture.setAlignment(Qt.AlignmentFlag.AlignCenter)
        title = QLabel(tr("Drop a picture here"))
        title.setObjectName("title")
        font = title.font()
        font.setPointSizeF(font.pointSizeF() * 1.6)
        title.setFont(font)
        title.setAlignment(Qt.AlignmentFlag.AlignCenter)
        hint = dim(tr("PNG, JPEG, WebP or an OpenRaster project"))
        hint.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.open_button = QPushButton(tr("Open a picture…"))
        self.open_button.setObjectName("primary")
        self.new_button = QPushButton(tr("New canvas…"))
        self.paste_button = QPushButton(tr("Paste"))
        for button, signal in (
            (self.open_button, self.open_asked),
            (self.new_button, self.new_asked),
            (self.paste_button, self.paste_asked),
        ):
            button.clicked.connect(signal)
        buttons = QHBoxLayout()
        buttons.setSpacing(SPACE_PX)
        buttons.addStretch()
        for button in (self.open_button, self.new_button, self.paste_button):
            buttons.addWidget(button)
        buttons.addStretch()
        inner = QVBoxLayout(self._frame)
        inner.setContentsMargins(*(4 * SPACE_PX,) * 4)
        inner.setSpacing(SPACE_PX)
        inner.addStretch()
        inner.addWidget(picture)
        inner.addSpacing(SPACE_PX)
        inner.addWidget(title)
        inner.addWidget(hint)
        inner.addSpacing(2 * SPACE_PX)
        inner.addLayout(buttons)
        inner.addStretch()
        self._offers: list[QWidget] = []
        self._found = QVBoxLayout()
        self._found.setSpacing(SPACE_PX)
        outer = QVBoxLayout(self)
        outer.setSpacing(2 * SPACE_PX)
        outer.addStretch(1)
        outer.addWidget(self._frame, 0, Qt.AlignmentFlag.AlignHCenter)
        outer.addLayout(self._found)
        outer.addStretch(1)

    def show_recoverable(self, found: Sequence[Recoverable]) -> None:
        """Offers work that a crash left behind."""
        for old in self._offers:
            self._found.removeWidget(old)
            old.deleteLater()
        self._offers = [self._offer(one) for one in found]
        for offer in self._offers:
            self._found.addWidget(offer, 0, Qt.AlignmentFlag.AlignHCenter)

    def _offer(self, found: Recoverable) -> QWidget:
        offer = QFrame()
        offer.setObjectName("job")
        offer.setFixedWidth(self._frame.minimumWidth())
        when = QLocale().toString(
            QDateTime.fromSecsSinceEpoch(int(found.written_at)), QLocale.FormatType.ShortFormat
        )
        text = QLabel(tr("Unsaved work: {title}", title=found.title))
        text.setTextFormat(Qt.TextFormat.PlainText)
        restore = QPushButton(tr("Restore"))
        discard = QPushButton(tr("Discard"))
        restore.clicked.connect(lambda: self.recover_asked.emit(found))
        discard.clicked.connect(lambda: (offer.hide(), self.discard_asked.emit(found)))
        grid = QGridLayout(offer)
        grid.setContentsMargins(2 * SPACE_PX, SPACE_PX, SPACE_PX, SPACE_PX)
        grid.setHorizontalSpacing(SPACE_PX)
        grid.setVerticalSpacing(0)
        grid.addWidget(text, 0, 0)
        grid.addWidget(dim(when), 1, 0)
        grid.addWidget(restore, 0, 1, 2, 1)
        grid.addWidget(discard, 0, 2, 2, 1)
        grid.setColumnStretch(0, 1)
        return offer

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if event.mimeData().hasUrls() or event.mimeData().hasImage():
            event.acceptProposedAction()
            self._set_hot(True)

    def dragLeaveEvent(self, event: QDragLeaveEvent) -> None:
        self._set_hot(False)

    def dropEvent(self, event: QDropEvent) -> None:
        self._set_hot(False)
        files = [Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile()]
        if files:
            self.files_dropped.emit(files)
        elif event.mimeData().hasImage():
            self.image_dropped.emit(QImage(event.mimeData().imageData()))
        event.acceptProposedAction()

    def _set_hot(self, is_hot: bool) -> None:
        self._frame.setProperty("hot", is_hot)
        self._frame.style().unpolish(self._frame)
        self._frame.style().polish(self._frame)
