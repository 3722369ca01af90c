"""Which system libraries Qt needs on Linux, which of them are missing, and what to install for them.

Qt's wheels bring Qt but not the system's libraries for fonts, OpenGL and X11; without one of them the
import fails with the name of a file that says nothing to a person.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from collections.abc import Generator

from flux_core.errors import FluxError

# What `import PySide6.QtGui` and `QtWidgets` load, by the Debian package that has it.
DRAWING = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libfontconfig.so.1": "libfontconfig1",
    "libfreetype.so.6": "libfreetype6",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libdbus-1.so.3": "libdbus-1-3",
    "libglib-2.0.so.0": "libglib2.0-0",
}
# What the window on X11 needs besides.
WINDOW = {
    "libX11-xcb.so.1": "libx11-xcb1",
    "libxcb-cursor.so.0": "libxcb-cursor0",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-render-util.so.0": "libxcb-render-util0",
    "libxcb-shape.so.0": "libxcb-shape0",
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
}


class LibraryMissing(FluxError):
    """A system library is not installed."""

    code = "library_missing"


def missing(libraries: dict[str, str]) -> dict[str, str]:
    """The part of `libraries` that this machine does not have; nothing outside Linux."""
    if not sys.platform.startswith("linux"):
        return {}
    return {name: package for name, package in libraries.items() if not _loads(name)}


def advice(lacking: dict[str, str]) -> str:
    """What to type to get these libraries."""
    return f"Debian and Ubuntu: sudo apt-get install {' '.join(sorted(set(lacking.values())))}"


@contextlib.contextmanager
def explained() -> Generator[None]:
    """Turns a failed import of Qt inside into a LibraryMissing that says what to install."""
    try:
        yield
    except ImportError as err:
        named = re.search(r"(lib[\w.+-]+?\.so[\w.]*)", str(err))
        if named is None:
            raise
        lacking = missing(DRAWING) or {named[1]: "libegl1 libgl1"}
        raise LibraryMissing(
            f"Drawing needs {', '.join(lacking)}, which this machine does not have.", f"{advice(lacking)}."
        ) from err


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
