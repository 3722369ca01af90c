from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.remote.client import ServiceClient
from tests.support.service_process import ServiceProcess


@pytest.fixture(scope="session")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """One service for every test that leaves it as it found it."""
    with ServiceProcess(tmp_path_factory.mktemp("shared")) as service:
        yield service


@pytest.fixture
def client(shared_service: ServiceProcess) -> Iterator[ServiceClient]:
    with shared_service.client() as client:
        yield client


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file that does not exist yet; a job with until=GATE goes on when it does."""
    path = tmp_path / "gate"
    yield path
    path.touch()
