import http.server
import os
import signal
import sys
import threading
from pathlib import Path

import psutil
import pytest

from backends.remote.client import ServiceClient
from backends.remote.local import ensure_service, running_service
from backends.service.state_folder import Endpoint, StateFolder, default_home
from flux_core.errors import ConnectionLost
from flux_core.messages import JobState
from flux_core.request import build_request
from tests.support.service_process import FAKE_ENGINE, eventually


def end_service(home: Path) -> None:
    pid = next(
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if str(home) in (process.info["cmdline"] or [])
    )
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not StateFolder.under(home).endpoint_file.exists())


class _Stranger(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def test_a_stranger_at_the_port_of_a_killed_service_is_no_service(tmp_path: Path):
    folder = StateFolder.under(tmp_path)
    folder.make()
    folder.token.write_text("token")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Stranger) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        folder.write_endpoint(Endpoint(url=f"http://127.0.0.1:{server.server_port}"))
        assert running_service(tmp_path) is None
        server.shutdown()
        thread.join()


def test_a_service_is_started_once_and_found_afterwards(tmp_path: Path):
    assert running_service(tmp_path) is None
    found: list[Endpoint] = []

    def ensure() -> None:
        found.append(ensure_service(tmp_path, models_dirs=[tmp_path], engine=FAKE_ENGINE))

    threads = [threading.Thread(target=ensure) for _ in range(2)]  # both at the same time
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] == running_service(tmp_path)
    with ServiceClient(found[0]) as client:
        assert client.wait(client.submit(build_request()).job_id).state is JobState.DONE
    end_service(tmp_path)
    assert running_service(tmp_path) is None


def test_a_service_that_does_not_start_is_quoted(tmp_path: Path):
    with pytest.raises(ConnectionLost, match="There is no engine called 'abacus'"):
        ensure_service(tmp_path, engine="abacus")
    command = (sys.executable, "-c", "raise SystemExit('no libraries here')")
    with pytest.raises(ConnectionLost, match="ended with code 1. It said: no libraries here"):
        ensure_service(tmp_path, command=command)
    with pytest.raises(ConnectionLost, match="cannot be started"):
        ensure_service(tmp_path, command=("/no/such/program",))


def test_a_service_that_never_answers_is_given_up(tmp_path: Path):
    command = (sys.executable, "-c", "import threading; threading.Event().wait()")
    with pytest.raises(ConnectionLost, match="did not answer within 0 s"):
        ensure_service(tmp_path, command=command, timeout_s=0.3)


def test_a_note_that_a_killed_service_left_is_not_believed(tmp_path: Path):
    folder = StateFolder.under(tmp_path)
    folder.make()
    folder.write_endpoint(Endpoint(socket=tmp_path / "gone.sock"))
    assert running_service(tmp_path) is None
    folder.endpoint_file.write_text("{")
    assert running_service(tmp_path) is None


def test_the_home_folder_is_named_by_the_environment_or_the_system(tmp_path: Path):
    assert default_home({"FLOWBRUSH_HOME": str(tmp_path)}) == tmp_path
    assert default_home({}).name == "flowbrush"
