from __future__ import annotations

import uuid

import numpy as np
import pytest

from desktop.document import commands, mask
from desktop.document.geometry import Rect
from desktop.jobs.pending import PendingJob, PendingStore
from desktop.jobs.plan import prepare
from desktop.jobs.wish import Action, Wish
from flux_core.catalog import TINY
from flux_core.errors import Corrupt


@pytest.fixture
def job(photo) -> PendingJob:
    commands.set_selection(photo, mask.select_rect(Rect(10, 20, 50, 40)))
    prepared = prepare(photo.committed_state, Wish(prompt="a boat", seed=7), TINY)
    return PendingJob(str(uuid.uuid4()), "abc", prepared)


@pytest.fixture
def store(tmp_path) -> PendingStore:
    return PendingStore(tmp_path / "jobs")


def test_a_job_comes_back_whole(store, job):
    store.keep(job)
    found = store.read(job.job_id)
    assert found is not None
    assert found.document_id == "abc"
    assert found.prepared.request == job.prepared.request
    assert found.prepared.image_png == job.prepared.image_png
    assert found.prepared.mask_png == job.prepared.mask_png
    assert found.prepared.plan.box == job.prepared.plan.box
    assert found.prepared.plan.core == job.prepared.plan.core
    assert found.prepared.plan.scale == job.prepared.plan.scale
    assert np.array_equal(found.prepared.plan.alpha, job.prepared.plan.alpha)
    assert np.array_equal(found.prepared.plan.work_mask, job.prepared.plan.work_mask)
    assert np.array_equal(found.prepared.piece, job.prepared.piece)


def test_the_stages_that_are_left_come_back_with_a_job(store, photo):
    prepared = prepare(photo.committed_state, Wish(action=Action.UPSCALE, scale=4, strength=0.3), TINY)
    job = PendingJob(str(uuid.uuid4()), "abc", prepared)
    store.keep(job)
    assert store.read(job.job_id).prepared.rest == prepared.rest != ()


def test_jobs_are_found_by_their_document(store, job):
    store.keep(job)
    assert [one.job_id for one in store.of_document("abc")] == [job.job_id]
    assert list(store.of_document("other")) == []


def test_a_forgotten_job_is_gone_and_forgetting_twice_is_fine(store, job):
    store.keep(job)
    store.forget(job.job_id)
    store.forget(job.job_id)
    assert store.read(job.job_id) is None
    assert store.ids() == ()


@pytest.mark.parametrize("name", ["job.json", "arrays.npz", "image.png"])
def test_a_damaged_job_is_named_and_skipped(store, job, tmp_path, name):
    store.keep(job)
    file = tmp_path / "jobs" / job.job_id / name
    if name == "image.png":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(Corrupt, match="cannot be read"):
        store.read(job.job_id)
    assert list(store.of_document("abc")) == []


def test_strange_folders_are_no_jobs(store, job, tmp_path):
    store.keep(job)
    (tmp_path / "jobs" / "notes").mkdir()
    (tmp_path / "jobs" / "notes" / "job.json").write_text("{}")
    assert store.ids() == (job.job_id,)
