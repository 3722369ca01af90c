"""Weights files put together byte by byte, so that they can lie."""

from __future__ import annotations

import json
import struct

Claim = tuple[str | bytes, list[int], int, int]
"""A tensor of a GGUF file: name, ne (the shape reversed), number of ggml's type, offset."""
Entry = tuple[str, str, list[int], list[int]]
"""A tensor of a safetensors file: name, dtype, shape, data_offsets."""


def gguf_text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


def gguf_entry(key: str, kind: int, value: bytes) -> bytes:
    """One entry of the metadata: kind 8 is text, 9 a list."""
    return gguf_text(key) + struct.pack("<I", kind) + value


def gguf_bytes(
    claims: list[Claim],
    data: bytes,
    metadata: list[bytes] | None = None,
    version: int = 3,
    num_tensors: int | None = None,
    num_metadata: int | None = None,
) -> bytes:
    """A GGUF file with these claims; numbers wrap where they do not fit."""
    entries = metadata or []
    counts = [
        len(claims) if num_tensors is None else num_tensors,
        len(entries) if num_metadata is None else num_metadata,
    ]
    head = b"GGUF" + struct.pack("<IQQ", version % 2**32, *(count % 2**64 for count in counts))
    head += b"".join(entries)
    for name, ne, kind, offset in claims:
        dims = [dim % 2**64 for dim in ne]
        head += gguf_text(name)
        head += struct.pack(f"<I{len(ne)}QIQ", len(ne), *dims, kind % 2**32, offset % 2**64)
    return head + bytes(-len(head) % 32) + data


def safetensors_bytes(entries: list[Entry], data: bytes, metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file with these entries, twice the same name included."""
    parts = [f'"__metadata__":{json.dumps(metadata)}'] if metadata is not None else []
    for name, dtype, shape, offsets in entries:
        fields = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        parts.append(f"{json.dumps(name)}:{json.dumps(fields)}")
    header = ("{" + ",".join(parts) + "}").encode()
    return struct.pack("<Q", len(header)) + header + data
