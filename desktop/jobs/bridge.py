"""The job controller as a Qt object: its messages arrive on the GUI thread, one signal for each kind."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QObject, Qt, Signal

from desktop.document.geometry import Rect
from desktop.document.state import DocumentState
from desktop.jobs.controller import JobController
from desktop.jobs.embeddings import EmbeddingMemory
from desktop.jobs.job import (
    Health,
    HealthChanged,
    Job,
    JobChanged,
    JobDelivered,
    JobEnded,
    JobMessage,
    JobPreviewed,
    JobWentOn,
    LookAnswered,
    ServiceKnown,
    Trouble,
)
from desktop.jobs.pending import PendingStore
from desktop.jobs.service import Service
from desktop.jobs.wish import Action, Wish


class JobBridge(QObject):
    """Jobs for the window.

    Args:
        connect: Finds or starts a service, in the controller's thread.
        store: Where jobs are kept until they are safe.
        memory: Vectors of pictures, for finding similar ones.
        parent: Qt parent.

    Signals:
        job_changed(Job), job_previewed(JobPreviewed), job_delivered(JobDelivered), job_ended(JobEnded).
        job_went_on(JobWentOn), look_answered(LookAnswered).
        health_changed(Health), service_known(Hello), failed(FluxError).
    """

    job_changed = Signal(object)
    job_previewed = Signal(object)
    job_delivered = Signal(object)
    job_ended = Signal(object)
    look_answered = Signal(object)
    job_went_on = Signal(object)
    health_changed = Signal(object)
    service_known = Signal(object)
    failed = Signal(object)
    _said = Signal(object)
    _fetched = Signal(object)

    def __init__(
        self,
        connect: Callable[[], Service],
        store: PendingStore,
        memory: EmbeddingMemory,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._controller = JobController(connect, store, memory, self._said.emit)
        self._health = Health()
        self._said.connect(self._on_said, Qt.ConnectionType.QueuedConnection)
        self._fetched.connect(lambda tell: tell(), Qt.ConnectionType.QueuedConnection)

    @property
    def health(self) -> Health:
        return self._health

    def jobs(self) -> tuple[Job, ...]:
        """The jobs that have not ended, oldest first."""
        return self._controller.jobs()

    def start(self) -> None:
        """Starts the service; returns at once."""
        self._controller.start()

    def shutdown(self) -> None:
        """Ends the threads; nothing is said afterwards."""
        self._said.disconnect(self._on_said)
        self._controller.shutdown()

    def submit(self, document_id: str, state: DocumentState, wish: Wish, action: Action, box: Rect) -> str:
        return self._controller.submit(document_id, state, wish, action, box)

    def look(self, document_id: str, state: DocumentState, wish: Wish) -> str:
        return self._controller.look(document_id, state, wish)

    def fetch(self, sha256: str, then: Callable[[bytes], None]) -> None:
        """Gets a picture that the service keeps; `then` is called on the GUI thread."""
        self._controller.fetch(sha256, lambda data: self._fetched.emit(lambda: then(data)))

    def cancel(self, job_id: str) -> None:
        self._controller.cancel(job_id)

    def attach(self, document_id: str, known_layers: tuple[str, ...] = ()) -> None:
        self._controller.attach(document_id, known_layers)

    def detach(self, document_id: str, *, is_gone: bool = False) -> None:
        self._controller.detach(document_id, is_gone=is_gone)

    def acknowledge(self, job_id: str) -> None:
        self._controller.acknowledge(job_id)

    def _on_said(self, message: JobMessage) -> None:
        match message:
            case JobChanged(job):
                self.job_changed.emit(job)
            case JobPreviewed():
                self.job_previewed.emit(message)
            case JobDelivered():
                self.job_delivered.emit(message)
            case LookAnswered():
                self.look_answered.emit(message)
            case JobWentOn():
                self.job_went_on.emit(message)
            case JobEnded():
                self.job_ended.emit(message)
            case HealthChanged(health):
                self._health = health
                self.health_changed.emit(health)
            case ServiceKnown(hello):
                self.service_known.emit(hello)
            case Trouble(error):
                self.failed.emit(error)
