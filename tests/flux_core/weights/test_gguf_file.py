"""A GGUF file is read exactly, or refused with one clear sentence; there is no third outcome."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from flux_core.errors import Corrupt, ModelMissing
from flux_core.weights.gguf_file import GgufFile
from flux_core.weights.gguf_header import STORAGES
from flux_core.weights.quant.schemes import SCHEMES
from tests.support.weights_by_hand import Claim, gguf_bytes, gguf_entry, gguf_text

QUANTISED = [storage.dtype for storage in STORAGES.values() if storage.block > 1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "part.gguf"


def write(path: Path, tensors: dict[str, tuple[np.ndarray, str]], alignment: int = 32) -> Path:
    """By llama.cpp's writer; of a quantised tensor the array is rows of bytes."""
    writer = gguf.GGUFWriter(path, "flux")
    writer.add_quantization_version(2)
    writer.add_bool("some.flag", True)
    writer.add_float32("some.scale", 0.5)
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", ""])
    writer.add_array("some.numbers", [1, 2, 3])
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("alignment", [32, 8, 64])
def test_reads_what_llama_cpps_writer_wrote(path: Path, alignment: int) -> None:
    rng = np.random.default_rng(0)
    matrix, bias = rng.standard_normal((3, 5), np.float32), rng.standard_normal(7).astype(np.float32)
    kernel = rng.standard_normal((2, 3, 4, 5)).astype(np.float16)
    words = (matrix.view(np.uint32) >> 16).astype(np.uint16)
    file = GgufFile(
        write(
            path,
            {
                "matrix": (matrix, "F32"),
                "bias": (bias, "F32"),
                "kernel": (kernel, "F16"),
                "half": (words.view(np.uint8), "BF16"),
            },
            alignment,
        )
    )
    expected = {
        "matrix": matrix,
        "bias": bias,
        "kernel": kernel.astype(np.float32),
        "half": (words.astype(np.uint32) << 16).view(np.float32),
    }
    assert {name: file.names()[name].shape for name in file.names()} == {
        k: a.shape for k, a in expected.items()
    }
    for name, array in expected.items():
        assert np.array_equal(file.read(name).to_numpy(), array)


def test_metadata_is_kept_as_text_and_lists_are_not(path: Path) -> None:
    assert GgufFile(write(path, {})).metadata == {
        "general.architecture": "flux",
        "general.quantization_version": "2",
        "some.flag": "True",
        "some.scale": "0.5",
    }


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_quantised_tensor_keeps_its_blocks_its_true_shape_and_the_name_of_its_scheme(
    path: Path, kind: str
) -> None:
    block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    rows = np.random.default_rng(0).integers(0, 256, (6, 2 * block_bytes), dtype=np.uint8)
    file = GgufFile(write(path, {"layer.weight": (rows, kind)}))
    raw = file.read("layer.weight")
    assert (raw.dtype, raw.shape) == (kind, (6, 2 * block))
    assert file.names()["layer.weight"].shape == raw.shape
    assert np.array_equal(raw.data, rows.reshape(-1))


def test_the_block_sizes_are_those_of_ggml_and_of_the_schemes() -> None:
    for number, storage in STORAGES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (
            storage.dtype,
            (storage.block, storage.block_bytes),
        )
        if storage.dtype in SCHEMES:
            scheme = SCHEMES[storage.dtype]
            assert (scheme.block, scheme.block_bytes) == (storage.block, storage.block_bytes)


@pytest.mark.parametrize("kind", [k.name for k in gguf.GGMLQuantizationType if k.value not in STORAGES])
def test_other_types_of_ggml_are_refused_by_name(path: Path, kind: str) -> None:
    number = gguf.GGMLQuantizationType[kind].value
    path.write_bytes(gguf_bytes([("w", [256, 2], number, 0)], bytes(4096)))
    named = f"as {kind}" if number < 40 else f"in the unknown type {number}"
    with pytest.raises(Corrupt, match=f"tensor 'w' is stored {named}, which is not read here"):
        GgufFile(path)


F32, Q8 = 0, 8
SOUND: list[Claim] = [("weight", [3, 2], F32, 0), ("bias", [4], F32, 32)]
DATA = bytes(range(48))


def test_a_file_by_hand_opens(path: Path) -> None:
    path.write_bytes(gguf_bytes(SOUND, DATA))
    file = GgufFile(path)
    assert file.names()["weight"].shape == (2, 3)
    assert np.array_equal(file.read("bias").data, np.arange(32, 48, dtype=np.uint8))


@pytest.mark.parametrize("version", [2, 3])
def test_versions_two_and_three_open(path: Path, version: int) -> None:
    path.write_bytes(gguf_bytes(SOUND, DATA, version=version))
    assert len(GgufFile(path).names()) == 2


def lying(index: int = 0, **changes: Any) -> bytes:
    fields = dict(zip(("name", "ne", "kind", "offset"), SOUND[index], strict=True)) | changes
    claims = [*SOUND]
    claims[index] = (fields["name"], fields["ne"], fields["kind"], fields["offset"])
    return gguf_bytes(claims, DATA)


