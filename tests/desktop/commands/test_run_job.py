"""A command that waits for its job waits through the death of the service."""

import threading

import pytest

from backends.service.state_folder import Endpoint
from desktop.commands.run_job import wait_through
from flux_core.errors import ConnectionLost
from flux_core.messages import JobState
from flux_core.request import build_request
from tests.support.service_process import running

PATIENCE_S = 0.5


@pytest.fixture
def job(tmp_path):
    """A service whose job runs until a file appears: (service, client, job id, the file, it runs)."""
    go_on = tmp_path / "go-on"
    with running(tmp_path / "home") as (service, client):
        runs = threading.Event()

        def watch(event):
            if event.progress is not None or (event.record and event.record.state is JobState.RUNNING):
                runs.set()

        job_id = client.submit(build_request(prompt=f"until={go_on}")).job_id
        yield service, client, job_id, go_on, runs, watch


def _kill_once_it_runs(service, runs):
    def kill():
        runs.wait(timeout=30)
        service.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_a_killed_service_is_started_again_and_the_job_ends_as_if_nothing_had_been(job):
    service, client, job_id, go_on, runs, watch = job
    killer = _kill_once_it_runs(service, runs)

    def revive() -> Endpoint:
        go_on.touch()
        return service.start().endpoint

    record = wait_through(client, job_id, watch, lambda: False, patience_s=PATIENCE_S, revive=revive)
    killer.join()
    assert record.state is JobState.DONE


def test_the_silence_of_a_service_that_is_not_ours_is_said(job):
    service, client, job_id, _, runs, watch = job
    killer = _kill_once_it_runs(service, runs)
    elsewhere = Endpoint(url="http://127.0.0.1:1", token="t")
    with pytest.raises(ConnectionLost):
        wait_through(client, job_id, watch, lambda: False, patience_s=PATIENCE_S, revive=lambda: elsewhere)
    killer.join()
