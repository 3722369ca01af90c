"""Slow work off the GUI thread, its outcome back on it.

Opening, saving and exporting run here. A task that fails hands its FluxError to the same place as every
other one; nothing waits for anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QObject, QRunnable, QThreadPool, Signal

from flux_core.errors import FluxError, Internal


class Background(QObject):
    """Runs functions one after the other on a thread of its own.

    Signals:
        busy_changed(bool): Whether something is running.
    """

    busy_changed = Signal(bool)
    _finished = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._pool = QThreadPool(self)
        self._pool.setMaxThreadCount(1)
        self._running = 0
        self._finished.connect(self._on_finished)

    @property
    def is_busy(self) -> bool:
        return self._running > 0

    def run(
        self,
        work: Callable[[], Any],
        on_done: Callable[[Any], None],
        on_error: Callable[[FluxError], None],
    ) -> None:
        """Calls `work` on the thread, then `on_done(result)` or `on_error(error)` on the GUI thread."""
        self._running += 1
        if self._running == 1:
            self.busy_changed.emit(True)
        self._pool.start(_Task(lambda: self._finished.emit(_attempt(work, on_done, on_error))))

    def wait(self) -> None:
        """Waits for what is running; its outcome still comes through the event loop."""
        self._pool.waitForDone()

    def _on_finished(self, tell: Callable[[], None]) -> None:
        self._running -= 1
        if self._running == 0:
            self.busy_changed.emit(False)
        tell()


class _Task(QRunnable):
    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self._act = act

    def run(self) -> None:
        self._act()


def _attempt(
    work: Callable[[], Any], on_done: Callable[[Any], None], on_error: Callable[[FluxError], None]
) -> Callable[[], None]:
    try:
        result = work()
    except FluxError as err:
        error: FluxError = err
        return lambda: on_error(error)
    except Exception as err:  # a mistake of ours; it must reach the person, not the console
        mistake = Internal(f"Something unexpected went wrong: {err!r}.", "Please report it.")
        return lambda: on_error(mistake)
    return lambda: on_done(result)
