"""What a client can count on, against a real service with a real engine process."""

import os
import signal
import threading
import time
import uuid
from pathlib import Path

import pytest

from backends.remote.client import ServiceClient
from flux_core.errors import RequestInvalid
from flux_core.messages import JobEvent, JobState, Lane
from flux_core.request import GenerationRequest, Task, build_request
from tests.support.fake_engine import expected_png
from tests.support.service_process import ServiceProcess, eventually, running


def request(prompt: str = "", **fields: object) -> GenerationRequest:
    return build_request(prompt=prompt, width_px=64, height_px=64, **fields)


def hold(client: ServiceClient, gate: Path) -> str:
    """Keeps the engine busy until `gate` exists; returns when it is."""
    job_id = client.submit(request(f"until={gate}")).job_id
    eventually(lambda: client.job(job_id).progress is not None)
    return job_id


def test_a_job_that_is_sent_comes_back_as_a_picture(client: ServiceClient, tmp_path: Path):
    events: list[JobEvent] = []
    is_followed = tmp_path / "followed"

    def follow() -> bool:  # the job must not end before anybody listens
        is_followed.touch()
        return False

    apple = request(f"an apple until={is_followed}", seed=7)
    sent = client.submit(apple)
    record = client.wait(sent.job_id, events.append, follow)
    assert record.state is JobState.DONE
    assert record.finished is not None
    assert client.get_blob(record.finished.images[0].sha256) == expected_png(apple)
    assert record.finished.images[0].seed == 7
    assert events[-1].record == record
    assert client.job(sent.job_id) == record


def test_pictures_that_a_job_needs_are_sent_once_and_found(client: ServiceClient):
    picture, mask = client.put_blob(b"picture"), client.put_blob(b"mask")
    assert client.put_blob(b"picture") == picture
    record = client.submit(request(task=Task.FILL, image=picture, mask=mask))
    assert client.wait(record.job_id).state is JobState.DONE


def test_a_job_whose_picture_was_not_sent_is_refused(client: ServiceClient):
    with pytest.raises(RequestInvalid, match="was not sent"):
        client.submit(request(task=Task.TRANSFORM, image="0" * 64))


def test_the_same_job_sent_twice_is_one_job(client: ServiceClient):
    job_id = str(uuid.uuid4())
    client.submit(request("twice"), job_id)
    done = client.wait(job_id)
    assert client.submit(request("twice"), job_id) == done
    assert [record.job_id for record in client.jobs()].count(job_id) == 1


def test_a_different_job_under_the_same_id_is_refused(client: ServiceClient):
    record = client.submit(request("one"))
    with pytest.raises(RequestInvalid, match="already another job"):
        client.submit(request("two"), record.job_id)


def test_a_model_or_engine_that_nobody_knows_is_refused(client: ServiceClient):
    with pytest.raises(RequestInvalid, match="no model called"):
        client.submit(request(model="flux9"))
    with pytest.raises(RequestInvalid, match="no engine called"):
        client.submit(request(), engine="os:system")
    assert client.wait(client.submit(request(), engine=client.hello().engines[-1].name).job_id).finished


def test_a_running_job_stops_within_a_second_of_its_cancel(client: ServiceClient):
    job_id = client.submit(request("hang")).job_id
    eventually(lambda: client.job(job_id).progress is not None)
    started_at = time.monotonic()
    client.cancel(job_id)
    record = client.wait(job_id)
    assert time.monotonic() - started_at < 1.0
    assert record.state is JobState.CANCELLED
    assert client.cancel(job_id) == record


def test_waiting_can_be_called_off(client: ServiceClient):
    seen = threading.Event()
    job_id = client.submit(request("hang")).job_id
    record = client.wait(job_id, lambda _: seen.set(), seen.is_set)
    assert record.state is JobState.CANCELLED


def test_a_waiting_job_is_cancelled_at_once_and_never_runs(client: ServiceClient, gate: Path, tmp_path: Path):
    first = hold(client, gate)
    second = client.submit(request(f"note={tmp_path / 'note'}")).job_id
    assert client.cancel(second).state is JobState.CANCELLED
    gate.touch()
    client.wait(first)
    client.wait(client.submit(request()).job_id)
    assert not (tmp_path / "note").exists()


