"""Reads what a GGUF file says about itself without trusting it.

Every length and count is held against the bytes that are left before anything of that size is made, and
every tensor's type, shape and place are checked before the file is used. Lists in the metadata
(vocabularies) are stepped over, because no image model needs them.

Source: ggml docs/gguf.md (container, versions 2 and 3); type numbers and blocks of ggml.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod

from flux_core.weights.header import MAX_METADATA, MAX_TENSORS
from flux_core.weights.json_cursor import shown
from flux_core.weights.mapped import Content

MAGIC = b"GGUF"
MAX_RANK = 4
_MAX_ELEMENTS = 2**56
_MAX_NAME_BYTES = 1000
_MAX_TEXT_BYTES = 100_000  # longer metadata is stepped over
_MAX_LISTED_TEXTS = 1_000_000
_MAX_ALIGNMENT = 65536


@dataclass(frozen=True, slots=True)
class Storage:
    """How ggml stores the numbers of one type: blocks of so many values in so many bytes."""

    dtype: str
    block: int
    block_bytes: int


STORAGES: dict[int, Storage] = {
    0: Storage("F32", 1, 4),
    1: Storage("F16", 1, 2),
    2: Storage("Q4_0", 32, 18),
    3: Storage("Q4_1", 32, 20),
    6: Storage("Q5_0", 32, 22),
    7: Storage("Q5_1", 32, 24),
    8: Storage("Q8_0", 32, 34),
    10: Storage("Q2_K", 256, 84),
    11: Storage("Q3_K", 256, 110),
    12: Storage("Q4_K", 256, 144),
    13: Storage("Q5_K", 256, 176),
    14: Storage("Q6_K", 256, 210),
    24: Storage("I8", 1, 1),
    25: Storage("I16", 1, 2),
    26: Storage("I32", 1, 4),
    27: Storage("I64", 1, 8),
    28: Storage("F64", 1, 8),
    30: Storage("BF16", 1, 2),
}
"""By ggml's number for the type; the dtype is safetensors' name or a scheme's."""

_REFUSED = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL",
    21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip

# Metadata types: number -> struct code; 8 is text, 9 a list.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9


@dataclass(frozen=True, slots=True)
class GgufEntry:
    """One tensor; begin and end count bytes from the start of the file."""

    storage: Storage
    shape: tuple[int, ...]  # [out, in]: the file has it the other way round
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a file says about itself."""

    entries: dict[str, GgufEntry]
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Claim:
    """One tensor as it is listed; the offset counts from the start of the data."""

    name: str
    storage: Storage
    shape: tuple[int, ...]
    offset: int


def parse_gguf(content: Content) -> GgufHeader:
    """Parses and validates.

    Args:
        content: The file's bytes; only those of the header are touched.

    Raises:
        ValueError: One phrase, without the file's name, for what is wrong and with which tensor.
    """
    cursor = _Cursor(content)
    if cursor.take(4) != MAGIC:
        raise ValueError("it does not begin with GGUF")
    version = cursor.number("I")
    if version not in (2, 3):
        is_big_endian = version in (2 << 24, 3 << 24)
        raise ValueError("it is big-endian" if is_big_endian else f"it has the unknown version {version}")
    num_tensors, num_metadata = cursor.number("Q"), cursor.number("Q")
    if num_tensors > MAX_TENSORS:
        raise ValueError(f"it claims {num_tensors} tensors, more than {MAX_TENSORS}")
    if num_metadata > MAX_METADATA:
        raise ValueError(f"it claims {num_metadata} entries of metadata, more than {MAX_METADATA}")
    metadata = _metadata(cursor, num_metadata)
    claims = [_claim(cursor) for _ in range(num_tensors)]
    return GgufHeader(_placed(claims, _alignment(metadata), cursor.at, len(content)), metadata)


class _Cursor:
    """Reads forward and never beyond the end."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.size = len(content)
        self.at = 0

    def skip(self, num_bytes: int) -> int:
        """Steps over bytes that must be there; where they began."""
        begin = self.at
        if num_bytes > self.size - begin:
            raise ValueError(f"it ends at byte {self.size}, within what it says about itself")
        self.at += num_bytes
        return begin

    def take(self, num_bytes: int) -> bytes:
        begin = self.skip(num_bytes)
        return self.content[begin : self.at]

    def number(self, code: str) -> int:
        begin = self.skip(struct.calcsize(f"<{code}"))
        return struct.unpack_from(f"<{code}", self.content, begin)[0]

    def name(self, what: str) -> str:
        num_bytes = self.number("Q")
        if not 0 < num_bytes <= _MAX_NAME_BYTES:
            raise ValueError(f"it has {what} whose name has {num_bytes} bytes")
        return self._decoded(num_bytes, what)

    def text(self, what: str) -> str | None:
        """None for one that is too long to be kept."""
        num_bytes = self.number("Q")
        if num_bytes > _MAX_TEXT_BYTES:
            self.skip(num_bytes)
            return None
        return self._decoded(num_bytes, what)

    def skip_list(self, what: str) -> None:
        kind, length = self.number("I"), self.number("Q")
        if kind in _SCALARS:
            self.skip(length * struct.calcsize(f"<{_SCALARS[kind]}"))
        elif kind == _TEXT and length <= _MAX_LISTED_TEXTS:
            for _ in range(length):
                self.skip(self.number("Q"))
        elif kind == _TEXT:
            raise ValueError(f"{what} lists {length} texts, more than {_MAX_LISTED_TEXTS}")
        else:
            raise ValueError(f"{what} is a list of the unknown type {kind}")

    def _decoded(self, num_bytes: int, what: str) -> str:
        try:
            return self.take(num_bytes).decode()
        except UnicodeDecodeError:
            raise ValueError(f"it has {what} that is not UTF-8 text") from None


