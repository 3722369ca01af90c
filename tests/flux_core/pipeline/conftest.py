"""A random model on disk, and the real engines on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backends.mlx_metal.engine import MlxEngine
from backends.torch_cuda.engine import TorchEngine
from flux_core import catalog
from flux_core.pipeline import FluxEngine
from tests.support import family_random
from tests.support.tiny_random import MICRO, write_models_dir

MakeEngine = Callable[[Path], FluxEngine]
MAKERS: dict[str, MakeEngine] = {
    "torch": lambda models: TorchEngine("cpu", (models,)),
    "mlx": lambda models: MlxEngine((models,)),
}


@pytest.fixture(autouse=True)
def micro_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog knows the micro model and its family while a test of this folder runs."""
    monkeypatch.setitem(catalog.MODELS, MICRO.model, MICRO)
    family_random.install(monkeypatch)


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models_dir(tmp_path_factory.mktemp("models"), MICRO)


@pytest.fixture(params=list(MAKERS), scope="session")
def engine(request: pytest.FixtureRequest, models_dir: Path) -> FluxEngine:
    """A warm engine; tests that break something make their own."""
    return MAKERS[request.param](models_dir)


@pytest.fixture(params=list(MAKERS), scope="session")
def make_engine(request: pytest.FixtureRequest) -> MakeEngine:
    return MAKERS[request.param]


@pytest.fixture(scope="session")
def family_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_random.write_family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="session")
def both(family_dir: Path) -> tuple[FluxEngine, FluxEngine]:
    """Warm engines on the whole family: torch, then MLX."""
    return MAKERS["torch"](family_dir), MAKERS["mlx"](family_dir)


@pytest.fixture(scope="session")
def any_engine(both: tuple[FluxEngine, FluxEngine]) -> FluxEngine:
    """The quicker one, for what all engines share; that both paint alike is shown for every request."""
    return both[1]
