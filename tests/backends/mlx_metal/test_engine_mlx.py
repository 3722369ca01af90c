"""The MLX engine paints what the torch engine paints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.engines import load_factory
from backends.mlx_metal.engine import MlxEngine
from backends.torch_cuda.engine import TorchEngine
from flux_core import catalog
from flux_core.request import Precision, Task
from tests.support.engine_runs import psnr_db, run, scene
from tests.support.tiny_random import MICRO, write_models_dir


@pytest.fixture
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(catalog.MODELS, MICRO.model, MICRO)
    return write_models_dir(tmp_path, MICRO)


def test_the_service_finds_the_engine_by_its_name(models_dir: Path) -> None:
    engine = load_factory("mlx")((models_dir,))
    assert engine.name == "mlx"
    (device,) = engine.devices()
    assert device.kind in ("cpu", "metal")
    assert run(engine).result.images


@pytest.mark.parametrize("task", [Task.GENERATE, Task.TRANSFORM, Task.FILL, Task.UPSCALE])
def test_a_seed_is_the_same_picture_on_both_engines(models_dir: Path, task: Task) -> None:
    picture = scene(96, 64)
    mask = np.zeros((64, 96), np.uint8)
    mask[:, 40:] = 200
    inputs: dict[str, Any] = {"image": picture, "strength": 0.8} if task is not Task.GENERATE else {}
    if task is Task.FILL:
        inputs["mask"] = mask
    torch_picture, mlx_picture = (
        run(
            engine,
            task=task,
            prompt="a red apple",
            seed=7,
            width_px=96,
            num_steps=6,
            precision=Precision.FP32,
            **inputs,
        ).pixels
        for engine in (TorchEngine("cpu", (models_dir,)), MlxEngine((models_dir,)))
    )
    assert psnr_db(torch_picture, mlx_picture) >= 35


def test_bfloat16_paints_nearly_the_same_picture(models_dir: Path) -> None:
    engine = MlxEngine((models_dir,))
    full, half = (run(engine, precision=p, seed=1).pixels for p in (Precision.FP32, Precision.BF16))
    assert 15 < psnr_db(full, half) < 60
