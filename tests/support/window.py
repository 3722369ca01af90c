"""A whole program in a test, and what a person does with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication

from desktop.app import Program
from desktop.document.document import Document
from flux_core.errors import ConnectionLost


class Desk:
    """A program under test, and what a person does with it."""

    def __init__(self, qtbot, program: Program) -> None:
        self.qtbot = qtbot
        self.program = program

    @property
    def window(self):
        return self.program.window

    @property
    def document(self) -> Document:
        document = self.program.workspace.document
        assert document is not None
        return document

    def open(self, path: Path) -> None:
        with self.qtbot.waitSignal(self.program.workspace.session_opened):
            self.window.files.open_files([path])

    def do(self, name: str) -> None:
        """Triggers a menu entry."""
        action = self.window.actions_by_name[name]
        assert action.isEnabled(), name
        action.trigger()

    def at(self, x: float, y: float) -> QPoint:
        """Where a canvas pixel lies in the canvas widget."""
        canvas = self.window.canvas
        view_x, view_y = canvas.viewport.to_view(x, y)
        scale = canvas.devicePixelRatioF()
        return QPointF(view_x / scale, view_y / scale).toPoint()

    def stroke(self, *points: tuple[float, float]) -> None:
        """Drags the mouse over the canvas."""
        canvas = self.window.canvas
        left = Qt.MouseButton.LeftButton
        QTest.mousePress(canvas, left, Qt.KeyboardModifier.NoModifier, self.at(*points[0]))
        for point in points[1:]:
            QTest.mouseMove(canvas, self.at(*point))
        QTest.mouseRelease(canvas, left, Qt.KeyboardModifier.NoModifier, self.at(*points[-1]))

    def key(self, text: str) -> None:
        QTest.keySequence(self.window.canvas, text)

    def until(self, is_true: Callable[[], bool], timeout_ms: int = 20_000) -> None:
        self.qtbot.waitUntil(is_true, timeout=timeout_ms)

    def ask(self, prompt: str) -> None:
        """Types a prompt and presses the button."""
        self.window.generate.prompt.setPlainText(prompt)
        QTest.mouseClick(self.window.generate.button, Qt.MouseButton.LeftButton)

    def layer_names(self) -> list[str]:
        return [layer.name for layer in self.document.layers]


@contextmanager
def run_program(qtbot, home: Path, connect, language: str = "en") -> Iterator[Desk]:
    app = QApplication.instance()
    assert isinstance(app, QApplication)
    program = Program(app, home, connect, language)
    desk = Desk(qtbot, program)
    program.window.show()
    program.begin()
    try:
        yield desk
    finally:
        program.workspace.wait()
        program.workspace.close()
        program.window.discard()
        program.end()


def no_service():
    raise ConnectionLost("There is no service in this test.")
