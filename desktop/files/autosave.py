"""Unsaved work survives a crash: a journal of every modified document in a recovery folder.

A worker thread writes the newest committed state at most every five seconds, only what changed, so
that a kill at any moment loses at most that much work. A journal goes away when its document is
saved or closed in order; one that is found at the next start, and that no living process holds, is offered.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from desktop.document.state import DocumentState
from desktop.files import disk
from desktop.files.archive import HINT
from desktop.files.folder_lock import FolderLock
from desktop.files.ora import Opened
from desktop.files.own_part import DocumentPart, OwnWriter, read_own
from desktop.files.png_cache import PngCache
from desktop.files.rasters import PixelBudget
from flux_core.errors import Corrupt, FluxError, RequestInvalid
from flux_core.storage import write_atomically

INTERVAL_S = 5.0
_INDEX = "index.json"


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


class _Index(BaseModel):
    """index.json: replaced as a whole, after all that it names is on the disk."""

    title: str
    path: str | None
    written_at: float
    document: DocumentPart
    parts: dict[str, str]  # name in a project -> sha256, which is the file's name here


class Autosave:
    """The journal of one open document.

    Args:
        root: The recovery folder of this installation; made if missing.
        title: Shown when the document is offered for recovery.
        path: Its project file, if it has one.
        interval_s: Shortest time between two writes.
        cache: The one that saving uses, so that no layer is encoded twice.

    Raises:
        RequestInvalid: The recovery folder cannot be made.
    """

    def __init__(
        self,
        root: Path,
        title: str,
        path: Path | None = None,
        interval_s: float = INTERVAL_S,
        cache: PngCache | None = None,
    ) -> None:
        self._folder = root / uuid.uuid4().hex
        try:
            self._folder.mkdir(parents=True, mode=0o700)
            self._lock = FolderLock(self._folder)
        except OSError as err:
            reason = err.strerror or str(err)
            raise RequestInvalid(
                f"{root} cannot be used for recovery: {reason}.", "Check the folder."
            ) from err
        self._title, self._path = title, path
        self._interval_s = interval_s
        self._cache = cache or PngCache()
        self._wake = threading.Condition()
        self._pending: tuple[DocumentState, str | None] | None = None
        self._is_writing = False
        self._is_closed = False
        self._epoch = 0  # counts what made earlier notes pointless
        self._last_error: str | None = None
        self._thread = threading.Thread(target=self._work, name="autosave", daemon=True)
        self._thread.start()

    @property
    def last_error(self) -> str | None:
        """Why the last write failed, for the status line; None if it did not."""
        return self._last_error

    def note(self, state: DocumentState, active_id: str | None = None) -> None:
        """Tells that `state` is the newest unsaved one; returns at once. Call it at every history_changed."""
        with self._wake:
            self._pending = (state, active_id)
            self._wake.notify_all()

    def note_saved(self, title: str, path: Path | None) -> None:
        """Tells that all is saved: the journal is emptied, and later notes belong to this file."""
        with self._wake:
            self._title, self._path = title, path
            self._forget()

    def flush(self, timeout_s: float = 60.0) -> bool:
        """Waits until all that was noted is written; returns whether it is."""
        with self._wake:
            return self._wake.wait_for(lambda: self._pending is None and not self._is_writing, timeout_s)

    def close(self) -> None:
        """Ends the thread and removes the journal; the document was saved or given up on purpose."""
        with self._wake:
            self._forget()
            self._is_closed = True
            self._wake.notify_all()
        self._thread.join(timeout=1.0)  # one that is encoding a huge layer cleans up when it is done

    def _forget(self) -> None:
        """Empties the journal, also of what is being written now."""
        self._pending = None
        self._epoch += 1
        (self._folder / _INDEX).unlink(missing_ok=True)

    def _work(self) -> None:
        while not self._is_closed:
            self._work_once()
        self._lock.release()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _work_once(self) -> None:
        with self._wake:
            self._wake.wait_for(lambda: self._pending is not None or self._is_closed)
            if self._pending is None:
                return
            state, active_id = self._pending
            self._pending = None
            self._is_writing = True
            epoch = self._epoch
        started_at = time.monotonic()
        error = self._try_to_write(state, active_id, epoch)
        with self._wake:
            self._is_writing = False
            self._last_error = error
            if error and self._pending is None and self._epoch == epoch:
                self._pending = (state, active_id)  # try again when the interval is over
            self._wake.notify_all()
            left_s = self._interval_s - (time.monotonic() - started_at)
            self._wake.wait_for(lambda: self._is_closed, max(left_s, 0.0))

    def _try_to_write(self, state: DocumentState, active_id: str | None, epoch: int) -> str | None:
        try:
            self._write(state, active_id, epoch)
        except FluxError as err:
            return str(err)
        except (OSError, MemoryError) as err:
            return f"Unsaved work could not be kept for recovery: {err}."
        return None

    def _write(self, state: DocumentState, active_id: str | None, epoch: int) -> None:
        encoder = self._cache.start()
        writer = OwnWriter(state, active_id, encoder)
        document = writer.document(standard={})
        encoder.finish()
        names: dict[str, str] = {}
        for name, data in writer.parts.items():
            names[name] = hashlib.sha256(data).hexdigest()
            if not (self._folder / names[name]).exists():
                write_atomically(self._folder / names[name], data)
        with self._wake:
            if self._epoch != epoch:
                return
            index = _Index(
                title=self._title,
                path=str(self._path) if self._path else None,
                written_at=time.time(),
                document=document,
                parts=names,
            )
            write_atomically(self._folder / _INDEX, index.model_dump_json().encode())
        kept = {_INDEX, FolderLock.NAME, *names.values()}
        for file in self._folder.iterdir():
            if file.name not in kept:
                file.unlink(missing_ok=True)


class _FolderSource:
    """The parts of a journal."""

    def __init__(self, folder: Path, parts: dict[str, str]) -> None:
        self._folder = folder
        self._parts = parts
        self.names = frozenset(parts)

    def read(self, name: str) -> bytes:
        """One part; raises Corrupt if it is missing or damaged."""
        sha256 = self._parts.get(name, "")
        try:
            data = disk.read_file(self._folder / sha256)
        except RequestInvalid as err:
            raise Corrupt(f"The recovery data lack {name}.", HINT) from err
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Corrupt(f"The recovery data of {name} are damaged.", HINT)
        return data


def find_recoverable(root: Path) -> list[Recoverable]:
    """Journals whose process is gone, newest first; empty ones are removed."""
    found: list[Recoverable] = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if not folder.is_dir() or FolderLock.is_held(folder):
            continue
        if not (folder / _INDEX).exists():
            shutil.rmtree(folder, ignore_errors=True)
            continue
        try:
            index = _read_index(folder)
        except (Corrupt, RequestInvalid):
            continue  # left where it is: a person may still want the layers' PNGs
        path = Path(index.path) if index.path else None
        found.append(Recoverable(folder, index.title, path, index.written_at))
    return sorted(found, key=lambda one: one.written_at, reverse=True)


def recover(found: Recoverable) -> Opened:
    """Reads a journal, which stays until `discard`.

    Afterwards `document.mark_saved(None)` says that the document is not what lies on the disk.

    Raises:
        Corrupt: It cannot be read.
    """
    index = _read_index(found.folder)
    source = _FolderSource(found.folder, index.parts)
    state = read_own(index.document, source, found.title, PixelBudget())
    return Opened(state, index.document.active_id, ())


def discard(found: Recoverable) -> None:
    """Deletes a journal that was recovered or is not wanted."""
    shutil.rmtree(found.folder, ignore_errors=True)


def _read_index(folder: Path) -> _Index:
    try:
        return _Index.model_validate_json(disk.read_file(folder / _INDEX))
    except (ValidationError, RecursionError) as err:
        raise Corrupt("The recovery data are damaged.", HINT) from err
