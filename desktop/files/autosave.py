"""Unsaved work survives a crash: a journal of every modified document in a recovery folder.

A worker thread writes the newest committed state at most every five seconds, only what changed, so
that a kill at any moment loses at most that much work. A journal goes away when its document is
saved or closed in order; one that is found at the next start, and that no living process holds, is offered.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from desktop.document.state import DocumentState
from desktop.files.ora import Opened

INTERVAL_S = 5.0


@dataclass(frozen=True, slots=True)
class Recoverable:
    """A journal that a crash left behind.

    Attributes:
        folder: The journal.
        title: Of the document, for a person.
        path: The project file it was opened from or saved to; None if never saved.
        written_at: Seconds since the epoch.
    """

    folder: Path
    title: str
    path: Path | None
    written_at: float


class Autosave:
    """The journal of one open document.

    Args:
        root: The recovery folder of this installation; made if missing.
        title: Shown when the document is offered for recovery.
        path: Its project file, if it has one.
        interval_s: Shortest time between two writes.
    """

    def __init__(
        self, root: Path, title: str, path: Path | None = None, interval_s: float = INTERVAL_S
    ) -> None:
        raise NotImplementedError

    def note(self, state: DocumentState, active_id: str | None = None) -> None:
        """Tells that `state` is the newest unsaved one; returns at once. Call it at every history_changed."""
        raise NotImplementedError

    def note_saved(self, title: str, path: Path | None) -> None:
        """Tells that all is saved: the journal is emptied, and later notes belong to this file."""
        raise NotImplementedError

    @property
    def last_error(self) -> str | None:
        """Why the last write failed, for the status line; None if it did not."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends the thread and removes the journal; the document was saved or given up on purpose."""
        raise NotImplementedError


def find_recoverable(root: Path) -> list[Recoverable]:
    """Journals whose process is gone, newest first."""
    raise NotImplementedError


def recover(found: Recoverable) -> Opened:
    """Reads a journal; the journal stays until `discard`. Raises Corrupt if it cannot be read."""
    raise NotImplementedError


def discard(found: Recoverable) -> None:
    """Deletes a journal that was recovered or is not wanted."""
    raise NotImplementedError
