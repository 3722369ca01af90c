import subprocess
import sys
from pathlib import Path

import pytest

from backends.engines import choose, device_environments, engine_infos, load_factory
from flux_core.errors import ModelMissing, RequestInvalid


def test_the_service_and_its_client_load_no_framework():
    code = (
        "import sys, backends.service.server, backends.service.worker, backends.remote.local\n"
        "from backends.engines import choose, engine_infos\n"
        "engine_infos(), choose('auto')\n"
        "print(sorted({'torch', 'mlx', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_auto_chooses_an_engine_that_is_there():
    assert choose("auto") in {info.name for info in engine_infos() if info.is_available}


def test_an_unknown_engine_is_refused_with_the_names_there_are():
    with pytest.raises(RequestInvalid) as caught:
        choose("abacus")
    assert "torch" in caught.value.hint


def test_an_engine_that_cannot_be_imported_says_what_is_missing():
    with pytest.raises(ModelMissing, match="no_such_library"):
        load_factory("no_such_library.engine:create")
    with pytest.raises(RequestInvalid, match="does not make an engine"):
        load_factory("tests.support.fake_engine:no_such_function")
    with pytest.raises(RequestInvalid, match="no engine called"):
        load_factory("abacus")


def test_each_gpu_gets_a_worker_of_its_own(tmp_path: Path):
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    two = ({"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"})
    assert device_environments("torch", {}, tmp_path) == two
    chosen = ({"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"})
    assert device_environments("torch", {"CUDA_VISIBLE_DEVICES": "3, 5"}, tmp_path) == chosen
    assert device_environments("torch", {"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == ({},)
    assert device_environments("torch", {}, tmp_path / "none") == ({},)
    assert device_environments("mlx", {}, tmp_path) == ({},)


def test_gpus_that_compute_together_get_one_worker(tmp_path: Path):
    three = {"CUDA_VISIBLE_DEVICES": "0,3,5"}
    pairs = ({"CUDA_VISIBLE_DEVICES": "0,3"}, {"CUDA_VISIBLE_DEVICES": "5"})
    assert device_environments("torch", three, tmp_path, gpus_per_engine=2) == pairs
    one = {"CUDA_VISIBLE_DEVICES": "0"}
    assert device_environments("torch", one, tmp_path, gpus_per_engine=2) == ({},)
