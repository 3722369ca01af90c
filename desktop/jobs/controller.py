"""Between documents and the service: jobs go out, layers come in, whatever dies in between.

Two threads do the slow work: one listens to the service's events (and finds or starts a service when there
is none), the other cuts out, encodes, sends and fetches, one thing after the other. Everything that is said
goes through one callback, from these threads; a Qt adapter brings it to the GUI thread.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import queue
import threading
import uuid
from collections.abc import Callable, Iterable

from desktop.document.geometry import EMPTY, Rect
from desktop.document.state import DocumentState
from desktop.jobs import plan
from desktop.jobs.embeddings import EmbeddingMemory
from desktop.jobs.job import (
    Health,
    HealthChanged,
    Job,
    JobDelivered,
    JobEnded,
    JobMessage,
    JobPreviewed,
    JobWentOn,
    Phase,
    ServiceKnown,
    ServiceState,
    Trouble,
)
from desktop.jobs.job_book import JobBook
from desktop.jobs.look_jobs import LookJobs
from desktop.jobs.looks import Asked
from desktop.jobs.pending import PendingJob, PendingStore
from desktop.jobs.service import Service
from desktop.jobs.wish import Action, Wish
from flux_core import catalog
from flux_core.errors import ConnectionLost, FluxError, Internal, OutOfMemory, RequestInvalid
from flux_core.messages import JobEvent, JobRecord, JobState, Preview, Progress, Stage

_TICK_S = 0.5
_GIVE_UP_AFTER_TICKS = 6  # so long a lost service may come back by itself before one is started
_MAX_BACK_OFF_S = 30.0
_SAID = (Action.SCORE, Action.DESCRIBE, Action.SELECT)  # looks whose words tell them apart


class JobController:
    """The jobs of all open documents.

    Args:
        connect: Finds or starts a service and returns a client; may take seconds, raises FluxError.
        store: Where jobs are kept until they are safe.
        memory: Vectors of pictures, for finding similar ones.
        say: Receives every message, from the controller's threads.
    """

    def __init__(
        self,
        connect: Callable[[], Service],
        store: PendingStore,
        memory: EmbeddingMemory,
        say: Callable[[JobMessage], None],
    ) -> None:
        self._connect = connect
        self._store = store
        self._say = say
        self._book = JobBook(say)
        self._looks = LookJobs(self._book, say, memory, lambda: self._service, self._on_record, self._end)
        self._service: Service | None = None
        self._seq = 0
        self._health = Health()
        self._lost_ticks = 0
        self._stop = threading.Event()
        self._reconnect = threading.Event()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._here = {spec.model for spec in catalog.MODELS.values() if spec.is_bundled}  # until it says
        self._threads = [
            threading.Thread(target=self._listen, name="jobs-listener", daemon=True),
            threading.Thread(target=self._run_work, name="jobs-worker", daemon=True),
        ]

    # -- called by the window; none of these blocks ---------------------------------------------

    def start(self) -> None:
        """Starts the threads and with them the service."""
        for thread in self._threads:
            thread.start()

    def shutdown(self, timeout_s: float = 3.0) -> None:
        """Ends the threads; jobs that were sent go on without the window."""
        self._stop.set()
        self._reconnect.set()
        self._work.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout_s)

    def jobs(self) -> tuple[Job, ...]:
        """The jobs that have not ended, oldest first."""
        return self._book.jobs()

    def submit(self, document_id: str, state: DocumentState, wish: Wish, action: Action, box: Rect) -> str:
        """Starts a job for a state of a document.

        Args:
            document_id: Who gets the layer.
            state: Immutable, so painting may go on.
            wish: What to do.
            action: What the button said; the truth is worked out from the state.
            box: Where the mask is, until it is known exactly.

        Returns:
            The job's id.
        """
        job_id = str(uuid.uuid4())
        self._book.add(Job(job_id, document_id, wish.prompt, action, box))
        self._work.put(lambda: self._prepare_and_send(job_id, document_id, state, wish))
        return job_id

    def look(self, document_id: str, state: DocumentState, wish: Wish) -> str:
        """Starts to find something out about a state of a document; returns the job's id."""
        job_id = str(uuid.uuid4())
        title = wish.look.question or wish.prompt if wish.action in _SAID else ""
        self._book.add(Job(job_id, document_id, title, wish.action or Action.DESCRIBE, EMPTY))
        asked = Asked(job_id, document_id, state, wish)
        self._work.put(lambda: self._looks.begin(asked))
        return job_id

    def fetch(self, sha256: str, then: Callable[[bytes], None]) -> None:
        """Gets a picture that the service keeps; `then` is called from the worker thread."""
        self._work.put(lambda: self._fetch(sha256, then))

    def cancel(self, job_id: str) -> None:
        """Cancels exactly this job, wherever it is."""
        if self._book.update(job_id, phase=Phase.CANCELLING):
            self._work.put(lambda: self._cancel(job_id))

    def attach(self, document_id: str, known_layers: Iterable[str] = ()) -> None:
        """A document was opened: its jobs from an earlier time go on, and results that wait arrive.

        Args:
            document_id: The document.
            known_layers: Ids of its layers; a job that is already one of them is not delivered again.
        """
        self._book.open_document(document_id, known_layers)
        self._work.put(lambda: self._resume(document_id))

    def detach(self, document_id: str, *, is_gone: bool = False) -> None:
        """A document was closed.

        Args:
            document_id: The document; its jobs go on and wait until it is opened again.
            is_gone: It was never saved and never will be: its jobs are cancelled and forgotten.
        """
        self._book.close_document(document_id)
        self._work.put(lambda: self._looks.drop(document_id))
        if is_gone:
            self._work.put(lambda: self._abandon(document_id))

    def acknowledge(self, job_id: str) -> None:
        """The job's layer is on disk: the job may be forgotten everywhere."""
        self._work.put(lambda: self._forget(job_id))

    # -- the listener thread ---------------------------------------------------------------------

    def _listen(self) -> None:
        delay_s = 1.0
        while not self._stop.is_set():
            self._set_health(Health(ServiceState.STARTING))
            try:
                service = self._connect()
                hello = service.hello()
            except FluxError as err:
                self._set_health(Health(ServiceState.LOST, str(err)))
                if delay_s == 1.0:
                    self._say(Trouble(err))
                self._stop.wait(delay_s)
                delay_s = min(2 * delay_s, _MAX_BACK_OFF_S)
                continue
            delay_s = 1.0
            self._book.forget_heard()
            self._reconnect.clear()
            if self._stop.is_set():
                self._reconnect.set()
            self._service = service
            self._here = {model.model for model in hello.models if model.is_installed}
            self._say(ServiceKnown(hello))
            self._work.put(self._resume_all)
            try:
                for event in service.events(self._seq, self._reconnect):
                    self._on_event(event)
            except FluxError as err:
                self._say(Trouble(err))
                self._stop.wait(1.0)
            finally:
                self._service = None
                service.close()

    def _on_event(self, event: JobEvent) -> None:
        if event.kind == "state":
            self._seq = max(self._seq, event.seq)
        if event.record is not None and event.kind == "state":
            record = event.record
            self._work.put(lambda: self._on_record(record))
        elif event.progress is not None:
            self._book.hear(event.job_id, event.seq)
            self._on_progress(event.job_id, event.progress)
        elif event.preview is not None:
            self._on_preview(event.job_id, event.preview)

    def _on_progress(self, job_id: str, progress: Progress) -> None:
        phase = Phase.LOADING if progress.stage is Stage.LOADING else Phase.RUNNING
        self._book.update(
            job_id,
            phase=phase,
            fraction=progress.fraction,
            step=progress.step,
            num_steps=progress.num_steps,
            position=None,
        )

    def _on_preview(self, job_id: str, preview: Preview) -> None:
        job, prepared = self._book.get(job_id), self._book.prepared(job_id)
        if job is None or prepared is None or not self._book.is_wanted(job_id):
            return
        try:
            webp = base64.b64decode(preview.webp_base64, validate=True)
        except binascii.Error:
            return
        alpha = prepared.plan.alpha if prepared.action in (Action.FILL, Action.EDIT) else None
        self._say(JobPreviewed(job_id, job.document_id, webp, prepared.sent_box, prepared.box, alpha))

    # -- the worker thread -------------------------------------------------------------------------

    def _run_work(self) -> None:
        while not self._stop.is_set():
            try:
                act = self._work.get(timeout=_TICK_S)
            except queue.Empty:
                self._tick()
                continue
            if act is None:
                return
            try:
                act()
            except FluxError as err:
                self._say(Trouble(err))
            except Exception as err:  # a mistake of ours must not end the thread
                self._say(
                    Trouble(Internal(f"Something unexpected went wrong: {err!r}.", "Please report it."))
                )
            self._tick()

    def _tick(self) -> None:
        service = self._service
        if service is None:
            return
        report = service.health
        state = ServiceState(report.health)
        self._set_health(Health(state, report.detail))
        self._lost_ticks = self._lost_ticks + 1 if state is ServiceState.LOST else 0
        if self._lost_ticks >= _GIVE_UP_AFTER_TICKS:
            self._lost_ticks = 0
            self._reconnect.set()

    def _prepare_and_send(self, job_id: str, document_id: str, state: DocumentState, wish: Wish) -> None:
        if not self._book.is_wanted(job_id):
            self._end(job_id, document_id)
            return
        try:
            prepared = plan.prepare(state, wish, plan.spec_for(state, wish, self._here))
            pending = PendingJob(job_id, document_id, prepared)
            self._store.keep(pending)
        except FluxError as err:
            self._end(job_id, document_id, err)
            return
        except MemoryError:
            too_large = OutOfMemory(
                "There is too little memory to cut out the picture.", "Make a smaller mask."
            )
            self._end(job_id, document_id, too_large)
            return
        self._book.set_prepared(job_id, prepared)
        self._book.update(job_id, action=prepared.action, box=prepared.box)
        self._send(pending)

    def _send(self, pending: PendingJob) -> None:
        """Sends a job; without a service it stays on disk and goes out as soon as there is one."""
        service = self._service
        if service is None or not self._book.is_wanted(pending.job_id):
            return
        prepared = pending.prepared
        try:
            for blob in prepared.all_blobs:
                service.put_blob(blob)
            record = service.submit(prepared.request, pending.job_id)
        except ConnectionLost:
            return
        except FluxError as err:
            self._end(pending.job_id, pending.document_id, err)
            return
        self._on_record(record)

    def _fetch(self, sha256: str, then: Callable[[bytes], None]) -> None:
        service = self._service
        if service is None:
            raise ConnectionLost("The service does not answer.", "Wait for it and try again.")
        then(service.get_blob(sha256))

    def _on_record(self, record: JobRecord) -> None:
        job = self._book.get(record.job_id)
        if job is None:
            return
        if record.state is JobState.DONE:
            self._deliver(record)
        elif record.state is JobState.FAILED:
            error = (
                record.failed.as_error() if record.failed else Internal("The job failed without a reason.")
            )
            if record.job_id in self._looks:
                self._looks.fail(record.job_id, error)
            else:
                self._end(record.job_id, job.document_id, error)
        elif record.state is JobState.CANCELLED:
            self._end(record.job_id, job.document_id)
        elif job.phase is not Phase.CANCELLING and self._book.is_news(record):
            phase = Phase.WAITING if record.state is JobState.QUEUED else Phase.RUNNING
            if record.progress is not None and record.state is JobState.RUNNING:
                self._on_progress(record.job_id, record.progress)
            else:
                self._book.update(record.job_id, phase=phase, position=record.position, fraction=0.0)

    def _deliver(self, record: JobRecord) -> None:
        service = self._service
        if service is not None and record.job_id in self._looks:
            self._looks.deliver(record, service)
            self._refresh_positions()
            return
        pending = self._store.read(record.job_id)
        if pending is None or service is None:
            return
        self._book.update(record.job_id, phase=Phase.FETCHING, fraction=1.0)
        images = record.finished.images if record.finished is not None else ()
        try:
            pictures = [(service.get_blob(image.sha256), image.seed) for image in images]
            if pictures and pending.prepared.rest:
                self._go_on(pending, pictures[0][0])
                return
            layer = plan.finish(pending.prepared, pictures, uuid.UUID(record.job_id).hex)
        except ConnectionLost:
            return  # asked for again when the service is back
        except FluxError as err:
            self._end(record.job_id, pending.document_id, err)
            return
        if self._book.deliver(record.job_id, pending.document_id):
            warnings = record.finished.warnings if record.finished is not None else ()
            self._say(JobDelivered(record.job_id, pending.document_id, layer, warnings))
        self._refresh_positions()

    def _go_on(self, pending: PendingJob, picture_png: bytes) -> None:
        """The next stage is a job of its own, which is kept before this one is forgotten."""
        if not self._book.is_wanted(pending.job_id):
            self._end(pending.job_id, pending.document_id)
            return
        # The same id whenever this is done again, so that a crash in between makes no second job.
        job_id = str(uuid.uuid5(uuid.UUID(pending.job_id), "next stage"))
        following = PendingJob(job_id, pending.document_id, pending.prepared.following(picture_png))
        self._store.keep(following)
        self._book.drop(pending.job_id)
        self._say(JobWentOn(pending.job_id, pending.document_id))
        self._take_up(following)
        self._forget(pending.job_id)

    def _refresh_positions(self) -> None:
        """A job has ended, so those that wait have moved up."""
        service = self._service
        waiting = [job for job in self._book.jobs() if job.phase is Phase.WAITING]
        if service is not None:
            with contextlib.suppress(FluxError):
                for job in waiting:
                    self._book.update(job.id, position=service.job(job.id).position)

    def _cancel(self, job_id: str) -> None:
        job, service = self._book.get(job_id), self._service
        if job is None:
            return
        if service is not None:
            try:
                self._on_record(service.cancel(job_id))
                return
            except RequestInvalid:
                pass  # the service never heard of it
            except ConnectionLost:
                return  # asked again when the service is back
        self._end(job_id, job.document_id)

    def _resume_all(self) -> None:
        """A service is there: what happened to the jobs of the open documents meanwhile?"""
        for document_id in self._book.open_documents():
            self._resume(document_id)

    def _resume(self, document_id: str) -> None:
        known = self._book.layers_of(document_id)
        for pending in self._store.of_document(document_id):
            if uuid.UUID(pending.job_id).hex not in known:
                self._take_up(pending)
            elif self._service is not None:
                self._forget(pending.job_id)
        self._looks.take_up(document_id)

    def _take_up(self, pending: PendingJob) -> None:
        prepared = pending.prepared
        if self._book.is_delivered(pending.job_id):
            return
        job = self._book.get(pending.job_id)
        if job is None:
            words = prepared.request.prompt
            job = Job(pending.job_id, pending.document_id, words, prepared.action, prepared.box)
            self._book.set_prepared(job.id, prepared)
            self._book.add(job)
        service = self._service
        if job.phase is Phase.CANCELLING:
            self._cancel(job.id)
            return
        if service is None:
            return
        try:
            self._on_record(service.job(pending.job_id))
        except RequestInvalid:
            self._send(pending)  # the service never heard of it, or has forgotten it
        except ConnectionLost:
            return

    def _abandon(self, document_id: str) -> None:
        service = self._service
        for pending in self._store.of_document(document_id):
            if service is not None:
                with contextlib.suppress(FluxError):
                    service.cancel(pending.job_id)
            self._forget(pending.job_id)

    def _forget(self, job_id: str) -> None:
        self._book.settle(job_id)
        self._store.forget(job_id)
        service = self._service
        if service is not None:
            with contextlib.suppress(FluxError):  # else its retention will do it
                service.ack(job_id)

    def _end(self, job_id: str, document_id: str, error: FluxError | None = None) -> None:
        self._book.drop(job_id)
        self._looks.forget(job_id)
        self._say(JobEnded(job_id, document_id, error))
        self._forget(job_id)
        self._refresh_positions()

    def _set_health(self, health: Health) -> None:
        if health != self._health:
            self._health = health
            self._say(HealthChanged(health))
