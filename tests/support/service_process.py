"""A real service in a process of its own, with the fake engine, for tests to use and to kill."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import psutil

from backends.remote.client import ServiceClient
from backends.service.state_folder import Endpoint, StateFolder

FAKE_ENGINE = "tests.support.fake_engine:create"


class ServiceProcess:
    """Starts on entering or by start(); whatever still runs at the end is killed."""

    def __init__(
        self, home: Path, *options: str, engine: str = FAKE_ENGINE, module: str = "backends.service"
    ) -> None:
        self.home = home
        self.folder = StateFolder.under(home)
        self._command = [sys.executable, "-m", module, "--home", str(home), "--engine", engine]
        self._command += ["--models", str(home / "models"), *options]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def endpoint(self) -> Endpoint:
        endpoint = self.folder.read_endpoint()
        assert endpoint is not None
        return endpoint

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Returns when the service listens."""
        self.home.mkdir(exist_ok=True)
        with (self.home / "stderr.txt").open("a") as errors:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._process.stdout.close()
            self._process = None
            raise AssertionError(f"exit code {code}: {(self.home / 'stderr.txt').read_text()}")
        return self

    def client(self) -> ServiceClient:
        return ServiceClient(self.endpoint)

    def engine_pids(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.pid).children()]

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        return self._end(signal.SIGTERM)

    def wait(self) -> int:
        return self._end(None)

    def _end(self, sig: int | None) -> int:
        if self._process is None:
            return 0
        if sig is not None:
            self._process.send_signal(sig)
        code = self._process.wait(timeout=30)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        return code


def eventually(is_true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Waits for what another process does and nobody announces."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@contextlib.contextmanager
def running(
    home: Path, *options: str, engine: str = FAKE_ENGINE
) -> Iterator[tuple[ServiceProcess, ServiceClient]]:
    with ServiceProcess(home, *options, engine=engine) as service, service.client() as client:
        yield service, client
