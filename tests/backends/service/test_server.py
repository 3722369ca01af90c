import json
import os
import socket
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from backends.remote.client import ServiceClient
from backends.service.server import AlreadyRunning, ServiceOptions, serve
from backends.service.state_folder import Endpoint, StateFolder
from flux_core.errors import ConnectionLost, RequestInvalid
from flux_core.request import build_request
from tests.support.service_process import FAKE_ENGINE, ServiceProcess


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def serve_here(home: Path, tcp: str | None = None) -> None:
    """For starts that must be refused; one that is not ends with a failure."""
    options = ServiceOptions(home=home, models_dirs=(home,), engine=FAKE_ENGINE, tcp=tcp)
    serve(options, on_ready=lambda endpoint: pytest.fail(f"it listens at {endpoint}"))


def test_the_socket_lies_where_only_its_owner_comes(shared_service: ServiceProcess):
    path = shared_service.endpoint.socket
    assert path is not None
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert mode(path) == 0o600
    assert mode(path.parent) == 0o700
    assert path.stat().st_uid == os.getuid()


def test_an_engine_begins_before_anybody_can_ask_for_it(shared_service: ServiceProcess):
    """What it imports takes longest of all that somebody waits for who starts a service."""
    first, second, *_ = (
        json.loads(line) for line in shared_service.folder.service_log.read_text().splitlines()
    )
    assert (first["message"], second["message"]) == ("engine started", "listening")


def test_a_home_with_a_long_path_gets_a_short_private_socket(tmp_path: Path):
    home = tmp_path / ("long" * 30)
    with ServiceProcess(home) as service, service.client() as client:
        assert client.hello().protocol == 1
        path = service.endpoint.socket
        assert path is not None
        assert mode(path.parent) == 0o700
        service.stop()
        assert not path.exists()
    path.parent.rmdir()


def test_on_tcp_a_token_is_needed_and_never_shown(tmp_path: Path):
    with ServiceProcess(tmp_path, "--tcp", "127.0.0.1:0") as service, service.client() as client:
        assert client.hello().protocol == 1
        endpoint = service.endpoint
        assert endpoint.token is not None
        assert mode(service.folder.token) == 0o600
        assert endpoint.token not in repr(endpoint)
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {endpoint.token}"}):
            for path in ("/v1/hello", "/v1/events", "/v1/jobs", "/anything"):
                answer = httpx.get(f"{endpoint.url}{path}", headers=headers, trust_env=False)
                assert answer.status_code == 401
                assert answer.json()["code"] == "request_invalid"
        with ServiceClient(Endpoint(url=endpoint.url)) as stranger:
            with pytest.raises(RequestInvalid, match="token is missing or wrong"):
                stranger.hello()
            with pytest.raises(RequestInvalid, match="token"):
                next(stranger.events())
        service.stop()
        logs = "".join(path.read_text() for path in service.folder.logs.iterdir())
        assert endpoint.token not in logs + (tmp_path / "stderr.txt").read_text()


def test_a_service_on_tcp_comes_back_at_the_same_address(tmp_path: Path):
    with ServiceProcess(tmp_path, "--tcp", "localhost:0") as service:
        before = service.endpoint
        service.kill()
        service.start()
        assert service.endpoint == before


@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.168.1.5:80", "[::]:0", "8.8.8.8:53"])
def test_an_address_that_others_could_reach_is_refused(tmp_path: Path, address: str):
    with pytest.raises(RequestInvalid, match="this machine only"):
        serve_here(tmp_path, address)
    assert not StateFolder.under(tmp_path).endpoint_file.exists()


@pytest.mark.parametrize("address", ["example.org:80", "127.0.0.1:99999", "127.0.0.1:x", ""])
def test_an_address_that_is_none_is_refused(tmp_path: Path, address: str):
    with pytest.raises(RequestInvalid, match="is not an address"):
        serve_here(tmp_path, address)


@pytest.mark.parametrize("count", [0, -1])
def test_a_service_without_workers_is_refused(tmp_path: Path, count: int):
    options = ServiceOptions(home=tmp_path, models_dirs=(), engine=FAKE_ENGINE, num_workers=count)
    with pytest.raises(RequestInvalid, match="cannot have"):
        serve(options)
    with pytest.raises(RequestInvalid, match="cannot have"):
        serve(replace(options, num_workers=1, gpus_per_engine=count))


@pytest.mark.parametrize("url", ['"http://127.0.0.1:99999"', '"http://["', '"nonsense"', "5", "null", "[]"])
def test_a_damaged_note_of_where_a_service_was_counts_as_none(tmp_path: Path, url: str):
    folder = StateFolder.under(tmp_path)
    folder.make()
    folder.token.write_text("token")
    folder.endpoint_file.write_text(f'{{"socket": null, "url": {url}}}')
    assert folder.read_endpoint() is None


def test_a_port_that_is_taken_is_said_so(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RequestInvalid, match="cannot listen"):
            serve_here(tmp_path, f"127.0.0.1:{taken.getsockname()[1]}")


def test_a_second_service_on_the_same_folder_is_refused(shared_service: ServiceProcess):
    with pytest.raises(AlreadyRunning, match="already runs"):
        serve_here(shared_service.home)
    command = [
        sys.executable,
        "-m",
        "backends.service",
        "--home",
        str(shared_service.home),
        "--engine",
        FAKE_ENGINE,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    with shared_service.client() as client:
        assert client.hello().protocol == 1


def test_a_home_that_cannot_be_made_is_said_so(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(RequestInvalid, match="cannot be used"):
        serve_here(tmp_path / "file")


def test_a_damaged_journal_stops_the_start_with_a_sentence(tmp_path: Path):
    folder = StateFolder.under(tmp_path)
    folder.make()
    folder.journal.write_bytes(b"garbage " * 1000)
    with pytest.raises(AssertionError, match="exit code 2.*is damaged"):
        ServiceProcess(tmp_path).start()


def test_sigterm_ends_it_in_order_also_while_somebody_listens(tmp_path: Path):
    with ServiceProcess(tmp_path) as service, service.client() as client:
        stop, connected = threading.Event(), threading.Event()

        def listen() -> None:
            for _ in client.events(0, stop):
                connected.set()

        listener = threading.Thread(target=listen)
        listener.start()
        client.submit(build_request())
        assert connected.wait(10)
        assert service.stop() == 0
        stop.set()
        listener.join(5)
        assert not service.folder.endpoint_file.exists()
        with pytest.raises(ConnectionLost, match="does not answer"):
            client.hello()
        assert client.health.health == "lost"


def test_a_service_nobody_needs_ends_by_itself(tmp_path: Path):
    with ServiceProcess(tmp_path, "--idle-exit-s", "0.2") as service:
        assert service.wait() == 0
