"""The whole program, with and without a service; its engine is the fake one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backends.remote.client import ServiceClient
from tests.support.service_process import ServiceProcess
from tests.support.window import Desk, no_service, run_program


@pytest.fixture
def picture(tmp_path) -> Path:
    y, x = np.mgrid[0:240, 0:320]
    pixels = np.dstack([x % 256, y, (x + y) % 256]).astype(np.uint8)
    path = tmp_path / "lake.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def desk(qtbot, tmp_path) -> Iterator[Desk]:
    """A program without a service."""
    with run_program(qtbot, tmp_path / "home", no_service) as desk:
        yield desk


@pytest.fixture
def service(tmp_path) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path / "home") as process:
        yield process


@pytest.fixture
def live(qtbot, tmp_path, service) -> Iterator[Desk]:
    """A program with a service."""
    with run_program(qtbot, tmp_path / "home", lambda: ServiceClient(service.endpoint)) as desk:
        yield desk
