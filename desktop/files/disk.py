"""Reading whole files and keeping earlier versions of a file, with sentences instead of errno.

Backups are hard links where the file system has them, so they cost nothing until the file changes. They
lie in a folder `.flowbrush` beside the file, numbered from 1, the newest.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from flux_core.errors import RequestInvalid

NUM_BACKUPS = 3
BACKUP_FOLDER = ".flowbrush"


def read_file(path: Path) -> bytes:
    """The whole file.

    Raises:
        RequestInvalid: It does not exist or may not be read.
    """
    try:
        return path.read_bytes()
    except OSError as err:
        raise explain(err, path) from err


def explain(err: OSError, path: Path) -> RequestInvalid:
    """A sentence for a file that cannot be read."""
    if isinstance(err, FileNotFoundError):
        return RequestInvalid(f"{path.name} does not exist.", "Check the name and the folder.")
    reason = os.strerror(err.errno) if err.errno else str(err)
    return RequestInvalid(
        f"{path.name or path} cannot be read: {reason}.", "Check the file and its permissions."
    )


def backup_path(path: Path, number: int) -> Path:
    """Where backup `number` of the file lies; 1 is the newest."""
    return path.parent / BACKUP_FOLDER / f"{path.name}.{number}"


def back_up(path: Path) -> None:
    """Keeps the present version of the file as backup 1 and moves the others on; never raises OSError.

    A backup that cannot be made must not keep anybody from saving.
    """
    with contextlib.suppress(OSError):
        if not path.exists():
            return
        newest = backup_path(path, 1)
        newest.parent.mkdir(exist_ok=True)
        for number in range(NUM_BACKUPS - 1, 0, -1):
            if backup_path(path, number).exists():
                os.replace(backup_path(path, number), backup_path(path, number + 1))
        try:
            os.link(path, newest)
        except OSError:
            shutil.copy2(path, newest)
