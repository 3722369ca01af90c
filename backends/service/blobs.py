"""Pictures on disk, named by their sha256 and nothing else.

A name is 64 hex digits or it is refused, so no path ever comes from outside. A blob appears under
its name only when it is complete, checked and flushed; what has arrived of an unfinished upload stays
beside it, so that a broken transfer can go on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backends.service.refusals import Refused, TooLarge, Unknown, WrongOffset
from flux_core.errors import Corrupt, StorageFull
from flux_core.storage import sync_folder, write_atomically

MAX_BLOB_BYTES = 512 * 1024 * 1024

_NAME = re.compile(r"[0-9a-f]{64}")
_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A blob's size in bytes and when it was last sent or asked for, in seconds since the epoch."""

    size_bytes: int
    used_at: float


class BlobStore:
    """A folder of blobs; the service and its workers may use it at the same time."""

    def __init__(self, root: Path, max_blob_bytes: int = MAX_BLOB_BYTES) -> None:
        self._root = root
        self._uploads = root / "uploads"
        self.max_blob_bytes = max_blob_bytes
        self._uploads.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where the blob of this name is.

        Raises:
            Refused: The name is not a sha256 in lower-case hex.
            Unknown: There is no such blob.
        """
        path = self._place(sha256)
        if not path.is_file():
            raise Unknown(f"The service has no picture {sha256[:12]}.", "Send it first.")
        return path

    def has(self, sha256: str) -> bool:
        """Whether the blob is there; asking keeps it from being tidied away for a while."""
        path = self._place(sha256)
        try:
            os.utime(path)
        except OSError:
            return path.is_file()
        return True

    def read(self, sha256: str) -> bytes:
        """The blob's bytes.

        Raises:
            Unknown: There is no such blob.
            Corrupt: The file was damaged on disk.
        """
        data = self.path(sha256).read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Corrupt(f"The picture {sha256[:12]} was damaged on disk.", "Send it again.")
        return data

    def add(self, data: bytes) -> str:
        """Keeps the bytes, durably; returns their name.

        Raises:
            StorageFull: The disk is full.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.has(sha256):
            path = self._place(sha256)
            with mapped_full_disk():
                path.parent.mkdir(mode=0o700, exist_ok=True)
            write_atomically(path, data)
        return sha256

    def received_bytes(self, sha256: str) -> int:
        """How much of an unfinished upload is there."""
        try:
            return self._part(sha256).stat().st_size
        except FileNotFoundError:
            return 0

    def open_upload(self, sha256: str, offset: int, total_bytes: int | None) -> Upload:
        """Starts or goes on with an upload.

        Args:
            sha256: Name of the whole.
            offset: Where the new bytes go; 0 starts anew.
            total_bytes: Size of the whole if known.

        Raises:
            TooLarge: The whole is larger than max_blob_bytes.
            WrongOffset: `offset` is not where the last upload stopped.
        """
        part = self._part(sha256)
        if total_bytes is not None and total_bytes > self.max_blob_bytes:
            raise self._too_large()
        if offset and offset != self.received_bytes(sha256):
            message = f"The upload does not go on at byte {offset}."
            raise WrongOffset(message, "Ask where it stopped.", self.received_bytes(sha256))
        with mapped_full_disk():
            return Upload(self, sha256, part, offset)

    def infos(self) -> dict[str, BlobInfo]:
        """Every blob there is."""
        found: dict[str, BlobInfo] = {}
        for path in self._root.glob("[0-9a-f][0-9a-f]/*"):
            if _NAME.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):
                    state = path.stat()
                    found[path.name] = BlobInfo(state.st_size, state.st_mtime)
        return found

    def remove(self, sha256: str) -> None:
        """Deletes a blob if it is there."""
        self._place(sha256).unlink(missing_ok=True)

    def remove_stale_uploads(self, older_than_s: float) -> None:
        """Deletes what is left of uploads that nobody went on with."""
        for part in self._uploads.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime > older_than_s:
                    part.unlink()

    def _place(self, sha256: str) -> Path:
        if not _NAME.fullmatch(sha256):
            raise Refused(f"{sha256[:80]!r} is not the name of a blob.", "A name is 64 hex digits.")
        return self._root / sha256[:2] / sha256

    def _part(self, sha256: str) -> Path:
        return self._uploads / f"{self._place(sha256).name}.part"

    def _too_large(self) -> TooLarge:
        limit_mib = self.max_blob_bytes // (1024 * 1024)
        return TooLarge(f"A picture may have at most {limit_mib} MiB.", "Send a smaller one.")


class Upload:
    """Bytes on their way in; what was written stays when the connection breaks."""

    def __init__(self, store: BlobStore, sha256: str, part: Path, offset: int) -> None:
        self._store = store
        self._sha256 = sha256
        self._part = part
        self._digest = hashlib.sha256()
        # Unbuffered: what arrived is on disk, whatever happens next.
        self._file = part.open("r+b" if offset else "w+b", buffering=0)
        self.received_bytes = offset
        while piece := self._file.read(_READ_BYTES):
            self._digest.update(piece)

    def write(self, piece: bytes) -> None:
        """Takes the next bytes.

        Raises:
            TooLarge: There are more than the store takes.
            StorageFull: The disk is full.
        """
        self.received_bytes += len(piece)
        if self.received_bytes > self._store.max_blob_bytes:
            self._part.unlink(missing_ok=True)
            raise self._store._too_large()
        self._digest.update(piece)
        rest = memoryview(piece)
        with mapped_full_disk():
            while rest:
                rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        """Stops here; the upload can go on later."""
        self._file.close()

    def finish(self) -> None:
        """Checks the whole and gives it its name, durably.

        Raises:
            Corrupt: It is not what its name says; it is thrown away.
            StorageFull: The disk is full; what arrived stays.
        """
        with mapped_full_disk():
            os.fsync(self._file.fileno())
            self._file.close()
        if self._digest.hexdigest() != self._sha256:
            self._part.unlink(missing_ok=True)
            raise Corrupt("What arrived is not the picture that its name says.", "Send it again.")
        path = self._store._place(self._sha256)
        with mapped_full_disk():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            os.replace(self._part, path)
            for folder in (path.parent, path.parent.parent):
                sync_folder(folder)


@contextlib.contextmanager
def mapped_full_disk() -> Iterator[None]:
    """Turns a failed write into StorageFull."""
    try:
        yield
    except OSError as err:
        reason = err.strerror or str(err)
        raise StorageFull(
            f"The picture cannot be stored: {reason}.", "Free some space and try again."
        ) from err
