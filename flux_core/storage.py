"""Writing files so that nothing is ever lost.

A file is written beside its destination, flushed to the disk and renamed over it, so a crash or a
full disk leaves either the old file or the new one, never half of one. Operating-system errors
become sentences a person can act on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from flux_core.errors import RequestInvalid, StorageFull

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP}  # some network file systems only know files


def write_atomically(path: Path, content: bytes | Callable[[BinaryIO], None]) -> None:
    """Replaces the file at `path` by `content`: temporary file, fsync, rename, fsync of the folder.

    Args:
        path: Destination; its folder must exist. A symbolic link stays, what it points to is replaced.
        content: The bytes, or a function that writes them to the file it is given.

    Raises:
        StorageFull: The disk or quota is full; whatever was at `path` is untouched.
        RequestInvalid: The folder is missing or may not be written.
    """
    place = Path(os.path.realpath(path)) if path.is_symlink() else path  # a link stays a link
    temporary: Path | None = None
    try:
        handle, temporary = _open_beside(place)
        with os.fdopen(handle, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place)
        sync_folder(place.parent)
    except OSError as err:
        raise _explain(err, path) from err
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _open_beside(place: Path) -> tuple[int, Path]:
    """A new file beside `place`, with its permissions from the first byte on, and a name that fits."""
    try:
        mode = place.stat().st_mode & 0o777
    except OSError:
        mode = None
    temporary = place.with_name(f".{place.name[:40]}.{secrets.token_hex(8)}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    handle = os.open(temporary, flags, 0o666 if mode is None else mode)  # the umask does the rest
    if mode is not None:
        with contextlib.suppress(OSError):  # a file system without permissions
            os.chmod(temporary, mode)
    return handle, temporary


def sync_folder(folder: Path) -> None:
    """Makes new names in a folder survive a loss of power, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as err:
        if err.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def _explain(err: OSError, path: Path) -> StorageFull | RequestInvalid:
    if err.errno in _FULL:
        return StorageFull(
            f"There is no space left to write {path.name}; the file that was there is untouched.",
            "Free some space or save to another place.",
        )
    reason = os.strerror(err.errno) if err.errno else str(err)
    return RequestInvalid(f"{path} cannot be written: {reason}.", "Choose another folder or name.")