def test_waiting_jobs_run_by_lane_and_order_and_can_change_until_they_run(
    client: ServiceClient, gate: Path, tmp_path: Path
):
    note = tmp_path / "note"
    first = hold(client, gate)

    def add(seed: int, lane: Lane, order: int = 0) -> str:
        return client.submit(request(f"note={note}", seed=seed), lane=lane, order=order).job_id

    jobs = [add(1, Lane.BULK), add(2, Lane.BULK, -1), add(3, Lane.INTERACTIVE), add(4, Lane.BULK)]
    assert [client.job(job_id).position for job_id in jobs] == [2, 1, 0, 3]
    client.edit(jobs[3], lane=Lane.INTERACTIVE, order=-5)
    client.edit(jobs[0], request=request(f"note={note}", seed=11))
    assert [client.job(job_id).position for job_id in jobs] == [3, 2, 1, 0]
    with pytest.raises(RequestInvalid, match="only a waiting job"):
        client.edit(first, order=1)
    gate.touch()
    for job_id in jobs:
        assert client.wait(job_id).state is JobState.DONE
    assert note.read_text().split() == ["4", "3", "2", "11"]


def test_only_a_job_that_has_ended_can_be_acknowledged(client: ServiceClient, gate: Path):
    job_id = hold(client, gate)
    with pytest.raises(RequestInvalid, match="not ended"):
        client.ack(job_id)
    gate.touch()
    client.wait(job_id)
    record = client.ack(job_id)
    assert record.is_acknowledged
    assert client.ack(job_id) == record


def test_previews_come_at_most_three_a_second_and_never_after_the_end(client: ServiceClient):
    events: list[JobEvent] = []
    job_id = client.submit(request("steps=40 step_s=0.025")).job_id
    started_at = time.monotonic()
    client.wait(job_id, events.append)
    seconds = time.monotonic() - started_at
    previews = [event for event in events if event.preview is not None]
    assert 2 <= len(previews) <= 3 * seconds + 1
    assert events[-1].kind == "state"


def test_a_killed_engine_costs_its_job_and_nothing_else(tmp_path: Path):
    with running(tmp_path) as (service, client):
        done = client.wait(client.submit(request("before")).job_id)
        job_id = client.submit(request("hang")).job_id
        eventually(lambda: client.job(job_id).progress is not None)
        (engine_pid,) = service.engine_pids()
        waiting = client.submit(request("after"))
        os.kill(engine_pid, signal.SIGKILL)
        record = client.wait(job_id)
        assert record.state is JobState.FAILED
        assert record.failed is not None
        assert record.failed.code == "engine_died"
        assert "SIGKILL" in record.failed.message
        assert client.wait(waiting.job_id).state is JobState.DONE
        assert client.job(done.job_id) == done
        assert service.engine_pids() != [engine_pid]
        assert client.hello().state in ("ready", "busy")


def test_two_workers_run_two_jobs_at_a_time(tmp_path: Path):
    gate = tmp_path / "gate"
    with running(tmp_path / "home", "--workers", "2") as (service, client):
        jobs = [client.submit(request(f"until={gate}", seed=seed)).job_id for seed in range(3)]
        eventually(lambda: [client.job(job).progress is not None for job in jobs] == [True, True, False])
        assert client.hello().state == "busy"
        assert len(service.engine_pids()) == 2
        gate.touch()
        assert all(client.wait(job).state is JobState.DONE for job in jobs)


def test_hello_says_who_is_there(client: ServiceClient, shared_service: ServiceProcess):
    client.wait(client.submit(request()).job_id)
    hello = client.hello()
    assert hello.protocol == 1
    assert hello.devices[0].name == "Fake"
    assert {"torch", "mlx"} <= {engine.name for engine in hello.engines}
    assert "events.replay" in hello.capabilities
    assert "tiny" in {model.model for model in hello.models}


def test_the_log_holds_no_prompt(client: ServiceClient, shared_service: ServiceProcess):
    client.wait(client.submit(request("my secret garden")).job_id)
    with pytest.raises(RequestInvalid):
        client.submit(request("my secret garden", model="flux9"))
    logs = "".join(path.read_text() for path in shared_service.folder.logs.iterdir())
    assert "job changed" in logs
    assert "secret" not in logs
