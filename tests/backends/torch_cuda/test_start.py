"""How an engine's process begins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from backends.engines import load_factory
from backends.torch_cuda import start
from flux_core.messages import Device


def test_where_there_is_no_driver_the_engine_is_there_all_the_same(tmp_path: Path) -> None:
    start.open_context("libno-such-driver.so").join(10)
    engine = load_factory("torch")((tmp_path,))
    assert all(isinstance(device, Device) for device in engine.devices())


def test_a_torch_that_was_built_for_a_processor_takes_no_memory_of_a_gpu() -> None:
    assert start._is_built_for_cuda() == torch.backends.cuda.is_built()


def test_the_driver_is_asked_before_torch_is_imported() -> None:
    """What begins first must not wait for what it is to run beside."""
    code = (
        "import sys\n"
        "from backends.engines import load_factory\n"
        "load_factory('torch')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
