import resource
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from backends.service.journal import Entry, Journal
from flux_core.errors import Corrupt, RequestInvalid, StorageFull
from flux_core.messages import JobRecord, JobState, Lane
from flux_core.request import build_request


def entry(job_id: str = "a", state: JobState = JobState.QUEUED) -> Entry:
    record = JobRecord(
        job_id=job_id,
        seq=0,
        state=state,
        lane=Lane.BULK,
        request=build_request(prompt=job_id),
        created_at=1.0,
    )
    return Entry(record, fingerprint=job_id)


def test_every_change_gets_the_next_number_and_can_be_read_back(tmp_path: Path):
    journal = Journal(tmp_path / "j")
    first = journal.write(entry("a"))
    second = journal.write(entry("b"))
    third = journal.write(entry("a", JobState.RUNNING))
    assert [first.record.seq, second.record.seq, third.record.seq] == [1, 2, 3]
    assert third.number == first.number
    assert [event.record.state for event in journal.events_after(1) if event.record] == ["queued", "running"]
    journal.close()


def test_a_journal_opened_again_knows_everything_and_goes_on_counting(tmp_path: Path):
    journal = Journal(tmp_path / "j")
    journal.write(entry("a"))
    before = journal.entries()
    journal.close()
    journal = Journal(tmp_path / "j")
    assert journal.entries() == before
    assert journal.write(entry("b")).record.seq == 2
    journal.close()


def test_a_number_is_never_used_again_even_when_its_job_was_forgotten(tmp_path: Path):
    journal = Journal(tmp_path / "j")
    journal.write(entry("a"))
    journal.write(entry("b"))
    journal.remove(["b"])
    journal.close()
    journal = Journal(tmp_path / "j")
    assert [event.job_id for event in journal.events_after(0)] == ["a"]
    assert journal.write(entry("c")).record.seq == 3
    journal.close()


def test_a_running_job_waits_again_after_the_first_kill_and_fails_after_the_second(tmp_path: Path):
    journal = Journal(tmp_path / "j")
    journal.write(entry("b"))

    def run_and_get_killed(before: Entry) -> Entry:
        journal.write(replace(before, record=before.record.model_copy(update={"state": JobState.RUNNING})))
        journal.mark_begun("a")
        (recovered,) = journal.recover()
        return recovered

    recovered = run_and_get_killed(entry("a"))
    assert recovered.record.state is JobState.QUEUED
    failed = run_and_get_killed(recovered).record
    assert failed.state is JobState.FAILED
    assert failed.failed is not None
    assert failed.failed.code == "engine_died"
    assert "2 times" in failed.failed.message
    assert journal.recover() == []
    journal.close()


def test_a_job_that_no_engine_had_begun_may_wait_again_as_often_as_it_takes(tmp_path: Path):
    journal = Journal(tmp_path / "j")
    for _ in range(5):
        journal.write(entry("a", JobState.RUNNING))
        (recovered,) = journal.recover()
        assert recovered.record.state is JobState.QUEUED
    journal.close()


def test_a_full_disk_is_said_and_what_was_written_stays(tmp_path: Path):
    journal = Journal(tmp_path / "j")
    journal.write(entry("a"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "j-wal").stat().st_size, hard))
    try:
        with pytest.raises(StorageFull):
            journal.write(entry("b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert journal.write(entry("c")).record.seq == 2
    assert [event.job_id for event in journal.events_after(0)] == ["a", "c"]
    journal.close()


def test_a_damaged_journal_is_refused_with_a_sentence(tmp_path: Path):
    (tmp_path / "j").write_bytes(b"not a database at all" * 100)
    with pytest.raises(Corrupt, match="damaged") as caught:
        Journal(tmp_path / "j")
    assert "Move it away" in caught.value.hint


def test_a_journal_from_the_future_is_refused(tmp_path: Path):
    database = sqlite3.connect(tmp_path / "j")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(RequestInvalid, match="newer version"):
        Journal(tmp_path / "j")
