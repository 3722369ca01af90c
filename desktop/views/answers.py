"""What was found out, in the panel: a ranking, words, or where the map went. It stays until it is closed."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QImage, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPixmap
from PySide6.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from desktop.document.tiles import Pixels
from desktop.i18n import tr
from desktop.jobs.answers import Ranked, Ranking, Words
from desktop.views.controls import ElidedLabel, SnugScroll, dim, icon_button
from desktop.views.theme import SPACE_PX, Theme

_MOST_PX = 184  # the answer scrolls beyond this height
_THUMB_PX = 44
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter


class AnswerView(QFrame):
    """The newest answer.

    Signals:
        picked(Ranked): A row of a ranking was chosen.
        words_wanted(str), copy_wanted(str): Words are to become the prompt, or to be copied.
        map_wanted: The map is to be followed.
        changed: There is another answer, or none.
    """

    picked = Signal(object)
    words_wanted = Signal(str)
    copy_wanted = Signal(str)
    map_wanted = Signal()
    changed = Signal()

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("job")
        self._theme = theme
        self.rows: list[RankRow] = []
        self.title = ElidedLabel()
        self.title.setObjectName("heading")
        self.close_button = icon_button(theme, "close", tr("Close this answer"))
        self.close_button.setIconSize(QSize(16, 16))
        self.close_button.clicked.connect(self.clear)
        head = QHBoxLayout()
        head.setContentsMargins(SPACE_PX, SPACE_PX // 2, SPACE_PX // 2, 0)
        head.addWidget(self.title, 1)
        head.addWidget(self.close_button)
        self._body = QWidget()
        self._column = QVBoxLayout(self._body)
        self._column.setContentsMargins(SPACE_PX // 2, 0, SPACE_PX // 2, SPACE_PX)
        self._column.setSpacing(SPACE_PX // 2)
        self._scroll = SnugScroll(self._body, least_px=0)
        self._scroll.setMaximumHeight(_MOST_PX)
        self._foot = QHBoxLayout()  # never scrolled away
        self._foot.setContentsMargins(SPACE_PX, 0, SPACE_PX, 0)
        self._foot.setSpacing(SPACE_PX)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addLayout(head)
        column.addWidget(self._scroll)
        column.addLayout(self._foot)
        self.hide()

    def show_ranking(self, title: str, ranking: Ranking, names: list[str]) -> None:
        """Pictures, the best first.

        Args:
            title: What was asked.
            ranking: The answer.
            names: Of its rows.
        """
        self._begin(title)
        if ranking.is_prompt_cut:
            self._add_note(tr("The prompt is longer than CLIP reads; its phrases say more than its score."))
        for ranked, name in zip(ranking.rows, names, strict=True):
            row = RankRow(self._theme, ranked, name)
            row.picked.connect(self.picked)
            self.rows.append(row)
            self._column.addWidget(row)
        if not ranking.rows:
            self._add_note(tr("There is nothing like it."))
        self._end()

    def show_words(self, title: str, words: Words) -> None:
        """A description or an answer, to be used or copied."""
        self._begin(title)
        text = QLabel(words.text)
        text.setWordWrap(True)
        text.setTextFormat(Qt.TextFormat.PlainText)
        text.setContentsMargins(SPACE_PX // 2, 0, SPACE_PX // 2, 0)
        text.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
        self._column.addWidget(text)
        if words.is_cut:
            self._add_note(tr("It was too long to be written to its end."))
        use, copy = QPushButton(tr("Use as prompt")), QPushButton(tr("Copy"))
        use.clicked.connect(lambda: self.words_wanted.emit(words.text))
        copy.clicked.connect(lambda: self.copy_wanted.emit(words.text))
        self._add_buttons(use, copy)
        self._end()

    def show_map(self, title: str, layer_name: str) -> None:
        """Says which layer the map is."""
        self._begin(title)
        self._add_note(tr("The map is the layer “{name}”.", name=layer_name))
        follow = QPushButton(tr("Follow this map"))
        follow.clicked.connect(self.map_wanted)
        self._add_buttons(follow)
        self._end()

    def clear(self) -> None:
        """Nothing was asked."""
        self._begin("")
        self.hide()
        self.changed.emit()

    def _begin(self, title: str) -> None:
        self.title.set_text(title)
        self.title.setToolTip(title)
        self.rows = []
        for layout in (self._column, self._foot):
            while (item := layout.takeAt(0)) is not None:
                widget = item.widget()
                if widget is not None:
                    widget.hide()
                    widget.deleteLater()
        self._foot.setContentsMargins(SPACE_PX, 0, SPACE_PX, 0)
        self._scroll.verticalScrollBar().setValue(0)

    def _end(self) -> None:
        self.show()
        self.changed.emit()

    def _add_note(self, text: str) -> None:
        note = dim(text)
        note.setWordWrap(True)
        note.setContentsMargins(SPACE_PX // 2, 0, SPACE_PX // 2, 0)
        self._column.addWidget(note)

    def _add_buttons(self, *buttons: QPushButton) -> None:
        for button in buttons:
            self._foot.addWidget(button)
        self._foot.addStretch()
        self._foot.setContentsMargins(SPACE_PX, SPACE_PX // 2, SPACE_PX, SPACE_PX)


class RankRow(QFrame):
    """One picture of a ranking: its place, name and score, and below it the score of each phrase.

    Signals:
        picked(Ranked): It was clicked, or Return was pressed on it.
    """

    picked = Signal(object)

    def __init__(self, theme: Theme, ranked: Ranked, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("rank")
        self.ranked = ranked
        self.can_be_shown = bool(ranked.choice.layer_id or ranked.choice.kept)
        self.name = ElidedLabel()
        self.name.set_text(f"{ranked.rank}. {name}")
        self.name.setToolTip(name)
        self.score = QLabel(_figure(ranked.similarity))
        self.score.setAlignment(_RIGHT)
        self.setToolTip(tr("Cosine of CLIP: 1 is the same, 0 has nothing in common"))
        self.setAccessibleName(f"{ranked.rank}. {name}: {self.score.text()}")
        grid = QGridLayout(self)
        grid.setContentsMargins(SPACE_PX // 2, SPACE_PX // 2, SPACE_PX, SPACE_PX // 2)
        grid.setHorizontalSpacing(SPACE_PX)
        grid.setVerticalSpacing(0)
        grid.addWidget(
            _Thumbnail(ranked.thumbnail), 0, 0, len(ranked.phrases) + 2, 1, Qt.AlignmentFlag.AlignTop
        )
        grid.addWidget(self.name, 0, 1)
        grid.addWidget(self.score, 0, 2)
        self.phrases: list[QLabel] = []
        for number, part in enumerate(ranked.phrases, start=1):
            phrase, figure = ElidedLabel(), dim(_figure(part.similarity))
            phrase.setObjectName("dim")
            figure.setAlignment(_RIGHT)
            phrase.set_text(part.phrase)
            phrase.setToolTip(part.phrase)
            grid.addWidget(phrase, number, 1)
            grid.addWidget(figure, number, 2)
            self.phrases.append(figure)
        grid.setColumnStretch(1, 1)
        grid.setRowStretch(len(ranked.phrases) + 1, 1)
        if self.can_be_shown:
            self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            self.setCursor(Qt.CursorShape.PointingHandCursor)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton and self.rect().contains(event.position().toPoint()):
            self._pick()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space):
            self._pick()
        else:
            super().keyPressEvent(event)

    def _pick(self) -> None:
        if self.can_be_shown:
            self.picked.emit(self.ranked)


class _Thumbnail(QWidget):
    """A small picture, fitted into a square."""

    def __init__(self, pixels: Pixels) -> None:
        super().__init__()
        self.setFixedSize(_THUMB_PX, _THUMB_PX)
        height, width = pixels.shape[:2]
        image = QImage(pixels.data, width, height, 3 * width, QImage.Format.Format_RGB888)
        self._picture = QPixmap.fromImage(image.copy())

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        size = self._picture.size().scaled(self.size(), Qt.AspectRatioMode.KeepAspectRatio)
        place = self.rect()
        place.setSize(size)
        place.moveCenter(self.rect().center())
        painter.drawPixmap(place, self._picture)
        painter.end()


def _figure(similarity: float) -> str:
    """A cosine with three digits; a minus sign as wide as a figure."""
    return f"{similarity:.3f}".replace("-", "−")
