"""Writing files so that nothing is ever lost.

A file is written beside its destination, flushed to the disk and renamed over it, so a crash or a
full disk leaves either the old file or the new one, never half of one. Operating-system errors
become sentences a person can act on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from flux_core.errors import RequestInvalid, StorageFull

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_atomically(path: Path, content: bytes | Callable[[BinaryIO], None]) -> None:
    """Replaces the file at `path` by `content`: temporary file, fsync, rename, fsync of the folder.

    Args:
        path: Destination; its folder must exist.
        content: The bytes, or a function that writes them to the file it is given.

    Raises:
        StorageFull: The disk or quota is full; whatever was at `path` is untouched.
        RequestInvalid: The folder is missing or may not be written.
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _copy_mode(path, temporary)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as err:
        raise _explain(err, path) from err
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _copy_mode(path: Path, temporary: str) -> None:
    try:
        mode = path.stat().st_mode & 0o777
    except OSError:
        umask = os.umask(0)
        os.umask(umask)
        mode = 0o666 & ~umask
    os.chmod(temporary, mode)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
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