def _metadata(cursor: _Cursor, count: int) -> dict[str, str]:
    """Texts, numbers and truth values, as text; lists and very long texts are left out."""
    found: dict[str, str | None] = {}
    for _ in range(count):
        key = cursor.name("metadata")
        what = f"its metadata {shown(key)}"
        if key in found:
            raise ValueError(f"{what} appears twice")
        found[key] = None
        kind = cursor.number("I")
        if kind == _TEXT:
            found[key] = cursor.text(what)
        elif kind == _LIST:
            cursor.skip_list(what)
        elif kind in _SCALARS:
            found[key] = str(cursor.number(_SCALARS[kind]))
        else:
            raise ValueError(f"{what} has the unknown type {kind}")
    return {key: value for key, value in found.items() if value is not None}


def _alignment(metadata: dict[str, str]) -> int:
    text = metadata.get("general.alignment", "32")
    alignment = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise ValueError(f"its alignment {shown(text)} is not a power of two up to {_MAX_ALIGNMENT}")
    return alignment


def _claim(cursor: _Cursor) -> _Claim:
    name = cursor.name("a tensor")
    where = f"tensor {shown(name)}"
    rank = cursor.number("I")
    if rank > MAX_RANK:
        raise ValueError(f"{where} has {rank} dimensions, more than {MAX_RANK}")
    shape = tuple(reversed([cursor.number("Q") for _ in range(rank)]))
    if any(dim == 0 or dim > _MAX_ELEMENTS for dim in shape) or prod(shape) > _MAX_ELEMENTS:
        raise ValueError(f"{where} has the impossible shape {list(shape)}")
    kind, offset = cursor.number("I"), cursor.number("Q")
    if kind not in STORAGES:
        known = f"as {_REFUSED[kind]}" if kind in _REFUSED else f"in the unknown type {kind}"
        raise ValueError(f"{where} is stored {known}, which is not read here; get a Q8_0 or K-quant file")
    storage = STORAGES[kind]
    if (shape[-1] if shape else 1) % storage.block:
        raise ValueError(
            f"{where} has rows of {shape[-1] if shape else 1} values, which do not divide into the blocks "
            f"of {storage.block} of {storage.dtype}"
        )
    if storage.block > 1 and rank < 2:
        raise ValueError(f"{where} is stored as {storage.dtype}, but only matrices are quantised")
    return _Claim(name, storage, shape, offset)


def _placed(claims: list[_Claim], alignment: int, header_end: int, size: int) -> dict[str, GgufEntry]:
    """Tensors must lie one after the other, each at the next aligned byte, all within the file."""
    start = _aligned(header_end, alignment)
    entries: dict[str, GgufEntry] = {}
    at = start
    for claim in sorted(claims, key=lambda claim: claim.offset):
        where = f"tensor {shown(claim.name)}"
        if claim.name in entries:
            raise ValueError(f"{where} appears twice")
        begin = start + claim.offset
        if begin != at:
            fault = "overlaps the one before it" if begin < at else "leaves a hole before it"
            raise ValueError(f"{where} {fault}" if begin % alignment == 0 else f"{where} is not aligned")
        end = begin + prod(claim.shape) // claim.storage.block * claim.storage.block_bytes
        if end > size:
            raise ValueError(f"{where} ends at byte {end}, but the file has only {size}")
        entries[claim.name] = GgufEntry(claim.storage, claim.shape, begin, end)
        at = _aligned(end, alignment)
    return {claim.name: entries[claim.name] for claim in claims}


def _aligned(at: int, alignment: int) -> int:
    return (at + alignment - 1) // alignment * alignment
