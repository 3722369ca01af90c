"""What only the torch engine does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from backends.engines import load_factory
from backends.service.pipe import Report, RunOrder
from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.engine import TorchEngine
from flux_core import catalog
from flux_core.errors import OutOfMemory
from flux_core.messages import Failed, Finished
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


def test_a_process_with_the_bundled_shapes_needs_little_memory(tmp_path: Path) -> None:
    """On a processor: CUDA's libraries alone are more."""
    models = write_models_dir(tmp_path / "models", catalog.TINY)
    order = RunOrder(job_id="job", request=build_request(width_px=256, height_px=256, num_steps=2))
    command = [sys.executable, "-m", "backends.service.worker", "--engine", "torch"]
    command += ["--models", str(models), "--blobs", str(tmp_path / "blobs")]
    pipe, env = subprocess.PIPE, os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=env) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(order.model_dump_json().encode() + b"\n")
        worker.stdin.flush()
        reports = (Report.model_validate_json(line) for line in worker.stdout)
        finished = next(report.message for report in reports if isinstance(report.message, Finished | Failed))
    assert isinstance(finished, Finished)
    assert (finished.images[0].width_px, finished.images[0].height_px) == (256, 256)
    assert 100_000_000 < finished.peak_memory_bytes < 1_000_000_000


def test_a_failed_allocation_is_told_as_too_little_memory(models_dir: Path) -> None:
    def read_blob(sha256: str) -> bytes:
        return bytes(torch.empty(2**46))  # torch's own failure, from inside the job

    request = build_request(model="micro", task=Task.TRANSFORM, image="0" * 64)
    with pytest.raises(OutOfMemory, match="256 x 256"):
        TorchEngine("cpu", (models_dir,)).run(request, read_blob, lambda message: None, lambda: False)


@pytest.mark.parametrize(
    "words",
    [
        "[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory: you tried to ...",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_too_little_memory_is_known_by_every_name(models_dir: Path, words: str) -> None:
    def read_blob(sha256: str) -> bytes:
        raise RuntimeError(words)

    request = build_request(model="micro", task=Task.TRANSFORM, image="0" * 64)
    with pytest.raises(OutOfMemory):
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
    assert all(not array.requires_grad for array in engine._bench._remembered.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED HERE: a queue needs a CUDA device")
def test_nothing_waits_for_the_queue_but_who_asks_for_what_is_computed() -> None:
    backend = TorchBackend("cuda")
    busy = torch.cuda.Event()
    for cycles in (10, 10**9):  # what is loaded for the first time waits
        torch.cuda._sleep(cycles)
        busy.record()
        x, y = (backend.from_numpy(np.arange(start, start + 4, dtype=np.float32)) * 2 for start in (0, 9))
        backend.evaluate(x, y)
        brought = [backend.bring(each) for each in (x, y)]
    assert not busy.query()
    assert [each().tolist() for each in brought] == [[0, 2, 4, 6], [18, 20, 22, 24]]
    assert busy.query()
    torch.cuda._sleep(10**8)
    busy.record()
    backend.wait(x)
    assert busy.query()
