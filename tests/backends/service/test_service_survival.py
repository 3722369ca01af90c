"""A service that is killed at any moment loses nothing, doubles nothing, and says so."""

import random
import sqlite3
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest

from backends.remote.client import ServiceClient
from backends.service.journal import Journal
from flux_core.errors import ConnectionLost
from flux_core.messages import JobEvent, JobState
from flux_core.request import build_request
from tests.support.fake_engine import expected_png
from tests.support.service_process import ServiceProcess, eventually


def prompt(words: str, seed: int = 0):
    return build_request(prompt=words, seed=seed, width_px=64, height_px=64)


def states_of(service: ServiceProcess, job_id: str) -> list[JobState]:
    journal = Journal(service.folder.journal)
    events = journal.events_after(0, 10_000)
    journal.close()
    return [event.record.state for event in events if event.job_id == job_id and event.record]


def test_a_service_killed_in_the_middle_of_a_job_runs_it_again_and_loses_no_result(tmp_path: Path):
    gate, service = tmp_path / "gate", ServiceProcess(tmp_path / "home")
    with service, service.client() as client:
        done = client.wait(client.submit(prompt("first")).job_id)
        running = client.submit(prompt(f"until={gate}")).job_id
        waiting = client.submit(prompt("third")).job_id
        eventually(lambda: client.job(running).progress is not None)
        service.kill()
        gate.touch()
        service.start()
        assert client.job(done.job_id) == done
        assert client.wait(running).state is JobState.DONE
        assert client.wait(waiting).state is JobState.DONE
        assert done.finished is not None
        assert client.get_blob(done.finished.images[0].sha256) == expected_png(prompt("first"))
        service.stop()
    assert states_of(service, running) == ["queued", "running", "queued", "running", "done"]
    assert states_of(service, waiting) == ["queued", "running", "done"]


def test_a_service_that_is_told_to_end_puts_its_job_back_and_ends_its_engine(tmp_path: Path):
    gate, service = tmp_path / "gate", ServiceProcess(tmp_path / "home")
    with service, service.client() as client:
        job_id = client.submit(prompt(f"until={gate}")).job_id
        for _ in range(2):  # more often than a killed service would get away with
            eventually(lambda: client.job(job_id).progress is not None)
            assert service.stop() == 0
            assert states_of(service, job_id)[-1] is JobState.QUEUED
            service.start()
        gate.touch()
        assert client.wait(job_id).state is JobState.DONE


def test_a_job_that_takes_the_service_down_twice_is_given_up(tmp_path: Path):
    service = ServiceProcess(tmp_path)
    with service, service.client() as client:
        job_id = client.submit(prompt("hang")).job_id
        for _ in range(2):
            eventually(lambda: client.job(job_id).progress is not None)
            service.kill()
            service.start()
        record = client.job(job_id)
        assert record.state is JobState.FAILED
        assert record.failed is not None
        assert "2 times" in record.failed.message
        assert client.wait(client.submit(prompt("next")).job_id).state is JobState.DONE


def test_a_service_that_can_no_longer_write_its_journal_ends_and_says_why(tmp_path: Path):
    gate, service = tmp_path / "gate", ServiceProcess(tmp_path / "home")
    with service, service.client() as client:
        job_id = client.submit(prompt(f"until={gate}")).job_id
        eventually(lambda: client.job(job_id).progress is not None)
        database = sqlite3.connect(service.folder.journal)
        database.execute("DROP TABLE events")
        database.close()
        gate.touch()
        assert service.wait() == 2
    assert "journal.sqlite3 cannot be used" in (tmp_path / "home" / "stderr.txt").read_text()


def test_an_engine_does_not_outlive_its_service(tmp_path: Path):
    with ServiceProcess(tmp_path) as service, service.client() as client:
        job_id = client.submit(prompt("deaf")).job_id
        eventually(lambda: client.job(job_id).progress is not None)
        (engine_pid,) = service.engine_pids()
        service.kill()
        eventually(lambda: not _is_alive(engine_pid))


