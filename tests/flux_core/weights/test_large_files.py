"""A file larger than the machine's memory is opened like any other."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from flux_core.weights.safetensors_file import SafetensorsFile
from flux_core.weights.tensors import TensorInfo
from tests.support.published import write_sparse


@pytest.mark.skipif(sys.platform == "win32", reason="a hole in a file takes space there")
def test_a_file_larger_than_memory_opens_and_reads(tmp_path: Path) -> None:
    memory = psutil.virtual_memory().total + psutil.swap_memory().total
    rows = 2 * memory // 2**20
    names = {f"layer{i}": TensorInfo("U8", (2**20,)) for i in range(3)} | {
        "all": TensorInfo("U8", (rows, 2**20))
    }
    file = SafetensorsFile(write_sparse(tmp_path / "large.safetensors", names))
    assert not file.read("layer2").data.any()
    assert file.names()["all"].shape == (rows, 2**20)
