"""The job service itself: what may be asked of it, and what it does with a job from arrival to end.

Everything here happens on one event loop. A change is written to the journal first and announced
after; the pools do the work; HTTP is somebody else's business (app.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.metadata
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from backends.engines import engine_infos
from backends.service.blobs import BlobStore
from backends.service.events import EventHub
from backends.service.journal import Entry, Journal
from backends.service.pool import WorkerPool
from backends.service.refusals import Conflict, Refused, Unknown
from backends.service.retention import Retention, plan_removal
from backends.service.scheduler import JobQueue, Ticket
from flux_core import catalog
from flux_core.errors import Cancelled, FluxError, Internal, StorageFull
from flux_core.messages import (
    PROTOCOL_VERSION,
    EngineInfo,
    Failed,
    Finished,
    Hello,
    JobEdit,
    JobEvent,
    JobRecord,
    JobState,
    JobSubmission,
    ModelInfo,
    Preview,
    Progress,
    ServiceHealth,
)
from flux_core.request import GenerationRequest

CAPABILITIES = ("blobs.resume", "events.replay", "jobs.edit", "jobs.lanes", "previews")

_WRITE_RETRY_S = 2.0
_TIDY_EVERY_S = 3600.0

log = logging.getLogger("flowbrush.service.jobs")

# Opens the pool of an engine; the second argument is called whenever a worker's state changes.
OpenPool = Callable[[str, Callable[[], None]], WorkerPool]


@dataclass(slots=True)
class _Running:
    engine: str
    progress: Progress | None = None
    is_cancelled: bool = False
    has_begun: bool = False


class JobService:
    """Takes jobs, runs them in order, remembers what became of them.

    Args:
        journal: What survives; what a killed service left running in it waits again.
        blobs: Pictures in and out.
        open_pool: Makes the workers of an engine.
        engine: The engine for jobs that name none.
        models: Lists the models there are.
        retention: What may be forgotten.
    """

    def __init__(
        self,
        journal: Journal,
        blobs: BlobStore,
        open_pool: OpenPool,
        engine: str,
        models: Callable[[], tuple[ModelInfo, ...]],
        retention: Retention | None = None,
    ) -> None:
        self._journal = journal
        self.blobs = blobs
        self.events = EventHub(journal, self.health)
        self._open_pool = open_pool
        self._engine = engine
        self._models = models
        self._retention = retention or Retention()
        self._queue = JobQueue()
        self._running: dict[str, _Running] = {}
        self._pools: dict[str, WorkerPool] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.failure: FluxError | None = (
            None  # why the service cannot go on; a new one starts from the journal
        )
        for entry in journal.recover():
            log.info("job recovered", extra={"job_id": entry.record.job_id, "state": entry.record.state})

    async def start(self) -> None:
        """Goes on with the jobs that wait; the processes of the default engine have begun when it returns."""
        await asyncio.wait({self._begin_engine(self._engine)})
        for entry in self._journal.entries():
            if entry.record.state is JobState.QUEUED:
                self._enqueue(entry)
        self._spawn(self._tidy_regularly())

    async def stop(self) -> None:
        """Stops working; what runs goes back to the queue for the next service."""
        self.events.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(FluxError):  # the next service finds them running and does the same
            for entry in map(self._entry, self._running):
                if entry.record.state is JobState.RUNNING:
                    self._journal.write(replace(entry, record=_changed(entry.record, state=JobState.QUEUED)))
        await asyncio.gather(*(pool.stop() for pool in self._pools.values()))
        self._journal.close()

    @property
    def is_idle(self) -> bool:
        """Whether no job runs or waits."""
        return not self._running and not len(self._queue)

    async def hello(self) -> Hello:
        """Who this is and what it can do."""
        models = await asyncio.to_thread(self._models)
        health = self.health()
        return Hello(
            protocol=PROTOCOL_VERSION,
            version=importlib.metadata.version("flowbrush"),
            devices=tuple(device for pool in self._pools.values() for device in pool.devices),
            engines=self._engine_infos(),
            capabilities=CAPABILITIES,
            models=models,
            state=health.state,
            engine_detail=health.detail,
        )

    def health(self) -> ServiceHealth:
        """How the engines are: the worst that a new job would meet."""
        states = {pool.state for pool in self._pools.values()}
        detail = "\n".join(pool.detail for pool in self._pools.values() if pool.detail)
        for state in ("engine_died", "loading", "busy"):
            if state in states:
                return ServiceHealth(state=state, detail=detail)
        return ServiceHealth(detail=detail)

    def jobs(self) -> list[JobRecord]:
        """Every job, in order of arrival."""
        positions = self._queue.positions()
        return [self._shown(entry.record, positions) for entry in self._journal.entries()]

    def job(self, job_id: str) -> JobRecord:
        """One job; raises Unknown."""
        return self._shown(self._entry(job_id).record, self._queue.positions())

    def submit(self, job_id: str, submission: JobSubmission) -> tuple[JobRecord, bool]:
        """Takes a job.

        Returns:
            What it is now, and whether it is new: the same submission again changes nothing.

        Raises:
            Conflict: The id belongs to a different job.
            RequestInvalid: Its model or engine is not known, or a picture was not sent.
        """
        fingerprint = hashlib.sha256(submission.request.model_dump_json().encode()).hexdigest()
        known = self._journal.find(job_id)
        if known is not None:
            if known.fingerprint != fingerprint:
                raise Conflict(f"There is already another job {job_id}.", "Use a new id for a new job.")
            return self.job(job_id), False
        self._check(submission.request)
        self._check_engine(submission.engine)
        record = JobRecord(
            job_id=job_id,
            seq=0,
            state=JobState.QUEUED,
            lane=submission.lane,
            request=submission.request,
            created_at=time.time(),
            order=submission.order,
            engine=submission.engine,
        )
        entry = self._journal.write(Entry(record, fingerprint))
        self._announce(entry)
        self._enqueue(entry)
        return self.job(job_id), True

    def edit(self, job_id: str, edit: JobEdit) -> JobRecord:
        """Changes a job that still waits.

        Raises:
            Conflict: It waits no longer.
            RequestInvalid: As `submit`.
        """
        entry = self._entry(job_id)
        if entry.record.state is not JobState.QUEUED or job_id in self._running:
            hint = "Cancel it and send a new one."
            raise Conflict(f"The job is {entry.record.state.value}; only a waiting job can change.", hint)
        if edit.request is not None:
            self._check(edit.request)
        entry = self._write(
            entry, **edit.model_dump(exclude_none=True, exclude={"request"}), request=edit.request
        )
        self._enqueue(entry)
        return self.job(job_id)

    def cancel(self, job_id: str) -> JobRecord:
        """Asks that a job stop. One that waits is over at once, one that has ended stays as it is."""
        entry = self._entry(job_id)
        running = self._running.get(job_id)
        if running is not None:
            running.is_cancelled = True
            self._pools[running.engine].cancel(job_id)
        elif entry.record.state is JobState.QUEUED:
            self._write(entry, **_ended(_cancelled()))
            self._queue.remove(job_id)
        return self.job(job_id)

    def acknowledge(self, job_id: str) -> JobRecord:
        """The client has the result; from now on it may be forgotten.

        Raises:
            Conflict: The job has not ended.
        """
        entry = self._entry(job_id)
        if not entry.record.state.is_final:
            raise Conflict("The job has not ended yet.", "Wait for it, or cancel it.")
        if entry.acknowledged_at is None:
            self._write(replace(entry, acknowledged_at=time.time()), is_acknowledged=True)
        return self.job(job_id)

    def tidy(self, now: float) -> None:
        """Forgets what the retention rule allows at time `now` (seconds since the epoch)."""
        removal = plan_removal(self._journal.entries(), self.blobs.infos(), now, self._retention)
        self._journal.remove(removal.job_ids)
        for sha256 in removal.blobs:
            self.blobs.remove(sha256)
        self.blobs.remove_stale_uploads(self._retention.acknowledged_s)
        if removal.job_ids or removal.blobs:
            log.info("tidied", extra={"jobs": len(removal.job_ids), "blobs": len(removal.blobs)})

    async def _work(self, engine: str, pool: WorkerPool) -> None:
        """Carries out an engine's jobs one after the other; a pool has as many of these as it can run."""
        while True:
            job_id = await self._queue.take(engine)
            self._running[job_id] = running = _Running(engine)
            # From here until the end is written the job counts as running, also if this is cancelled.
            entry = await self._write_patiently(job_id, state=JobState.RUNNING)
            started_at = time.monotonic()
            outcome = await self._run(pool, entry.record, running)
            self.events.forget(job_id)
            entry = await self._write_patiently(job_id, **_ended(outcome))
            del self._running[job_id]
            seconds = round(time.monotonic() - started_at, 3)
            log.info("job ended", extra={"job_id": job_id, "state": entry.record.state, "seconds": seconds})

    async def _run(self, pool: WorkerPool, record: JobRecord, running: _Running) -> Finished | Failed:
        def pass_on(message: Progress | Preview) -> None:
            seq = self._journal.last_seq
            if not running.has_begun:
                running.has_begun = True
                with contextlib.suppress(FluxError):  # only missed if the service is killed as well
                    self._journal.mark_begun(record.job_id)
            if isinstance(message, Progress):
                running.progress = message
                event = JobEvent(seq=seq, job_id=record.job_id, kind="progress", progress=message)
            else:
                event = JobEvent(seq=seq, job_id=record.job_id, kind="preview", preview=message)
            self.events.say(event)

        if running.is_cancelled:
            return _cancelled()
        try:
            return await pool.run(record.job_id, record.request, pass_on)
        except Exception as err:
            log.exception("pool failed", extra={"job_id": record.job_id})
            reason = type(err).__name__
            return Failed.of(
                Internal(f"The service failed to run the job: {reason}.", "See the service's log.")
            )

    async def _write_patiently(self, job_id: str, **changes: Any) -> Entry:
        """Writes a change that has already happened: if the disk is full it waits until it is not."""
        while True:
            try:
                return self._write(self._entry(job_id), **changes)
            except StorageFull as err:
                log.warning("journal waits for space", extra={"reason": err.message})
                await asyncio.sleep(_WRITE_RETRY_S)

    def _write(self, entry: Entry, **changes: Any) -> Entry:
        given = {name: value for name, value in changes.items() if value is not None}
        written = self._journal.write(replace(entry, record=_changed(entry.record, **given)))
        self._announce(written)
        return written

    def _announce(self, entry: Entry) -> None:
        log.info("job changed", extra={"job_id": entry.record.job_id, "state": entry.record.state})
        self.events.wake()

    def _enqueue(self, entry: Entry) -> None:
        record = entry.record
        engine = record.engine or self._engine
        if engine not in self._pools:
            self._begin_engine(engine)
        self._queue.put(Ticket(record.job_id, engine, record.lane, record.order, entry.number))

    def _begin_engine(self, engine: str) -> asyncio.Task[None]:
        """Opens an engine's pool; what it gives is done when the workers' processes have begun."""
        pool = self._pools[engine] = self._open_pool(engine, self.events.wake)
        begun = self._spawn(pool.start())
        for _ in range(pool.capacity):
            self._spawn(self._work(engine, pool))
        return begun

    def _check(self, request: GenerationRequest) -> None:
        catalog.check_task(catalog.find(request.model), request.task)
        for sha256 in request.blobs:
            if not self.blobs.has(sha256):
                raise Refused(f"The picture {sha256[:12]} was not sent.", "Send it before the job.")

    def _check_engine(self, name: str) -> None:
        infos = self._engine_infos()
        offered = [info.name for info in infos if info.is_available]
        if name and name not in offered:
            reason = next((info.reason for info in infos if info.name == name), "")
            if reason:
                raise Refused(reason, f"Install it, or choose one of: {', '.join(offered)}.")
            hint = f"Choose one of: {', '.join(offered)}."
            raise Refused(f"The service has no engine called {name[:40]!r}.", hint)

    def _engine_infos(self) -> tuple[EngineInfo, ...]:
        infos = engine_infos()
        if self._engine in (info.name for info in infos):
            return infos
        return (*infos, EngineInfo(name=self._engine, is_available=True))

    def _entry(self, job_id: str) -> Entry:
        entry = self._journal.find(job_id)
        if entry is None:
            raise Unknown(f"There is no job {job_id}.", "List the jobs to see which there are.")
        return entry

    def _shown(self, record: JobRecord, positions: dict[str, int]) -> JobRecord:
        running = self._running.get(record.job_id)
        progress = running.progress if running else None
        return _changed(record, position=positions.get(record.job_id), progress=progress)

    async def _tidy_regularly(self) -> None:
        while True:
            try:
                self.tidy(time.time())
            except (FluxError, OSError) as err:
                log.warning("tidying failed", extra={"reason": str(err)})
            await asyncio.sleep(_TIDY_EVERY_S)

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.critical("service cannot go on", exc_info=error)
            self.failure = (
                error if isinstance(error, FluxError) else Internal(f"The service failed: {error!r}.")
            )


def _changed(record: JobRecord, **changes: Any) -> JobRecord:
    return record.model_copy(update=changes)


def _ended(outcome: Finished | Failed) -> dict[str, Any]:
    if isinstance(outcome, Finished):
        return {"state": JobState.DONE, "finished": outcome}
    is_cancelled = outcome.code == Cancelled.code
    return {"state": JobState.CANCELLED if is_cancelled else JobState.FAILED, "failed": outcome}


def _cancelled() -> Failed:
    return Failed.of(Cancelled("The job was cancelled."))
