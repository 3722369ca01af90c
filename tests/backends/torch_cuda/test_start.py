"""How an engine's process begins."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from backends.engines import load_factory
from backends.torch_cuda import start
from backends.torch_cuda.devices import prepare_products
from flux_core.messages import Device


def test_where_there_is_no_driver_the_engine_is_there_all_the_same(tmp_path: Path) -> None:
    start.open_context("libno-such-driver.so").join(10)
    engine = load_factory("torch")((tmp_path,))
    assert all(isinstance(device, Device) for device in engine.devices())


def test_a_torch_that_was_built_for_a_processor_takes_no_memory_of_a_gpu() -> None:
    spec = find_spec("torch")
    assert spec is not None
    assert (start._folder_of_libraries(spec) is not None) == torch.backends.cuda.is_built()


@pytest.mark.skipif(
    sys.platform != "linux", reason="NOT TESTED HERE: libraries are opened ahead on Linux only"
)
def test_libraries_that_were_opened_ahead_are_the_ones_that_torch_then_uses() -> None:
    """In a process of its own; a library that is not there is left to torch."""
    code = (
        "import sys\n"
        "from importlib.util import find_spec\n"
        "from pathlib import Path\n"
        "from backends.torch_cuda import start\n"
        "folder = Path(find_spec('torch').submodule_search_locations[0]) / 'lib'\n"
        "start.open_libraries([folder / 'libtorch_cpu.so']).join()\n"
        "start.open_libraries([folder / 'libno-such.so', folder / 'libc10.so']).join()\n"
        "opened = Path('/proc/self/maps').read_text()\n"
        "assert 'libtorch_cpu.so' in opened and 'torch' not in sys.modules\n"
        "import torch\n"
        "assert torch.ones(2).sum() == 2"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_was_installed_without_bytecode_is_compiled_by_one_process_only(tmp_path: Path) -> None:
    place, cache = tmp_path / "library", tmp_path / "cache"
    place.mkdir()
    (place / "bare.py").write_text("import sys\nsys.stdout.write(str(__cached__))\n")
    code = (
        "import importlib.util\n"
        "from backends.torch_cuda import start\n"
        "start.keep_bytecode(importlib.util.find_spec('bare'))\n"
        "import bare"
    )
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(place), *sys.path]),
        "XDG_CACHE_HOME": str(cache),
    }
    environ["PYTHONDONTWRITEBYTECODE"] = "1"
    environ.pop("PYTHONPYCACHEPREFIX", None)
    said = [
        subprocess.run(
            [sys.executable, "-c", code], env=environ, check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    ]
    kept = Path(said[0])
    assert said[0] == said[1]
    assert kept.is_file()
    assert kept.is_relative_to(cache / "flowbrush")
    assert not (place / "__pycache__").exists()


def test_what_was_installed_with_bytecode_is_read_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "pycache_prefix", None)  # an engine of another test may have begun
    spec = find_spec("pydantic")
    assert spec is not None
    spec.cached = __file__
    start.keep_bytecode(spec)
    assert sys.pycache_prefix is None


def test_importing_leaves_the_search_for_garbage_as_it_was() -> None:
    with start.begun():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_the_driver_is_asked_before_torch_is_imported() -> None:
    """What begins first must not wait for what it is to run beside."""
    code = (
        "import sys\n"
        "from backends.engines import load_factory\n"
        "load_factory('torch')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_products_get_no_workspace_unless_a_person_asked_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLASLT_WORKSPACE_SIZE", "")  # so that it is put back in any case
    monkeypatch.delenv("CUBLASLT_WORKSPACE_SIZE")
    for chosen in ("0", "4096"):
        prepare_products()
        assert os.environ["CUBLASLT_WORKSPACE_SIZE"] == chosen
        monkeypatch.setenv("CUBLASLT_WORKSPACE_SIZE", "4096")
