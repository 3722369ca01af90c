"""What the controller knows: jobs that have not ended, documents that are open, results handed out.

One small store with one lock, used from the GUI thread and both of the controller's threads. Every change
of a job is said from here, so nobody shows an older state than the book holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from desktop.jobs.job import Job, JobChanged, Phase
from desktop.jobs.plan import Prepared
from flux_core.messages import JobRecord


class JobBook:
    """The jobs of all documents.

    Args:
        say: Receives a JobChanged for each change.
    """

    def __init__(self, say: Callable[[JobChanged], None]) -> None:
        self._say = say
        self._lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        self._prepared: dict[str, Prepared] = {}
        self._heard: dict[str, int] = {}  # job id -> number of the newest change of the service
        self._delivered: dict[str, str] = {}  # job id -> document id, until the layer is on disk
        self._open: dict[str, frozenset[str]] = {}  # document id -> layers it was opened with

    # -- jobs --------------------------------------------------------------------------------------

    def jobs(self) -> tuple[Job, ...]:
        """Those that have not ended, oldest first."""
        with self._lock:
            return tuple(self._jobs.values())

    def get(self, job_id: str) -> Job | None:
        with self._lock:
            return self._jobs.get(job_id)

    def is_wanted(self, job_id: str) -> bool:
        """Whether the job has not ended and is not being cancelled."""
        job = self.get(job_id)
        return job is not None and job.phase is not Phase.CANCELLING

    def add(self, job: Job) -> None:
        with self._lock:
            self._jobs[job.id] = job
        self._say(JobChanged(job))

    def update(self, job_id: str, **changes: Any) -> bool:
        """Changes what is known of a job; False if it has ended. One being cancelled keeps that phase."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None:
                return False
            if job.phase is Phase.CANCELLING:
                changes.pop("phase", None)
            changed = replace(job, **changes)
            if changed == job:
                return True
            self._jobs[job_id] = changed
        self._say(JobChanged(changed))
        return True

    def drop(self, job_id: str) -> None:
        """The job has ended."""
        with self._lock:
            for kept in (self._jobs, self._prepared, self._heard):
                kept.pop(job_id, None)

    def prepared(self, job_id: str) -> Prepared | None:
        """How the job was sent."""
        with self._lock:
            return self._prepared.get(job_id)

    def set_prepared(self, job_id: str, prepared: Prepared) -> None:
        with self._lock:
            self._prepared[job_id] = prepared

    # -- what was heard ------------------------------------------------------------------------------

    def hear(self, job_id: str, seq: int) -> bool:
        """Remembers the number of a change; returns whether it is newer than all before."""
        with self._lock:
            newest = self._heard.get(job_id, 0)
            self._heard[job_id] = max(seq, newest)
            return seq > newest

    def is_news(self, record: JobRecord) -> bool:
        """Records wait for the worker and progress does not, so an older record must not undo it."""
        return self.hear(record.job_id, record.seq)

    def forget_heard(self) -> None:
        """Another service may count from the beginning."""
        with self._lock:
            self._heard.clear()

    # -- documents -----------------------------------------------------------------------------------

    def open_document(self, document_id: str, layers: Iterable[str]) -> None:
        """A document is open and holds these layers."""
        with self._lock:
            self._open[document_id] = frozenset(layers)

    def close_document(self, document_id: str) -> None:
        """A document is closed; its jobs are no longer shown, what it was handed may be handed out again."""
        with self._lock:
            self._open.pop(document_id, None)
            for job_id in [job.id for job in self._jobs.values() if job.document_id == document_id]:
                self.drop(job_id)
            for job_id in [one for one, owner in self._delivered.items() if owner == document_id]:
                del self._delivered[job_id]

    def open_documents(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._open)

    def layers_of(self, document_id: str) -> frozenset[str]:
        """The layers that a document was opened with."""
        with self._lock:
            return self._open.get(document_id, frozenset())

    def deliver(self, job_id: str, document_id: str) -> bool:
        """Ends a job with a result; returns whether its document is there to take it."""
        with self._lock:
            self.drop(job_id)
            if document_id not in self._open:
                return False
            self._delivered[job_id] = document_id
            return True

    def is_delivered(self, job_id: str) -> bool:
        with self._lock:
            return job_id in self._delivered

    def settle(self, job_id: str) -> None:
        """The result is on disk."""
        with self._lock:
            self._delivered.pop(job_id, None)
