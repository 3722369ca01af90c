"""A picture that several processes compute is the picture of one, and a process that dies costs one job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from backends.torch_cuda.engine import TorchEngine
from backends.torch_cuda.split.shares import Shares
from flux_core import catalog
from flux_core.errors import EngineDied
from flux_core.messages import Progress, Stage
from flux_core.request import Precision, Task
from tests.support.engine_runs import psnr_db, run, scene
from tests.support.tiny_random import MICRO, write_models_dir

SPEC = replace(
    MICRO,
    tasks=(Task.GENERATE, Task.EDIT),
    transformer=replace(MICRO.transformer, hidden_size=96, num_heads=6, depth=2, depth_single=2),
)
"""Six heads, for two ranks and for three."""


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models_dir(tmp_path_factory.mktemp("models"), SPEC)


@pytest.fixture(scope="module")
def alone(models_dir: Path) -> TorchEngine:
    return TorchEngine("cpu", (models_dir,))


@pytest.fixture(autouse=True)
def row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalog.MODELS, SPEC.model, SPEC)


@pytest.fixture(scope="module", params=[2, 3])
def together(request: pytest.FixtureRequest, models_dir: Path) -> Generator[TorchEngine]:
    engine = TorchEngine("cpu", (models_dir,), others=("cpu",) * (request.param - 1))
    yield engine
    engine.close()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"width_px": 80, "height_px": 48, "t5_tokens": 33},
        {"task": Task.EDIT, "image": scene(48, 64)},
        {"precision": Precision.FP8},
    ],
    ids=["even", "odd", "reference", "eight bits"],
)
def test_ranks_paint_what_one_paints(
    alone: TorchEngine, together: TorchEngine, fields: dict[str, Any]
) -> None:
    for engine in (alone, together):
        engine._backend.has_fp8 = engine._has_fp8 = fields.get("precision") is Precision.FP8
    one, many = (run(engine, seed=3, **fields) for engine in (alone, together))
    assert together._team is not None and together._team._was_split
    assert many.result.warnings == one.result.warnings
    print(psnr_db(one.pixels, many.pixels))
