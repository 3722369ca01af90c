"""Maps a weights file into memory and reads what it says about itself.

What goes wrong is said the same way for every kind of file: one that cannot be read is missing, one
whose contents are not what they claim is corrupt, and the sentence names the file.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from flux_core.errors import Corrupt, ModelMissing

T = TypeVar("T")
Content = mmap.mmap | bytes
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
            # A private map: the pages may be handed to libraries that insist on writable memory,
            # and a write would never reach the file.
            content = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) if size else b""
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