def test_a_client_that_comes_back_hears_what_it_missed_exactly_once(tmp_path: Path):
    with ServiceProcess(tmp_path) as service, service.client() as client:
        heard: list[JobEvent] = []
        first = client.submit(prompt("1"))
        for event in client.events():
            heard.append(event)
            if event.record and event.record.state.is_final:
                break
        client.wait(client.submit(prompt("2")).job_id)  # while nobody listens
        service.kill()
        service.start()
        last = client.submit(prompt("3"))
        since = max(event.seq for event in heard)
        for event in client.events(since):
            heard.append(event)
            if event.job_id == last.job_id and event.record and event.record.state.is_final:
                break
        seqs = [event.seq for event in heard if event.kind == "state"]
        assert seqs == list(range(1, 10))
        assert heard[0].job_id == first.job_id


def test_a_listener_hears_everything_once_while_the_service_is_killed_under_it(tmp_path: Path):
    with ServiceProcess(tmp_path) as service, service.client() as client:
        stop, heard = threading.Event(), []

        def listen() -> None:
            for event in client.events(0, stop):
                if event.kind == "state":
                    heard.append(event.seq)

        listener = threading.Thread(target=listen)
        listener.start()
        client.wait(client.submit(prompt("1")).job_id)
        service.kill()
        service.start()
        last = client.wait(client.submit(prompt("2")).job_id)
        eventually(lambda: last.seq in heard)
        stop.set()
        listener.join(timeout=2)
        assert not listener.is_alive()
        assert heard == list(range(1, last.seq + 1))


@pytest.mark.slow
def test_killed_at_ten_random_moments_the_journal_holds_every_job_that_was_sent_once(tmp_path: Path):
    dice, sender_dice = random.Random(20), random.Random(21)
    service, sent, stop = ServiceProcess(tmp_path), [], threading.Event()

    def send(client: ServiceClient) -> None:
        for seed in range(30):
            job_id = str(uuid.uuid4())
            while not _sent(client, job_id, seed):
                if stop.wait(0.02):
                    return
            sent.append((job_id, seed))
            stop.wait(sender_dice.random() * 0.5)

    with service, service.client() as client:
        sender = threading.Thread(target=send, args=(client,))
        sender.start()
        for _ in range(10):
            time.sleep(dice.random() * 0.6)  # the moment is what is random here
            service.kill()
            service.start()
        stop.set()
        sender.join()
        records = {job_id: client.wait(job_id) for job_id, _ in sent}
        for job_id, seed in sent:
            finished = records[job_id].finished
            if finished is None:  # killed twice while it ran, which it says
                failed = records[job_id].failed
                assert failed is not None
                assert "2 times" in failed.message
            else:
                assert client.get_blob(finished.images[0].sha256) == expected_png(_random_job(seed))
        assert len(sent) > 5
        assert sum(record.finished is not None for record in records.values()) >= len(sent) - 3
        service.stop()
    _check_journal(service, {job_id for job_id, _ in sent})


def _random_job(seed: int):
    return prompt("steps=5 step_s=0.01", seed)


def _sent(client: ServiceClient, job_id: str, seed: int) -> bool:
    try:
        client.submit(_random_job(seed), job_id)
    except ConnectionLost:
        return False
    return True


def _check_journal(service: ServiceProcess, sent: set[str]) -> None:
    journal = Journal(service.folder.journal)
    entries, events = journal.entries(), journal.events_after(0, 100_000)
    journal.close()
    arrived = [entry.record.job_id for entry in entries]
    assert len(arrived) == len(set(arrived))
    assert sent <= set(arrived)
    assert len(set(arrived) - sent) <= 1  # the last one may have arrived unanswered
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    ends = Counter(event.job_id for event in events if event.record and event.record.state.is_final)
    assert all(count == 1 for count in ends.values())
    database = sqlite3.connect(service.folder.journal)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