LIES: dict[str, tuple[Callable[[], bytes], str]] = {
    "version 4": (lambda: gguf_bytes(SOUND, DATA, version=4), "unknown version 4"),
    "version 1": (lambda: gguf_bytes(SOUND, DATA, version=1), "unknown version 1"),
    "big-endian": (lambda: gguf_bytes(SOUND, DATA, version=3 << 24), "it is big-endian"),
    "too many tensors": (lambda: gguf_bytes(SOUND, DATA, num_tensors=2**63), f"claims {2**63} tensors"),
    "more tensors than there are": (
        lambda: gguf_bytes(SOUND, DATA, num_tensors=40_000),
        "within what|a tensor whose name",
    ),
    "too much metadata": (lambda: gguf_bytes(SOUND, DATA, num_metadata=2**40), "entries of metadata, more"),
    "an endless name": (lambda: gguf_bytes([("w" * 2000, [1], F32, 0)], DATA), "a name|name has 2000 bytes"),
    "no name": (lambda: lying(name=""), "a tensor whose name has 0 bytes"),
    "a name that is not UTF-8": (
        lambda: gguf_bytes(SOUND, DATA).replace(b"weight", b"\xff" * 6),
        "not UTF-8",
    ),
    "the same name twice": (lambda: lying(1, name="weight"), "tensor 'weight' appears twice"),
    "five dimensions": (lambda: lying(ne=[1] * 5), "tensor 'weight' has 5 dimensions"),
    "a billion dimensions": (lambda: gguf_bytes(SOUND, DATA).replace(b"weight\2", b"weight\xee"), "238 dim"),
    "no length": (lambda: lying(ne=[0, 3]), r"tensor 'weight' has the impossible shape \[3, 0\]"),
    "huge dimensions": (lambda: lying(ne=[2**40, 2**40]), "impossible shape"),
    "a shape larger than the data": (lambda: lying(1, ne=[5]), "tensor 'bias' ends at byte"),
    "an overlap": (lambda: lying(1, offset=0), "overlaps the one before it"),
    "a hole": (lambda: lying(1, offset=64), "tensor 'bias' leaves a hole before it"),
    "an offset beyond everything": (lambda: lying(1, offset=2**63), "tensor 'bias' leaves a hole"),
    "an odd offset": (lambda: lying(1, offset=33), "tensor 'bias' is not aligned"),
    "rows that are no whole blocks": (
        lambda: gguf_bytes([("w", [33, 2], Q8, 0)], bytes(512)),
        "rows of 33 values, which do not divide into the blocks of 32 of Q8_0",
    ),
    "a quantised vector": (
        lambda: gguf_bytes([("w", [32], Q8, 0)], bytes(64)),
        "only matrices are quantised",
    ),
    "an unknown type": (lambda: lying(kind=4), "stored in the unknown type 4"),
    "metadata twice": (
        lambda: gguf_bytes(SOUND, DATA, [gguf_entry("a", 0, b"\1")] * 2),
        "its metadata 'a' appears twice",
    ),
    "metadata of an unknown type": (
        lambda: gguf_bytes(SOUND, DATA, [gguf_entry("a", 77, b"")]),
        "its metadata 'a' has the unknown type 77",
    ),
    "a list of lists": (
        lambda: gguf_bytes(SOUND, DATA, [gguf_entry("a", 9, struct.pack("<IQ", 9, 2**40))]),
        "'a' is a list of the unknown type 9",
    ),
    "an endless list": (
        lambda: gguf_bytes(SOUND, DATA, [gguf_entry("a", 9, struct.pack("<IQ", 10, 2**62))]),
        "within what it says about itself",
    ),
    "an endless list of texts": (
        lambda: gguf_bytes(SOUND, DATA, [gguf_entry("a", 9, struct.pack("<IQ", 8, 2**62))]),
        "texts, more than",
    ),
    "an endless text": (
        lambda: gguf_bytes(SOUND, DATA, [gguf_entry("a", 8, struct.pack("<Q", 2**63))]),
        "within what it says about itself",
    ),
    "an alignment of three": (
        lambda: gguf_bytes(SOUND, DATA, [gguf_entry("general.alignment", 4, struct.pack("<I", 3))]),
        "alignment '3' is not a power of two",
    ),
    "an alignment of none": (
        lambda: gguf_bytes(SOUND, DATA, [gguf_entry("general.alignment", 4, bytes(4))]),
        "alignment '0' is not a power of two",
    ),
    "an alignment in words": (
        lambda: gguf_bytes(SOUND, DATA, [gguf_entry("general.alignment", 8, gguf_text("wide"))]),
        "alignment 'wide' is not a power of two",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_file_is_refused_by_name(path: Path, lie: str) -> None:
    make, message = LIES[lie]
    path.write_bytes(make())
    with pytest.raises(Corrupt, match=message) as caught:
        GgufFile(path)
    assert caught.value.message.startswith(f"{path} is not a sound GGUF file: ")
    assert caught.value.hint


def test_every_truncation_is_refused(path: Path) -> None:
    whole = gguf_bytes(SOUND, DATA, [gguf_entry("a", 8, gguf_text("words"))])
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(Corrupt):
            GgufFile(path)


def test_bytes_after_the_last_tensor_are_ignored_as_llama_cpp_does(path: Path) -> None:
    path.write_bytes(gguf_bytes(SOUND, DATA + bytes(100)))
    assert len(GgufFile(path).names()) == 2


def test_a_file_that_is_not_there_is_missing(path: Path) -> None:
    with pytest.raises(ModelMissing, match="cannot be read: No such file"):
        GgufFile(path)


def test_a_file_larger_than_the_memory_opens(path: Path) -> None:
    path.write_bytes(gguf_bytes([("w", [2**20, 2**14], F32, 0)], b""))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 2**36)  # 64 GB, of which the disk holds none
    raw = GgufFile(path).read("w")
    assert raw.data.size == 2**36
    assert not raw.data[-4096:].any()
