"""The service's HTTP face against those who hold it wrong."""

import hashlib
import json
import socket
import uuid
from collections.abc import Iterator

import httpx
import pytest

from backends.remote.client import ServiceClient
from flux_core.request import build_request
from tests.support.service_process import ServiceProcess, eventually

DATA = bytes(range(256)) * 400


@pytest.fixture
def http(shared_service: ServiceProcess) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=str(shared_service.endpoint.socket))
    with httpx.Client(transport=transport, base_url="http://service") as client:
        yield client


def name_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def is_error(answer: httpx.Response, status: int, words: str) -> bool:
    content = answer.json()
    assert answer.status_code == status, content
    assert set(content) == {"code", "message", "hint"}
    assert words in content["message"], content
    assert len(content["message"]) < 400
    return True


def test_a_blob_travels_there_and_back_whole_or_in_part(http: httpx.Client):
    path = f"/v1/blobs/{name_of(DATA)}"
    assert http.head(path).status_code == 404
    assert http.put(path, content=DATA).status_code == 201
    assert http.head(path).headers["content-length"] == str(len(DATA))
    assert http.get(path).content == DATA
    part = http.get(path, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, DATA[100:200])


def test_a_blob_with_a_wrong_hash_is_refused_and_not_kept(http: httpx.Client):
    path = f"/v1/blobs/{name_of(b'the truth')}"
    assert is_error(http.put(path, content=b"a lie"), 422, "not the picture that its name says")
    answer = http.head(path)
    assert (answer.status_code, answer.headers["upload-offset"]) == (404, "0")


def test_an_upload_can_go_on_in_parts(http: httpx.Client):
    data = DATA + b"parts"
    path, total = f"/v1/blobs/{name_of(data)}", len(data)
    first = http.put(path, content=data[:1000], headers={"Content-Range": f"bytes 0-999/{total}"})
    assert (first.status_code, first.headers["upload-offset"]) == (202, "1000")
    assert http.head(path).headers["upload-offset"] == "1000"
    gap = http.put(path, content=data[2000:], headers={"Content-Range": f"bytes 2000-{total - 1}/{total}"})
    assert is_error(gap, 416, "does not go on at byte 2000")
    assert gap.headers["upload-offset"] == "1000"
    rest = http.put(path, content=data[1000:], headers={"Content-Range": f"bytes 1000-{total - 1}/{total}"})
    assert rest.status_code == 201
    assert http.get(path).content == data


def test_a_truncated_upload_is_kept_and_goes_on(
    http: httpx.Client, client: ServiceClient, shared_service: ServiceProcess
):
    data = DATA * 3 + b"truncated"
    path = f"/v1/blobs/{name_of(data)}"
    with socket.socket(socket.AF_UNIX) as wire:
        wire.connect(str(shared_service.endpoint.socket))
        head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        wire.sendall(head.encode() + data[:5000])
        eventually(lambda: http.head(path).headers.get("upload-offset") == "5000")
    assert client.put_blob(data) == name_of(data)
    assert client.get_blob(name_of(data)) == data


@pytest.mark.parametrize(
    "content_range",
    ["bytes 0-1", "bytes 5-4/10", "bytes 0-10/10", "pages 0-1/2", "bytes -1-2/3", "bytes 0-9/*"],
)
def test_a_range_that_makes_no_sense_is_refused(http: httpx.Client, content_range: str):
    answer = http.put(f"/v1/blobs/{name_of(b'x')}", content=b"x", headers={"Content-Range": content_range})
    assert is_error(answer, 422, "is not a range")


def test_more_bytes_than_announced_are_refused(http: httpx.Client):
    path = f"/v1/blobs/{name_of(DATA + b'more')}"
    answer = http.put(path, content=DATA, headers={"Content-Range": "bytes 0-9/1000"})
    assert is_error(answer, 422, "longer than it says")


def test_a_picture_beyond_the_limit_is_refused_before_it_is_read(shared_service: ServiceProcess):
    with socket.socket(socket.AF_UNIX) as wire:
        wire.connect(str(shared_service.endpoint.socket))
        path = f"/v1/blobs/{'0' * 64}"
        wire.sendall(f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {10**12}\r\n\r\n".encode())
        assert wire.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "%2e%2e", "A" * 64, "x", "0" * 63 + "%00"])
@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD"])
def test_a_hostile_blob_name_reaches_no_file(http: httpx.Client, name: str, method: str):
    answer = http.request(method, f"/v1/blobs/{name}")
    assert answer.status_code in (404, 405, 422)
    assert b"root:" not in answer.content


@pytest.mark.parametrize(
    "job_id",
    [
        "1",
        "x" * 500,
        "'; DROP TABLE jobs; --",
        "{12345678-1234-1234-1234-123456789abc}",
        "..%2f..%2fjobs",
        "%00",
    ],
)
def test_a_hostile_job_id_is_refused(http: httpx.Client, job_id: str):
    body = {"request": build_request().model_dump(mode="json")}
    for answer in (http.put(f"/v1/jobs/{job_id}", json=body), http.get(f"/v1/jobs/{job_id}")):
        assert answer.status_code in (404, 422)
        assert set(answer.json()) == {"code", "message", "hint"}
    assert http.get("/v1/jobs").status_code == 200


def test_a_job_id_is_the_same_in_upper_and_lower_case(http: httpx.Client):
    job_id = str(uuid.uuid4())
    body = {"request": build_request(prompt="case").model_dump(mode="json")}
    assert http.put(f"/v1/jobs/{job_id.upper()}", json=body).status_code == 201
    assert http.put(f"/v1/jobs/{job_id}", json=body).status_code == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "The request is not JSON"),
        (b"{", "The request is not JSON"),
        (b"\xff\xfe", "The request is not JSON"),
        (b"[]", ""),
        (b"{}", "request"),
        (
            b'{"request": {"num_steps": 0}}',
            "The number of steps cannot be 0: it must be a whole number from 1 to 200",
        ),
        (b'{"request": {"strength": NaN}}', "Strength"),
        (b'{"request": {"width_px": 1000000}}', "The width cannot be 1000000"),
        (b'{"request": {"colour": 1}}', "Colour is not a part of a request"),
        (b'{"request": {}, "lane": "fast"}', "Lane cannot be 'fast'"),
        (b'{"request": ' * 10_000, "The request is not JSON"),
    ],
)
def test_a_body_that_is_no_job_is_refused_with_a_sentence(http: httpx.Client, body: bytes, words: str):
    assert is_error(http.put(f"/v1/jobs/{uuid.uuid4()}", content=body), 422, words)


def test_a_prompt_of_a_million_characters_gets_one_short_sentence(http: httpx.Client):
    body = json.dumps({"request": {"prompt": "x" * 10**6}})
    assert is_error(http.put(f"/v1/jobs/{uuid.uuid4()}", content=body), 422, "Prompt")


def test_a_body_without_end_is_cut_off(http: httpx.Client):
    endless = (b" " * 2**20 for _ in range(64))
    assert is_error(http.put(f"/v1/jobs/{uuid.uuid4()}", content=endless), 413, "too long")


def test_what_is_not_there_is_said_in_the_same_form(http: httpx.Client):
    assert is_error(http.get(f"/v1/jobs/{uuid.uuid4()}"), 404, "no job")
    assert is_error(http.get("/v2/hello"), 404, "nothing here")
    assert is_error(http.delete("/v1/hello"), 405, "nothing here")
    assert is_error(http.get(f"/v1/blobs/{'0' * 64}"), 404, "no picture")
    assert is_error(http.get("/v1/events", headers={"Last-Event-ID": "1; 2"}), 422, "not the number")
