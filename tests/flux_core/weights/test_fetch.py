"""Bytes come out of a mapped file into memory of their own, exactly, and a file that shrinks is an error."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flux_core.errors import Corrupt
from flux_core.weights.fetch import PIECE_BYTES, Fetcher, concatenated, file_range
from flux_core.weights.safetensors_file import SafetensorsFile
from flux_core.weights.tensors import cut_rows, stacked_rows

SIZES = [0, 1, 4096, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 12345]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w.safetensors"


def bytes_of(size: int) -> np.ndarray:
    return np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threads", [1, 3])
def test_every_byte_arrives_from_a_file_and_from_memory(path: Path, size: int, threads: int) -> None:
    data = bytes_of(size)
    save_file({"x": torch.from_numpy(data), "y": torch.zeros(5)}, path)
    for source in (SafetensorsFile(path).read("x").data, data):
        out = np.zeros(size, np.uint8)
        Fetcher(threads).into(source, out)
        assert np.array_equal(out, data)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [0, 1, 1000, PIECE_BYTES + 77])
def test_half_precision_is_widened_to_the_same_values(path: Path, dtype: torch.dtype, count: int) -> None:
    x = torch.randn(count).to(dtype)
    x[:3] = torch.tensor([float("inf"), -0.0, 1e-7])[:count].to(dtype)
    save_file({"x": x}, path)
    raw = SafetensorsFile(path).read("x")
    out = np.zeros(count, np.float32)
    Fetcher(2).floats_into(raw.dtype, raw.data, out)
    assert np.array_equal(out.view(np.uint32), x.float().numpy().view(np.uint32))


def test_any_view_of_a_file_is_known_by_its_place_and_a_copy_is_not(path: Path) -> None:
    save_file({"a": torch.zeros(7, dtype=torch.uint8), "x": torch.arange(12.0).reshape(4, 3)}, path)
    raw = SafetensorsFile(path).read("x")
    content = path.read_bytes()
    for view in (raw.data, cut_rows(raw, 1, 3).data, raw.data.view("<f4").reshape(4, 3)[2:]):
        found = file_range(view)
        assert found is not None
        file, offset = found
        assert content[offset : offset + view.nbytes] == view.tobytes()
        assert file.path == path
    assert file_range(raw.data.copy()) is None
    assert file_range(raw.data[::2]) is None


def test_rows_from_two_files_are_stacked_as_they_lie_there(tmp_path: Path) -> None:
    parts = []
    for number in range(2):
        save_file({"x": torch.randn(5, 3, generator=torch.Generator().manual_seed(number))}, tmp_path / "w")
        (tmp_path / "w").rename(tmp_path / str(number))
        parts.append(SafetensorsFile(tmp_path / str(number)).read("x"))
    found = stacked_rows("x", parts).to_numpy()
    assert np.array_equal(found, np.concatenate([part.to_numpy() for part in parts]))
    assert np.array_equal(concatenated([part.to_numpy() for part in parts]), found)


@pytest.mark.parametrize("left", [0, 200, PIECE_BYTES])
def test_a_file_that_became_shorter_is_an_error_and_not_a_crash(path: Path, left: int) -> None:
    save_file({"x": torch.zeros(2 * PIECE_BYTES, dtype=torch.uint8)}, path)
    raw = SafetensorsFile(path).read("x")
    os.truncate(path, left)
    with pytest.raises(Corrupt, match="became shorter while it was being read"):
        Fetcher(2).into(raw.data, np.empty(raw.data.size, np.uint8))


def test_a_source_that_is_gone_leaves_no_file_open(path: Path) -> None:
    save_file({"x": torch.zeros(4)}, path)
    before = set(os.listdir("/dev/fd"))
    source = SafetensorsFile(path)
    data = source.read("x").data
    assert len(os.listdir("/dev/fd")) > len(before)
    del source, data
    assert set(os.listdir("/dev/fd")) == before
