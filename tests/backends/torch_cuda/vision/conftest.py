"""Asking a helper that lies in a folder of models; the folders that no test changes are made once."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from backends.torch_cuda import vision
from backends.torch_cuda.vision.registry import Looked
from flux_core.catalog.helpers import folder_of_helper
from flux_core.looking import Look
from flux_core.messages import Progress
from flux_core.reporting import Report

Ask = Callable[..., Looked]


@pytest.fixture(scope="session", autouse=True)
def _quick_collections() -> Iterator[None]:
    """Every look ends with a collection; what the libraries made at import need not be walked each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def _shelf(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Any]]:
    @functools.cache
    def made(make: Callable[..., Any], settings: tuple[tuple[str, Any], ...]) -> tuple[Path, Any]:
        folder = tmp_path_factory.mktemp("helper") / "it"
        return folder, make(folder, **dict(settings))

    return made


@pytest.fixture
def have(tmp_path: Path, _shelf: Callable[..., tuple[Path, Any]]) -> Callable[..., Any]:
    """Puts a tiny helper under an id into the folder of models, and gives the model that is in it."""

    def have(model: str, make: Callable[..., Any], **settings: Any) -> Any:
        folder, network = _shelf(make, tuple(settings.items()))
        (tmp_path / model).symlink_to(folder)
        return network

    return have


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Carries out a look on the processor, with the helpers in `tmp_path`."""

    def ask(
        request: Look,
        *images: Any,
        said: list[Progress] | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Looked:
        report = Report(said.append if said is not None else lambda message: None, is_cancelled)
        return vision.look(
            request,
            images,
            lambda model: folder_of_helper(model, (tmp_path,)),
            torch.device("cpu"),
            report,
        )

    return ask
