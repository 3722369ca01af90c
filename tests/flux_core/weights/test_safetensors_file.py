"""A safetensors file is read exactly, or refused with one clear sentence; there is no third outcome."""

from __future__ import annotations

import gc
import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from flux_core.errors import Corrupt, ModelMissing
from flux_core.weights import header as headers
from flux_core.weights.header import MAX_TENSORS
from flux_core.weights.safetensors_file import SafetensorsFile

Change = Callable[[dict[str, Any]], object]


def write(path: Path, header: object, data: bytes = b"") -> Path:
    """A file with this header (text, bytes, or something for JSON) and these data."""
    if not isinstance(header, bytes):
        header = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def sound_header() -> dict[str, Any]:
    return {
        "__metadata__": {"made": "for a test"},
        "weight": entry("F32", [2, 3], 0, 24),
        "bias": entry("BF16", [4], 24, 32),
    }


DATA = bytes(range(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "part.safetensors"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_reads_what_the_official_library_wrote(path: Path, dtype: torch.dtype) -> None:
    weights = {
        "a.weight": torch.randn(3, 5).to(dtype),
        "scalar": torch.tensor(2.5).to(dtype),
        "none": torch.zeros(0, 4).to(dtype),
        "images": torch.randn(2, 3, 4, 4).to(dtype),
    }
    save_file(weights, path, metadata={"format": "pt", "note": 'quotes " and \\ and 笔'})
    file = SafetensorsFile(path)
    assert file.metadata == {"format": "pt", "note": 'quotes " and \\ and 笔'}
    assert set(file.names()) == set(weights)
    for name, expected in weights.items():
        assert file.names()[name].shape == tuple(expected.shape)
        assert np.array_equal(file.read(name).to_numpy(), expected.float().numpy())


def test_every_bf16_value_is_read_exactly(path: Path) -> None:
    words = np.arange(65536, dtype="<u2")
    write(path, {"x": entry("BF16", [65536], 0, 131072)}, words.tobytes())
    expected = torch.from_numpy(words.view(np.int16)).view(torch.bfloat16).float().numpy()
    found = SafetensorsFile(path).read("x").to_numpy()
    assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))


def test_data_need_not_be_aligned(path: Path) -> None:
    header = json.dumps(sound_header())
    write(path, header + " " * (1 + len(header) % 2), DATA)  # an odd start
    expected = np.frombuffer(DATA, "<f4", 6).reshape(2, 3)
    assert np.array_equal(SafetensorsFile(path).read("weight").to_numpy(), expected)


def test_a_tensor_outlives_its_source_and_never_changes_the_file(path: Path) -> None:
    write(path, sound_header(), DATA)
    raw = SafetensorsFile(path).read("weight")
    gc.collect()
    raw.data[:] = 0
    assert path.read_bytes().endswith(DATA)


def test_reading_a_tensor_copies_nothing(path: Path) -> None:
    write(path, {"x": entry("F32", [2**22], 0, 2**24)}, bytes(2**24))
    tracemalloc.start()
    raw = SafetensorsFile(path).read("x")
    assert raw.to_numpy().shape == (2**22,)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**18


def test_a_tensor_that_cannot_become_numbers_is_named_with_its_dtype(path: Path) -> None:
    write(path, {"x": entry("I32", [1], 0, 4)}, bytes(4))
    with pytest.raises(Corrupt, match=r"'x' is stored as I32"):
        SafetensorsFile(path).read("x").to_numpy()


def test_a_missing_file_is_missing_not_corrupt(path: Path) -> None:
    with pytest.raises(ModelMissing, match=r"part\.safetensors cannot be read"):
        SafetensorsFile(path)
    with pytest.raises(ModelMissing):
        SafetensorsFile(path.parent)


def change(**fields: Any) -> Change:
    return lambda header: header["weight"].update(fields)


