"""A real service with the fake engine, and the real command line beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from backends.remote.client import ServiceClient
from backends.remote.local import ensure_service, running_service
from desktop.commands.main import run
from flux_core.imaging import codec

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture(scope="session")
def service_home() -> Iterator[Path]:
    """The home of a service that `flowbrush serve` runs, with models that can do every task."""
    with tempfile.TemporaryDirectory(prefix="fb-") as folder:
        home = Path(folder)
        command = [sys.executable, "-m", "tests.support.able_service", "serve", "--json"]
        command += ["--engine", "tests.support.fake_engine:create", "--home", str(home)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert b"{" in process.stdout.readline()  # it says where it listens once it does
            yield home
        finally:
            process.terminate()
            process.communicate(timeout=30)


@pytest.fixture
def client(service_home: Path) -> Iterator[ServiceClient]:
    with ServiceClient(ensure_service(service_home)) as client:
        yield client


@pytest.fixture
def flowbrush(service_home, monkeypatch, capsys, tmp_path) -> Callable[..., Said]:
    """Runs the command line in this process, in an empty folder."""
    assert running_service(service_home) is not None
    monkeypatch.setenv("FLOWBRUSH_HOME", str(service_home))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Said:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return call


@pytest.fixture
def environ(service_home: Path) -> dict[str, str]:
    """For a command line in a process of its own."""
    return {**os.environ, "FLOWBRUSH_HOME": str(service_home), "PYTHONPATH": str(ROOT)}


@pytest.fixture
def noise() -> Callable[..., np.ndarray]:
    def make(*shape: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes pixels as a PNG into the folder that the command runs in."""

    def save(name: str, pixels: np.ndarray, **options: object) -> Path:
        path = tmp_path / name
        path.write_bytes(codec.encode_png(pixels, **options))
        return path

    return save
