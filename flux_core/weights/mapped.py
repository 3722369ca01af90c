"""Maps a weights file into memory and reads what it says about itself.

What goes wrong is said the same way for every kind of file: one that cannot be read is missing, one
whose contents are not what they claim is corrupt, and the sentence names the file.
"""

from __future__ import annotations

import mmap
import os
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from flux_core.errors import Corrupt, ModelMissing

T = TypeVar("T")


_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0  # MAP_NORESERVE


class FileMap(mmap.mmap):
    """A private map of a whole file: the pages may be handed to libraries that insist on writable memory.

    A write would never reach the file, and none happens, so no memory is reserved for copies: Linux would
    refuse to map a file larger than the machine's memory.

    Attributes:
        path: The file.
        descriptor: The file, still open, for reading.
        address: Where the map begins.
    """

    path: Path
    descriptor: int
    address: int

    @classmethod
    def of(cls, path: Path, descriptor: int, size: int) -> FileMap:
        """Maps an open file of at least one byte; keeps a descriptor of its own."""
        if os.name == "posix":
            flags = mmap.MAP_PRIVATE | _NO_RESERVE
            found = cls(descriptor, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        else:
            found = cls(descriptor, size, access=mmap.ACCESS_COPY)
        found.path = path
        found.address = np.frombuffer(found, np.uint8).ctypes.data
        found.descriptor = os.dup(descriptor)
        weakref.finalize(found, os.close, found.descriptor)
        return found


Content = FileMap | bytes
"""A file's bytes; slicing copies."""


def open_mapped(path: Path, kind: str, parse: Callable[[Content], T]) -> tuple[T, Content]:
    """Maps a file and parses its beginning.

    Args:
        path: The file.
        kind: What it should be, for the message ("safetensors file").
        parse: The file's bytes -> what it says about itself; a ValueError with one phrase for what is
            wrong. It touches no more than it needs.

    Raises:
        ModelMissing: There is no such file, or it may not be read.
        Corrupt: It is not a sound one.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = FileMap.of(path, file.fileno(), size) if size else b""
        return parse(content), content
    except OSError as err:
        raise unreadable(path, err) from None
    except ValueError as err:
        raise unsound(path, kind, err) from None


def unreadable(path: Path, err: OSError) -> ModelMissing:
    """The error for a file that the system does not give."""
    reason = os.strerror(err.errno) if err.errno else str(err)
    return ModelMissing(f"{path} cannot be read: {reason}.", "Put the file there, or choose another model.")


def unsound(path: Path, kind: str, err: ValueError) -> Corrupt:
    """The error for a file that is not what it claims."""
    return Corrupt(f"{path} is not a sound {kind}: {err}.", "Download or export it again.")
