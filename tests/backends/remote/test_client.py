import hashlib
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.remote.client import ServiceClient
from backends.service.state_folder import Endpoint
from flux_core.errors import ConnectionLost, Corrupt, Internal, RequestInvalid
from flux_core.messages import JobState
from flux_core.request import build_request
from tests.support.service_process import ServiceProcess, eventually


class _Impostor(http.server.BaseHTTPRequestHandler):
    """Something else that listens where a service should."""

    answers: dict[str, bytes] = {}

    def do_GET(self) -> None:
        body = self.answers.get(self.path, b"<html>")
        self.send_response(200 if self.path in self.answers else 500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def impostor() -> Iterator[Endpoint]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Impostor) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Endpoint(url=f"http://127.0.0.1:{server.server_port}", token="t")
        server.shutdown()
        thread.join()


def test_nobody_there_is_said_in_a_sentence(tmp_path: Path):
    for endpoint in (Endpoint(socket=tmp_path / "none"), Endpoint(url="http://127.0.0.1:1", token="t")):
        with ServiceClient(endpoint) as client, pytest.raises(ConnectionLost, match="does not answer"):
            client.jobs()


def test_somebody_else_there_is_told_from_a_service(impostor: Endpoint):
    with ServiceClient(impostor) as client:
        with pytest.raises(Internal, match="answered 500"):
            client.hello()
        _Impostor.answers = {"/v1/hello": b'{"hi": 1}', "/v1/blobs/" + "0" * 64: b"not it"}
        with pytest.raises(Internal, match="does not understand"):
            client.hello()
        with pytest.raises(Corrupt, match="damaged on its way"):
            client.get_blob("0" * 64)


def test_another_protocol_is_refused_with_what_to_do(impostor: Endpoint):
    hello = b'{"protocol":9,"version":"9","devices":[],"engines":[],"capabilities":[],"models":[]}'
    _Impostor.answers = {"/v1/hello": hello}
    with ServiceClient(impostor) as client, pytest.raises(RequestInvalid, match="protocol 9") as caught:
        client.hello()
    assert "same version" in caught.value.hint


@pytest.mark.parametrize("url", ["http://[", "", "127.0.0.1:80", "ftp://127.0.0.1", "http://"])
def test_an_endpoint_that_is_no_address_is_refused(url: str):
    with pytest.raises(RequestInvalid, match="not the address of a service"):
        ServiceClient(Endpoint(url=url, token="t"))


def test_a_job_id_that_is_none_never_leaves(client: ServiceClient):
    with pytest.raises(RequestInvalid, match="not a job id"):
        client.job("../blobs")


def test_a_large_picture_travels_there_and_back(client: ServiceClient):
    data = hashlib.sha256(b"seed").digest() * 200_000  # 6.4 MB
    assert client.get_blob(client.put_blob(data)) == data
    assert client.get_blob(client.put_blob(b"")) == b""


def test_a_picture_that_arrived_whole_in_a_service_that_was_killed_is_sent_again(tmp_path: Path):
    data = b"picture" * 1000
    with ServiceProcess(tmp_path) as service, service.client() as client:
        sha256 = hashlib.sha256(data).hexdigest()
        part = service.folder.blobs / "uploads" / f"{sha256}.part"
        for left in (data, data + b"more"):
            part.write_bytes(left)
            assert client.put_blob(data) == sha256
            assert client.get_blob(sha256) == data
            (service.folder.blobs / sha256[:2] / sha256).unlink()


def test_a_stopped_listener_ends_at_once_though_nothing_happens(client: ServiceClient):
    stop = threading.Event()
    events = client.events(0, stop)
    listener = threading.Thread(target=lambda: list(events))
    listener.start()
    eventually(lambda: client.health.health in ("ready", "loading"))
    started_at = time.monotonic()
    stop.set()
    listener.join(5)
    assert not listener.is_alive()
    assert time.monotonic() - started_at < 1.0


def test_a_journal_that_was_replaced_is_heard_from_its_start(client: ServiceClient):
    record = client.wait(client.submit(build_request(prompt="new")).job_id)
    stop = threading.Event()
    heard: list[int] = []
    for event in client.events(10**9, stop):
        if event.kind == "state":
            heard.append(event.seq)
            if event.seq == record.seq:
                stop.set()
    assert heard == list(range(1, record.seq + 1))


def test_waiting_for_a_service_that_is_gone_ends_with_its_patience(tmp_path: Path):
    with ServiceProcess(tmp_path) as service, service.client() as client:
        job_id = client.submit(build_request(prompt="hang")).job_id
        killer = threading.Timer(0.2, service.kill)
        killer.start()
        with pytest.raises(ConnectionLost, match="has said nothing"):
            client.wait(job_id, patience_s=0.5)
        killer.join()


def test_waiting_goes_on_when_the_service_comes_back(tmp_path: Path):
    gate = tmp_path / "gate"
    with ServiceProcess(tmp_path / "home") as service, service.client() as client:
        job_id = client.submit(build_request(prompt=f"until={gate}")).job_id
        eventually(lambda: client.job(job_id).progress is not None)

        def restart() -> None:
            service.kill()
            gate.touch()
            service.start()

        restarter = threading.Thread(target=restart)
        restarter.start()
        record = client.wait(job_id)
        restarter.join()
        assert record.state is JobState.DONE


def test_a_closed_client_says_so_instead_of_asking(impostor: Endpoint):
    client = ServiceClient(impostor)
    client.close()
    with pytest.raises(ConnectionLost, match="has been closed"):
        client.hello()
