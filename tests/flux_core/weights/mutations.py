"""Sound weights files, and ways to spoil them: in their bytes and in what they claim.

Each kind draws a set of files; the first is the one to open. Everything comes from the random source
that is given, so a case can be repeated.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

from tests.support.weights_by_hand import Claim, Entry, gguf_bytes, gguf_entry, gguf_text, safetensors_bytes

Files = dict[str, bytes]
"""Name -> content, in one folder."""

NUMBERS = (
    0,
    1,
    2,
    3,
    31,
    32,
    33,
    255,
    256,
    2**31 - 1,
    2**31,
    2**32,
    2**40,
    2**56,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
WORDS = (
    "", "weight", "a.b", "__metadata__", "x" * 3000, "\0", "\n", "\u202e", "\U0001f3a8", "\ud800", "../x",
    "/", "NaN", "é" * 40, "'", '"', "\\",
)  # fmt: skip
DTYPES = ("F32", "BF16", "F16", "U8", "I64", "F8_E4M3", "F4", "BOOL", "F12", "", "f32")
DEEP = (b"[", b'{"a":', b"[[],", b'{"a":{', b'"\\u0041', b"[],", b"{},", b'"a":"b",', b"-", b"1e9", b" ")


def safetensors(random: Random) -> Files:
    """One file."""
    entries, data, metadata = _sound_safetensors(random)
    for _ in range(random.randint(0, 2)):
        _spoil_entry(entries, random)
    content = _damaged(safetensors_bytes(entries, data, metadata), random)
    if random.random() < 0.3 and len(content) > 8:  # a length that fits again, so that the rest is looked at
        header = max(len(content) - 8 - len(data), 0)
        content = struct.pack("<Q", header) + content[8:]
    if random.random() < 0.002:
        content = _hostile_header(random)
    return {random.choice(("w.safetensors", "w.safetensors", "w", "w.gguf")): content}


def gguf(random: Random) -> Files:
    """One file."""
    claims, data = _sound_gguf(random)
    metadata = list(_sound_metadata())
    options: dict[str, int] = {}
    for _ in range(random.randint(0, 2)):
        match random.randrange(8):
            case 0:
                options["version"] = random.choice(NUMBERS)
            case 1:
                options["num_tensors"] = random.choice((*NUMBERS, len(claims) + 1, 40_000))
            case 2:
                options["num_metadata"] = random.choice((*NUMBERS, len(metadata) + 1, 9_000))
            case 3:
                metadata.append(_odd_metadata(random))
            case _:
                _spoil_claim(claims, random)
    content = _damaged(gguf_bytes(claims, data, metadata, **options), random)
    return {random.choice(("w.gguf", "w.gguf", "w", "w.safetensors")): content}


def index(random: Random) -> Files:
    """An index and its two shards."""
    shards: Files = {}
    weight_map: list[tuple[str, Any]] = []
    for number in range(2):
        name = f"model-{number}.safetensors"
        entries = [(f"{number}.{key}", dtype, shape, offsets) for key, dtype, shape, offsets in _ENTRIES]
        if random.random() < 0.1:
            _spoil_entry(entries, random)
        shards[name] = safetensors_bytes(entries, _DATA)
        weight_map += [(entry[0], name) for entry in entries]
    for _ in range(random.randint(0, 2)):
        _spoil_index(weight_map, shards, random)
    listed = ",".join(f"{json.dumps(key)}:{json.dumps(value)}" for key, value in weight_map)
    metadata = random.choice(
        ('{"total_size":96}',) * 8 + ("{}", '{"a":true,"b":null,"c":-1.5e3}', "[]", '{"a":{}}')
    )
    text = f'{{"metadata":{metadata},"weight_map":{{{listed}}}}}'.encode("utf-8", "surrogatepass")
    if random.random() < 0.4:
        text = _damaged(text, random)
    return {"m.safetensors.index.json": text} | shards


KINDS: dict[str, Callable[[Random], Files]] = {"safetensors": safetensors, "GGUF": gguf, "index": index}

_ENTRIES: list[Entry] = [
    ("weight", "F32", [2, 3], [0, 24]),
    ("bias", "BF16", [4], [24, 32]),
    ("codes", "U8", [4, 4], [32, 48]),
]
_DATA = bytes(range(48))


def _sound_safetensors(random: Random) -> tuple[list[Entry], bytes, dict[str, str] | None]:
    if random.random() < 0.8:
        return list(_ENTRIES), _DATA, random.choice((None, {}, {"made": "for a test"}))
    count = random.randint(0, 40)
    entries: list[Entry] = [
        (f"blocks.{i}.weight", "F16", [2, 4], [16 * i, 16 * i + 16]) for i in range(count)
    ]
    return entries, bytes(16 * count), {"format": "pt"}


def _spoil_entry(entries: list[Entry], random: Random) -> None:
    if not entries:
        return
    at = random.randrange(len(entries))
    name, dtype, shape, offsets = entries[at]
    shape, offsets = list(shape), list(offsets)
    match random.randrange(9):
        case 0:
            name = random.choice(WORDS)
        case 1:
            name = random.choice(entries)[0]
        case 2:
            dtype = random.choice(DTYPES)
        case 3 if shape:
            shape[random.randrange(len(shape))] = _number(random)
        case 4:
            shape = [random.choice((0, 1, _number(random)))] * random.choice((0, 1, 4, 17, 60))
        case 5:
            offsets[random.randrange(2)] = _number(random)
        case 6:
            offsets = list(random.choice(entries)[3])
        case 7:
            entries.append(entries[at])
        case _:
            entries.pop(at)
            return
    entries[at] = (name, dtype, shape, offsets)


def _number(random: Random) -> int:
    number = random.choice(NUMBERS)
    return random.choice((number, number + 1, -number, number * 2**64, random.randint(0, 64)))


def _hostile_header(random: Random) -> bytes:
    """A big header of little meaning, which a careless parser would blow up."""
    start = random.choice((b"{", b'{"a":', b'{"a":{"shape":[', b'{"__metadata__":{'))
    filling = random.choice(DEEP)
    header = start + filling * (100_000 // len(filling))
    return struct.pack("<Q", len(header)) + header


_BLOCKS = {0: (1, 4), 1: (1, 2), 8: (32, 34), 2: (32, 18), 12: (256, 144), 30: (1, 2)}


def _sound_gguf(random: Random) -> tuple[list[Claim], bytes]:
    claims: list[Claim] = []
    at = 0
    for number in range(random.randint(1, 5)):
        kind = random.choice(list(_BLOCKS))
        block, block_bytes = _BLOCKS[kind]
        ne = [block * random.randint(1, 2), random.randint(1, 3)]
        claims.append((f"blocks.{number}.weight", ne, kind, at))
        at += -(-ne[0] * ne[1] // block * block_bytes // 32) * 32
    return claims, bytes(at)


@cache
def _sound_metadata() -> tuple[bytes, ...]:
    tokens = struct.pack("<IQ", 8, 3) + b"".join(map(gguf_text, ("a", "bc", "")))
    return (
        gguf_entry("general.architecture", 8, gguf_text("flux")),
        gguf_entry("general.file_type", 4, struct.pack("<I", 7)),
        gguf_entry("tokens", 9, tokens),
        gguf_entry("numbers", 9, struct.pack("<IQ2i", 5, 2, -1, 1)),
    )


def _odd_metadata(random: Random) -> bytes:
    number = struct.pack("<Q", random.choice(NUMBERS))
    kind = random.randrange(14)
    value = random.choice((b"", number, struct.pack("<I", random.randrange(14)) + number, gguf_text("x")))
    return gguf_entry(random.choice((*WORDS, "general.alignment", "tokens")), kind, value)


def _spoil_claim(claims: list[Claim], random: Random) -> None:
    at = random.randrange(len(claims))
    name, ne, kind, offset = claims[at]
    ne = list(ne)
    match random.randrange(8):
        case 0:
            name = random.choice(WORDS)
        case 1:
            name = random.choice(claims)[0]
        case 2 if ne:
            ne[random.randrange(len(ne))] = random.choice(NUMBERS)
        case 3:
            ne = [random.choice((0, 1, 2**32, 2**63))] * random.choice((0, 1, 3, 5, 200))
        case 4:
            kind = random.choice((*range(42), 2**31))
        case 5:
            offset = random.choice((*NUMBERS, offset + 1, offset + 32))
        case 6:
            offset = random.choice(claims)[3]
        case _:
            claims.append(claims[at])
            return
    claims[at] = (name, ne, kind, offset)


def _spoil_index(weight_map: list[tuple[str, Any]], shards: Files, random: Random) -> None:
    at = random.randrange(len(weight_map)) if weight_map else 0
    names = ("../m.safetensors", "/m.safetensors", "m.bin", "gone.safetensors", "a\0.safetensors", *WORDS)
    match random.randrange(7):
        case 0 if weight_map:
            weight_map[at] = (random.choice(WORDS), weight_map[at][1])
        case 1 if weight_map:
            weight_map[at] = (weight_map[at][0], random.choice(names))
        case 2 if weight_map:
            weight_map[at] = (weight_map[at][0], random.choice((1, None, [], {"a": []}, list(shards)[0])))
        case 3 if weight_map:
            weight_map.append(weight_map[at])
        case 4 if weight_map:
            weight_map.pop(at)
        case 5 if shards:
            name = random.choice(list(shards))
            shards[name] = _damaged(shards[name], random)
        case _ if shards:
            del shards[random.choice(list(shards))]


def _damaged(content: bytes, random: Random) -> bytes:
    """Half of the time as it is, else with a few changes to its bytes."""
    if random.random() < 0.5:
        return content
    whole = bytearray(content)
    for _ in range(random.randint(1, 4)):
        at = random.randint(0, len(whole))
        match random.randrange(9):
            case 0 | 1 if whole:
                whole[at % len(whole)] ^= 1 << random.randrange(8)
            case 2 if whole:
                whole[at % len(whole)] = random.choice((0, 0xFF, 0x7F, 0x80, 0x22, 0x7B))
            case 3:
                whole[at:at] = random.choice((b"0", b"9" * 20, b"[", b"{", b'"', b",", b"-", b"\\", bytes(8)))
            case 4:
                whole[at:at] = random.choice(DEEP) * random.choice((1, 20, 2000))
            case 5:
                del whole[at : at + random.randint(1, 20)]
            case 6:
                del whole[at:]
            case 7:
                whole[at:at] = whole[random.randint(0, at) : at]
            case _:
                number = struct.pack("<Q", random.choice(NUMBERS))
                whole[at : at + 8] = number[: max(len(whole) - at, 0)]
    return bytes(whole)