LIES: dict[str, tuple[Change, str]] = {
    "unknown dtype": (change(dtype="F12"), "'weight' has the unknown dtype 'F12'"),
    "shape larger than data": (change(shape=[2, 4]), r"'weight' of shape \[2, 4\] in F32 needs 32 bytes"),
    "shape smaller than data": (change(shape=[1]), "'weight' of shape .* needs 4 bytes"),
    "negative dimensions": (change(shape=[-2, -3]), "'weight' has the impossible shape"),
    "huge dimensions": (change(shape=[2**40, 2**40]), "'weight' has the impossible shape"),
    "huge beside zero": (change(shape=[0, 2**62], data_offsets=[0, 0]), "'weight' has the impossible shape"),
    "too many dimensions": (change(shape=[1] * 60), "'weight' has 60 dimensions"),
    "fractional dimension": (change(shape=[2.0, 3]), "'weight' has a shape that is not a list of whole"),
    "boolean dimension": (change(shape=[True, 6]), "'weight' has a shape that is not a list of whole"),
    "nested shape": (change(shape=[[2, 3]]), "'weight' has a shape that is not a list of whole"),
    "shape as text": (change(shape="2,3"), "'weight' has a shape that is not a list of whole"),
    "end before begin": (change(data_offsets=[24, 0]), "'weight' has the impossible data_offsets"),
    "negative begin": (change(data_offsets=[-24, 0]), "'weight' has the impossible data_offsets"),
    "one offset": (change(data_offsets=[0]), "'weight' needs two data_offsets"),
    "extra field": (change(color="red"), "'weight' has an unexpected or repeated field 'color'"),
    "no dtype": (lambda h: h["weight"].pop("dtype"), "'weight' lacks its dtype"),
    "dtype as number": (change(dtype=32), "not valid JSON"),
    "overlap": (lambda h: h["bias"].update(data_offsets=[20, 28]), "'bias' overlaps"),
    "hole": (lambda h: h["bias"].update(data_offsets=[26, 34]), "'bias' ends at byte 34 .* only 32"),
    "beyond the end": (lambda h: h["bias"].update(data_offsets=[32, 40]), "'bias' ends at byte 40"),
    "hole before": (lambda h: h.pop("weight"), "'bias' leaves a hole"),
    "bytes left over": (lambda h: h.pop("bias"), "8 bytes at its end belong to no tensor"),
    "entry is a list": (lambda h: h.update(weight=[1]), "not valid JSON"),
    "metadata not text": (lambda h: h["__metadata__"].update(step=3), "metadata 'step' is not text"),
    "metadata not an object": (lambda h: h.update(__metadata__="x"), "not valid JSON"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_header_is_refused_by_name(path: Path, lie: str) -> None:
    header = sound_header()
    alter, message = LIES[lie]
    alter(header)
    write(path, header, DATA)
    with pytest.raises(Corrupt, match=message) as caught:
        SafetensorsFile(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


BROKEN: dict[str, tuple[bytes, str]] = {
    "no header": (b"", "expected in the header"),
    "not JSON": (b"hello", "not valid JSON"),
    "not UTF-8": (b'{"\xff":1}', "not UTF-8"),
    "UTF-16": ("{}".encode("utf-16"), "not UTF-8"),
    "cut": (b'{"a":{"dtype":"F32","sha', "not valid JSON"),
    "text after the end": (b"{} {}", "text after the end"),
    "trailing comma": (b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,0]},}', "not valid JSON"),
    "duplicate tensor": (
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],'
        b'"data_offsets":[0,0]}}',
        "'a' appears twice",
    ),
    "duplicate field": (b'{"a":{"dtype":"U8","dtype":"U8"}}', "unexpected or repeated field 'dtype'"),
    "two metadata": (b'{"__metadata__":{},"__metadata__":{}}', "two __metadata__"),
    "deep nesting": (b'{"a":' * 50_000, "'a' has an unexpected"),
    "deep list": (b'{"a":{"shape":' + b"[" * 100_000, "not a list of whole numbers"),
    "a number of a million digits": (
        b'{"a":{"shape":[' + b"9" * 1_000_000 + b"]}}",
        "not a list of whole numbers",
    ),
    "repeated metadata": (b'{"__metadata__":{"a":"1","a":"2"}}', "its metadata repeats 'a'"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_header_is_refused(path: Path, kind: str) -> None:
    header, message = BROKEN[kind]
    write(path, header)
    with pytest.raises(Corrupt, match=message) as caught:
        SafetensorsFile(path)
    assert len(caught.value.message) < 400 + len(str(path))


def without_end(path: Path, start: bytes, count: int) -> None:
    value = b'"x"' if b"meta" in start else b'{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    write(path, start + b",".join(b'"%d":%b' % (i, value) for i in range(count)) + b"}}")


STARTS = [b"{", b'{"__metadata__":{']


@pytest.mark.parametrize("start", STARTS)
def test_tensors_and_metadata_without_end_are_refused(path: Path, start: bytes) -> None:
    without_end(path, start, MAX_TENSORS + 1)
    with pytest.raises(Corrupt, match="(more than 50000 tensors|over 10000 entries)"):
        SafetensorsFile(path)


@pytest.mark.parametrize("start", STARTS)
def test_they_are_refused_early(path: Path, start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """With limits of a tenth: memory grows with them, and so does the time that counting it takes."""
    monkeypatch.setattr(headers, "MAX_TENSORS", MAX_TENSORS // 10)
    monkeypatch.setattr(headers, "MAX_METADATA", headers.MAX_METADATA // 10)
    without_end(path, start, MAX_TENSORS // 10 + 1)
    tracemalloc.start()
    with pytest.raises(Corrupt, match="(more than 5000 tensors|over 1000 entries)"):
        SafetensorsFile(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * path.stat().st_size + 2**24 / 10


@pytest.mark.parametrize("size", range(8))
def test_a_file_shorter_than_its_length_field_is_refused(path: Path, size: int) -> None:
    path.write_bytes(bytes(size))
    with pytest.raises(Corrupt, match=f"it has {size} bytes"):
        SafetensorsFile(path)


@pytest.mark.parametrize("claim", [100, 2**31, 2**63, 2**64 - 1])
def test_a_header_length_beyond_the_file_is_refused(path: Path, claim: int) -> None:
    path.write_bytes(struct.pack("<Q", claim) + b"{}")
    with pytest.raises(Corrupt, match=f"claims a header of {claim} bytes"):
        SafetensorsFile(path)


def test_every_truncation_is_refused(path: Path) -> None:
    whole = write(path, sound_header(), DATA).read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(Corrupt):
            SafetensorsFile(path)


@st.composite
def mutated_files(draw: st.DrawFn) -> bytes:
    """A sound file after a few changes to its bytes, its numbers or its length."""
    header = json.dumps(sound_header()).encode()
    whole = bytearray(struct.pack("<Q", len(header)) + header + DATA)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(whole) - 1, 0)))
        match draw(st.sampled_from(["set", "insert", "delete", "cut", "splice"])):
            case "set":
                whole[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "insert":
                whole[at:at] = draw(st.sampled_from([b"0", b"9" * 20, b"[", b"{", b'"', b",", b"-", b"\\"]))
            case "delete":
                del whole[at : at + draw(st.integers(1, 20))]
            case "cut":
                del whole[at:]
            case _:
                whole[at:at] = whole[draw(st.integers(0, at)) : at]
    if draw(st.booleans()) and len(whole) >= 8:  # so that the changes reach the header's own checks
        whole[:8] = struct.pack("<Q", min(max(len(whole) - 8 - len(DATA), 0), len(header) + 40))
    return bytes(whole)


@settings(
    max_examples=600,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)
@given(content=st.one_of(mutated_files(), st.binary(max_size=200)))
def test_a_mutated_file_is_read_or_refused_within_its_own_size(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    outcome: Corrupt | int
    tracemalloc.start()
    try:
        file = SafetensorsFile(path)
        outcome = sum(file.read(name).data.size for name in file.names())
    except Corrupt as err:
        outcome = err
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * len(content) + 65536
    if isinstance(outcome, Corrupt):
        assert outcome.message.endswith(".")
        assert str(path) in outcome.message
    else:
        assert outcome <= len(content)


@pytest.mark.parametrize(
    "filling",
    [b"[],", b"{},", b"1,", b'"a",', b'"a":1,', b'"a":[],', b'"":"",', b"[" * 3, b" " * 3],
    ids=lambda f: f.decode(),
)
@pytest.mark.parametrize("start", [b"{", b'{"a":', b'{"a":{"shape":[', b'{"__metadata__":{'])
def test_a_hostile_header_costs_no_more_than_four_times_its_size(
    path: Path, start: bytes, filling: bytes
) -> None:
    write(path, start + filling * (2_000_000 // len(filling)))
    tracemalloc.start()
    with pytest.raises(Corrupt):
        SafetensorsFile(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2_000_000
