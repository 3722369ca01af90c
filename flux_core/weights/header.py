"""Reads the JSON header of a safetensors file without trusting it.

The grammar is so narrow (names, two lists of integers, strings) that a scanner for just this bounds
memory by the header's own size plus some megabytes, where a general JSON parser would make twenty bytes
of every byte of "[],[],". Nothing is allocated for tensor data here.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import cast

from flux_core.weights.json_cursor import JsonCursor, shown
from flux_core.weights.tensors import BITS_OF_DTYPE

MAX_TENSORS = 50_000
MAX_METADATA = 10_000  # entries
MAX_RANK = 16
_MAX_ELEMENTS = 2**56
_INTEGERS = re.compile(r"\[[-0-9, \t\r\n]{0,1000}\]")


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the header; begin and end count bytes from the start of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says about itself."""

    entries: dict[str, Entry]
    metadata: dict[str, str]


def parse_header(content: bytes, data_bytes: int) -> Header:
    """Parses and validates.

    Args:
        content: The JSON text, UTF-8.
        data_bytes: Bytes in the file behind the header.

    Raises:
        ValueError: One phrase, without the file's name, for what is wrong and with which tensor.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ValueError("its header is not UTF-8 text") from None
    header = _Scanner(text, "its header").header()
    for name, entry in header.entries.items():
        _check_entry(name, entry)
    _check_layout(header.entries, data_bytes)
    return header


class _Scanner(JsonCursor):
    """A cursor over a safetensors header."""

    def header(self) -> Header:
        entries: dict[str, Entry] = {}
        metadata: dict[str, str] | None = None
        for name in self.object_keys("the header"):
            if name == "__metadata__":
                if metadata is not None:
                    raise ValueError("its header has two __metadata__ entries")
                metadata = self.metadata()
                continue
            if name in entries:
                raise ValueError(f"tensor {shown(name)} appears twice in its header")
            if len(entries) == MAX_TENSORS:
                raise ValueError(f"its header lists more than {MAX_TENSORS} tensors")
            entries[name] = self.entry(name)
        self.end()
        return Header(entries, metadata or {})

    def metadata(self) -> dict[str, str]:
        if self.peek() == "n" and self.text.startswith("null", self.at):  # as MLX writes where there is none
            self.at += len("null")
            return {}
        found: dict[str, str] = {}
        for key in self.object_keys("__metadata__"):
            if self.peek() != '"':
                raise ValueError(f"its metadata {shown(key)} is not text")
            if key in found or len(found) == MAX_METADATA:
                raise ValueError(f"its metadata repeats {shown(key)} or has over {MAX_METADATA} entries")
            found[key] = self.string("__metadata__")
        return found

    def entry(self, name: str) -> Entry:
        where = f"tensor {shown(name)}"
        dtype: str | None = None
        lists: dict[str, list[int]] = {}
        for key in self.object_keys(where):
            if key == "dtype" and dtype is None:
                dtype = self.string(where)
            elif key in ("shape", "data_offsets") and key not in lists:
                lists[key] = self.integers(where, key)
            else:
                raise ValueError(f"{where} has an unexpected or repeated field {shown(key)}")
        if dtype is None or len(lists) != 2:
            raise ValueError(f"{where} lacks its dtype, shape or data_offsets")
        offsets = lists["data_offsets"]
        if len(offsets) != 2:
            raise ValueError(f"{where} needs two data_offsets and has {len(offsets)}")
        return Entry(dtype, tuple(lists["shape"]), *offsets)

    def integers(self, where: str, field: str) -> list[int]:
        self.peek()
        match = _INTEGERS.match(self.text, self.at)
        try:
            if match is None:
                raise ValueError
            values = cast("list[int]", json.loads(match.group()))
        except ValueError:
            raise ValueError(f"{where} has a {field} that is not a list of whole numbers") from None
        self.at = match.end()
        return values


def _check_entry(name: str, entry: Entry) -> None:
    where = f"tensor {shown(name)}"
    if entry.dtype not in BITS_OF_DTYPE:
        raise ValueError(f"{where} has the unknown dtype {shown(entry.dtype)}")
    if len(entry.shape) > MAX_RANK:
        raise ValueError(f"{where} has {len(entry.shape)} dimensions, more than {MAX_RANK}")
    bound = elements = 1
    for dim in entry.shape:
        elements *= dim
        bound *= max(dim, 1)
        if dim < 0 or bound > _MAX_ELEMENTS:
            raise ValueError(f"{where} has the impossible shape {list(entry.shape)}")
    if not 0 <= entry.begin <= entry.end:
        raise ValueError(f"{where} has the impossible data_offsets [{entry.begin}, {entry.end}]")
    bits = elements * BITS_OF_DTYPE[entry.dtype]
    if bits != 8 * (entry.end - entry.begin):
        raise ValueError(
            f"{where} of shape {list(entry.shape)} in {entry.dtype} needs {(bits + 7) // 8} bytes, "
            f"but its data_offsets give {entry.end - entry.begin}"
        )


def _check_layout(entries: dict[str, Entry], data_bytes: int) -> None:
    """Tensors must tile the data exactly: no overlap, no hole, no end beyond the file."""
    at = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.end > data_bytes:
            raise ValueError(
                f"tensor {shown(name)} ends at byte {entry.end} of its data, but there are only {data_bytes}"
            )
        if entry.begin != at:
            fault = "overlaps the one before it" if entry.begin < at else "leaves a hole before it"
            raise ValueError(f"tensor {shown(name)} {fault}")
        at = entry.end
    if at != data_bytes:
        raise ValueError(f"{data_bytes - at} bytes at its end belong to no tensor")
