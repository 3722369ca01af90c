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
    """A service whose job runs until a file appears: (service, client, job id, the file, ...)."""
    go_on = tmp_path / "go-on"
    with running(tmp_path / "home") as (service, client):
        is_followed = threading.Event()

        def follow() -> bool:
            is_followed.set()
            return False

        job_id = client.submit(build_request(prompt=f"until={go_on}")).job_id
        yield service, client, job_id, go_on, is_followed, follow


def _ignore(event) -> None:
    pass


def _kill_once_it_is_followed(service, is_followed):
    def kill():
        is_followed.wait(timeout=30)
        service.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_a_killed_service_is_started_again_and_the_job_ends_as_if_nothing_had_been(job):
    service, client, job_id, go_on, is_followed, follow = job
    killer = _kill_once_it_is_followed(service, is_followed)

    def revive() -> Endpoint:
        go_on.touch()
        return service.start().endpoint

    record = wait_through(client, job_id, _ignore, follow, patience_s=PATIENCE_S, revive=revive)
    killer.join()
    assert record.state is JobState.DONE


def test_the_silence_of_a_service_that_is_not_ours_is_said(job):
    service, client, job_id, _, is_followed, follow = job
    killer = _kill_once_it_is_followed(service, is_followed)
    elsewhere = Endpoint(url="http://127.0.0.1:1", token="t")
    with pytest.raises(ConnectionLost):
        wait_through(client, job_id, _ignore, follow, patience_s=PATIENCE_S, revive=lambda: elsewhere)
    killer.join()
