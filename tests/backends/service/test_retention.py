from backends.service.blobs import BlobInfo
from backends.service.journal import Entry
from backends.service.retention import DAY_S, Retention, plan_removal
from flux_core.messages import Finished, JobRecord, JobState, Lane, ResultImage
from flux_core.request import build_request

NOW = 1_000 * DAY_S
RULE = Retention(acknowledged_s=7 * DAY_S, unused_blob_s=3600, max_bytes=1000)


def job(name: str, made: str, acknowledged_at: float | None) -> Entry:
    image = ResultImage(sha256=made * 64, width_px=1, height_px=1, seed=0)
    record = JobRecord(
        job_id=name,
        seq=1,
        state=JobState.DONE,
        lane=Lane.BULK,
        request=build_request(),
        created_at=0.0,
        finished=Finished(images=(image,)),
    )
    return Entry(record, "", acknowledged_at=acknowledged_at)


def blobs(*names: str, size_bytes: int = 10, used_at: float = 0.0) -> dict[str, BlobInfo]:
    return {name * 64: BlobInfo(size_bytes, used_at) for name in names}


def test_a_result_that_nobody_acknowledged_stays_for_ever():
    removal = plan_removal([job("old", "a", None)], blobs("a", size_bytes=10**9), NOW, RULE)
    assert removal.job_ids == ()
    assert removal.blobs == ()


def test_an_acknowledged_job_goes_after_its_time_together_with_its_picture():
    entries = [job("old", "a", NOW - 8 * DAY_S), job("new", "b", NOW - 6 * DAY_S)]
    removal = plan_removal(entries, blobs("a", "b"), NOW, RULE)
    assert removal.job_ids == ("old",)
    assert removal.blobs == ("a" * 64,)


def test_a_picture_that_another_job_still_has_stays():
    entries = [job("old", "a", NOW - 8 * DAY_S), job("kept", "a", None)]
    removal = plan_removal(entries, blobs("a"), NOW, RULE)
    assert removal.job_ids == ("old",)
    assert removal.blobs == ()


def test_over_the_bound_what_was_acknowledged_first_goes_first_and_no_more_than_needed():
    entries = [job("c", "c", NOW - 10), job("a", "a", NOW - 30), job("b", "b", NOW - 20)]
    removal = plan_removal(entries, blobs("a", "b", "c", size_bytes=400), NOW, RULE)
    assert removal.job_ids == ("a",)
    assert removal.blobs == ("a" * 64,)


def test_a_picture_sent_a_moment_ago_waits_for_its_job():
    removal = plan_removal([], blobs("a", used_at=NOW - 60) | blobs("b"), NOW, RULE)
    assert removal.blobs == ("b" * 64,)
