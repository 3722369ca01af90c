"""What only the torch engine does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backends.engines import load_factory
from backends.torch_cuda.engine import TorchEngine
from flux_core import catalog
from flux_core.errors import OutOfMemory
from flux_core.request import Precision, Task, build_request
from tests.support.engine_runs import psnr_db, run
from tests.support.tiny_random import MICRO, write_models_dir


@pytest.fixture
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(catalog.MODELS, MICRO.model, MICRO)
    return write_models_dir(tmp_path, MICRO)


def test_the_service_finds_the_engine_by_its_name(models_dir: Path) -> None:
    engine = load_factory("torch")((models_dir,))
    assert engine.name == "torch"
    (device,) = engine.devices()
    assert device.kind in ("cpu", "cuda")
    assert 0 < device.memory_free_bytes <= device.memory_total_bytes
    assert run(engine).result.images


def test_a_failed_allocation_is_told_as_too_little_memory(models_dir: Path) -> None:
    def read_blob(sha256: str) -> bytes:
        return bytes(torch.empty(2**46))  # torch's own failure, from inside the job

    request = build_request(model="micro", task=Task.TRANSFORM, image="0" * 64)
    with pytest.raises(OutOfMemory, match="256 x 256"):
        TorchEngine("cpu", (models_dir,)).run(request, read_blob, lambda message: None, lambda: False)


def test_another_failure_of_torch_is_not_hidden(models_dir: Path) -> None:
    def read_blob(sha256: str) -> bytes:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    request = build_request(model="micro", task=Task.TRANSFORM, image="0" * 64)
    with pytest.raises(RuntimeError, match="mat1"):
        TorchEngine("cpu", (models_dir,)).run(request, read_blob, lambda message: None, lambda: False)


def test_bfloat16_paints_nearly_the_same_picture(models_dir: Path) -> None:
    engine = TorchEngine("cpu", (models_dir,))
    full, half = (run(engine, precision=p, seed=1).pixels for p in (Precision.FP32, Precision.BF16))
    assert 15 < psnr_db(full, half) < 60


def test_nothing_that_a_job_made_asks_for_gradients(models_dir: Path) -> None:
    engine = TorchEngine("cpu", (models_dir,))
    run(engine)
    assert all(not array.requires_grad for pair in engine._texts.values() for array in pair)
