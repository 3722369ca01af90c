"""Reading a ZIP that may come from anywhere, and writing one that others can read.

Names are checked before anything is read, every entry is read up to a limit, and whatever a broken
archive makes zipfile raise becomes one typed error. Nothing is ever unpacked to the disk.
"""

from __future__ import annotations

import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from desktop.files import disk
from flux_core.errors import Corrupt, OutOfMemory

MAX_ENTRIES = 20_000
MAX_ENTRY_BYTES = 1 << 30
MAX_TEXT_BYTES = 64 << 20
MAX_TOTAL_BYTES = 8 << 30
_BOMB_BYTES, _BOMB_RATIO = 16 << 20, 200  # no honest entry above this size packs better than this

HINT = "Open another copy of the file, for example a backup."


class Source(Protocol):
    """Named parts of a project, wherever they lie."""

    @property
    def names(self) -> frozenset[str]:
        """The parts there are."""
        ...

    def read(self, name: str) -> bytes:
        """One part; raises Corrupt if it is missing or damaged."""
        ...


class ZipSource:
    """The entries of a ZIP file that passed the checks; use `open_zip`."""

    def __init__(self, archive: zipfile.ZipFile, title: str) -> None:
        self._archive = archive
        self._title = title
        self.names = frozenset(_checked_names(archive, title))

    def read(self, name: str) -> bytes:
        """One entry.

        Raises:
            Corrupt: It is missing, damaged, encrypted, or larger than it may be.
        """
        if name not in self.names:
            raise Corrupt(f"{self._title} lacks {name}.", HINT)
        limit = MAX_ENTRY_BYTES if name.endswith(".png") else MAX_TEXT_BYTES
        with _explained(self._title), self._archive.open(name) as entry:
            data = entry.read(limit + 1)
        if len(data) > limit:
            raise Corrupt(f"{self._title} holds more data than can be read.", HINT)
        return data


@contextmanager
def open_zip(path: Path) -> Iterator[ZipSource]:
    """Opens a ZIP for reading.

    Raises:
        RequestInvalid: The file does not exist or may not be read.
        Corrupt: It is no ZIP, or holds a name or an entry that no honest file has.
    """
    try:
        file = path.open("rb")
    except OSError as err:
        raise disk.explain(err, path) from err
    with file:
        with _explained(path.name):
            archive = zipfile.ZipFile(file)
        with archive:
            yield ZipSource(archive, path.name)


def write_zip(file: BinaryIO, mimetype: str, parts: Mapping[str, bytes]) -> None:
    """Writes a ZIP whose first entry is the stored `mimetype`; PNGs are stored, the rest is packed.

    The same parts give the same bytes.
    """
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(_entry("mimetype", zipfile.ZIP_STORED), mimetype)
        for name, data in parts.items():
            method = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
            archive.writestr(_entry(name, method), data)


def _entry(name: str, method: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.compress_type = method
    entry.external_attr = 0o644 << 16
    return entry


def _checked_names(archive: zipfile.ZipFile, title: str) -> Iterator[str]:
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES or sum(entry.file_size for entry in entries) > MAX_TOTAL_BYTES:
        raise Corrupt(f"{title} holds more than can be read.", HINT)
    seen: set[str] = set()
    for entry in entries:
        problem = _problem_of(entry)
        if entry.filename in seen:
            problem = "occurs twice"
        if problem:
            shown = entry.filename if len(entry.filename) < 60 else f"{entry.filename[:57]}..."
            raise Corrupt(f"{title} is not a safe file: its entry {shown!r} {problem}.", HINT)
        seen.add(entry.filename)
        if not entry.is_dir():
            yield entry.filename


def _problem_of(entry: zipfile.ZipInfo) -> str | None:
    name = entry.orig_filename
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
        return "points outside of it"
    if "\\" in name or any(ord(char) < 32 for char in name):
        return "has a name that is not allowed"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a link"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    is_large = entry.file_size > _BOMB_BYTES
    if is_large and entry.file_size > _BOMB_RATIO * max(entry.compress_size, 1):
        return "unpacks to far too much"
    return None


@contextmanager
def _explained(title: str) -> Iterator[None]:
    """Whatever zipfile raises on a broken archive, as one sentence."""
    try:
        yield
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, OSError) as err:
        raise Corrupt(f"{title} is damaged or not a project file.", HINT) from err
    except (NotImplementedError, RuntimeError, ValueError, UnicodeError, KeyError, IndexError) as err:
        raise Corrupt(f"{title} is not a ZIP file that can be read.", HINT) from err
    except MemoryError as err:
        raise OutOfMemory(f"There is too little memory to open {title}.", "Close something else.") from err
