"""How a long command says how far it is where there is no terminal: plain lines, and not many of them.

A line for each new stage, and one every ten seconds while a stage lasts, also when nothing happens, so that
whoever reads a log sees that the command is alive.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator

EVERY_S = 10.0


class Lines:
    """Decides which of many reports become a line.

    Args:
        write: Takes a line.
        clock: Seconds.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()
        self._stage = ""
        self._detail = ""
        self._began_at = self._written_at = clock()

    def tell(self, stage: str, detail: str = "") -> None:
        """Something happened: "Denoising", "3/20"."""
        with self._lock:
            is_new, self._detail = stage != self._stage, detail
            if is_new:
                self._stage, self._began_at = stage, self._clock()
            if is_new or self._is_due():
                self._say()

    def remind(self) -> None:
        """Nothing happened for a while: the last report again, if a line is due."""
        with self._lock:
            if self._stage and self._is_due():
                self._say()

    def _is_due(self) -> bool:
        return self._clock() - self._written_at >= EVERY_S

    def _say(self) -> None:
        self._written_at = self._clock()
        seconds = self._written_at - self._began_at
        lasted = f" ({seconds:.0f} s)" if seconds >= EVERY_S else ""
        self._write(f"{self._stage} {self._detail}".strip() + lasted)


@contextlib.contextmanager
def lines(write: Callable[[str], None], is_silent: bool) -> Generator[Lines]:
    """Lines for as long as a command runs; none at all where it is to be silent."""
    found = Lines((lambda line: None) if is_silent else write)
    done = threading.Event()

    def remind() -> None:
        while not done.wait(EVERY_S):
            found.remind()

    thread = threading.Thread(target=remind, name="progress", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
