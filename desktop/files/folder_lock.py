"""A lock that says that a living process works in a folder.

The operating system drops it when the process ends in whatever way, so a journal left behind by a crash
can be told from one that is in use, without guessing from process numbers.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


class FolderLock:
    """Held from construction to `release` or the end of the process.

    Raises:
        OSError: Another process holds it, or the folder cannot be written.
    """

    NAME = "lock"

    def __init__(self, folder: Path) -> None:
        self._file = (folder / self.NAME).open("a+b")
        try:
            _lock(self._file)
        except OSError:
            self._file.close()
            raise

    @classmethod
    def is_held(cls, folder: Path) -> bool:
        """Whether some process holds it now."""
        try:
            cls(folder).release()
        except OSError:
            return True
        return False

    def release(self) -> None:
        """Lets it go."""
        self._file.close()


def _lock(file: BinaryIO) -> None:
    if sys.platform == "win32":
        file.seek(0, os.SEEK_SET)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
