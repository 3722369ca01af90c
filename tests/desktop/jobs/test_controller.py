from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from desktop.document import commands, mask
from desktop.document.document import Document
from desktop.document.geometry import Rect
from desktop.jobs.controller import JobController
from desktop.jobs.embeddings import EmbeddingMemory
from desktop.jobs.job import (
    HealthChanged,
    JobChanged,
    JobDelivered,
    JobEnded,
    JobMessage,
    JobPreviewed,
    Phase,
    ServiceKnown,
    ServiceState,
    Trouble,
)
from desktop.jobs.pending import PendingStore
from desktop.jobs.wish import Action, Wish
from flux_core.errors import ConnectionLost, EngineDied, RequestInvalid
from flux_core.messages import JobState
from tests.support.service_process import ServiceProcess, eventually

M = TypeVar("M")
BOX = Rect(100, 80, 40, 30)


class Desk:
    """A controller, its service, and everything it said."""

    def __init__(self, home: Path, service: ServiceProcess) -> None:
        self.service = service
        self.store = PendingStore(home / "jobs")
        self.memory = EmbeddingMemory(home / "embeddings")
        self.said: list[JobMessage] = []
        self.is_reachable = True
        self._controllers: list[JobController] = []
        self.controller = self.open()

    def open(self) -> JobController:
        """A new controller on the same store, as after a restart of the window."""
        self.controller = JobController(self._connect, self.store, self.memory, self.said.append)
        self.controller.start()
        self._controllers.append(self.controller)
        return self.controller

    def _connect(self):
        if not self.is_reachable:
            raise ConnectionLost("There is no service.", "Start one.")
        return self.service.client()

    def submit(self, document: Document, prompt: str, document_id: str = "doc") -> str:
        return self.controller.submit(
            document_id, document.committed_state, Wish(prompt=prompt, seed=7), Action.FILL, BOX
        )

    def all(self, kind: type[M]) -> list[M]:
        return [message for message in list(self.said) if isinstance(message, kind)]

    def wait(self, kind: type[M], which: Callable[[M], bool] = lambda _: True) -> M:
        eventually(lambda: any(which(message) for message in self.all(kind)))
        return next(message for message in self.all(kind) if which(message))

    def phases(self) -> list[Phase]:
        return list(dict.fromkeys(message.job.phase for message in self.all(JobChanged)))

    def close(self) -> None:
        for controller in self._controllers:
            controller.shutdown()


@pytest.fixture
def desk(tmp_path) -> Iterator[Desk]:
    with ServiceProcess(tmp_path / "home") as service:
        desk = Desk(tmp_path, service)
        yield desk
        desk.close()


@pytest.fixture
def document(photo) -> Document:
    commands.set_selection(photo, mask.select_rect(BOX))
    return photo


def test_a_job_goes_out_and_comes_back_as_a_layer(desk, document):
    desk.controller.attach("doc")
    job_id = desk.submit(document, "a boat")
    delivered = desk.wait(JobDelivered)
    assert delivered.job_id == job_id
    assert delivered.document_id == "doc"
    assert delivered.layer.id == job_id.replace("-", "")
    assert delivered.layer.mask is not None
    assert desk.phases()[0] is Phase.PREPARING
    assert Phase.RUNNING in desk.phases()
    assert desk.controller.jobs() == ()
    preview = desk.wait(JobPreviewed)
    assert preview.webp.startswith(b"RIFF")
    assert preview.alpha.shape == (preview.core.height, preview.core.width)


def test_the_service_and_its_health_are_made_known(desk):
    assert desk.wait(ServiceKnown).hello.models
    desk.wait(HealthChanged, lambda message: message.health.state is ServiceState.READY)


def test_a_running_job_is_cancelled_and_only_that_one(desk, document, tmp_path):
    desk.controller.attach("doc")
    first = desk.submit(document, f"until={tmp_path / 'go'}")
    desk.wait(JobChanged, lambda message: message.job.phase is Phase.RUNNING)
    second = desk.submit(document, "steps=1")
    desk.controller.cancel(first)
    assert desk.wait(JobEnded).job_id == first
    assert desk.all(JobEnded)[0].error is None
    assert desk.wait(JobDelivered).job_id == second


def test_a_waiting_job_says_that_it_waits_and_can_be_cancelled(desk, document, tmp_path):
    desk.controller.attach("doc")
    first = desk.submit(document, f"until={tmp_path / 'go'}")
    desk.wait(JobChanged, lambda message: message.job.id == first and message.job.phase is Phase.RUNNING)
    second = desk.submit(document, "steps=1")
    desk.wait(JobChanged, lambda message: message.job.id == second and message.job.phase is Phase.WAITING)
    desk.controller.cancel(second)
    assert desk.wait(JobEnded).job_id == second
    (tmp_path / "go").touch()
    assert desk.wait(JobDelivered).job_id == first


def test_an_engine_that_dies_costs_one_job_and_the_next_one_runs(desk, document):
    desk.controller.attach("doc")
    desk.submit(document, "mumble crash")
    error = desk.wait(JobEnded).error
    assert isinstance(error, EngineDied)
    desk.wait(HealthChanged, lambda message: "SIGKILL" in message.health.detail)
    job_id = desk.submit(document, "steps=1")
    assert desk.wait(JobDelivered).job_id == job_id


def test_a_refused_request_says_why_and_leaves_nothing_behind(desk, document):
    desk.controller.attach("doc")
    desk.submit(document, "fail")
    error = desk.wait(JobEnded).error
    assert isinstance(error, RequestInvalid)
    assert error.hint == "Ask for something else."
    eventually(lambda: desk.store.ids() == ())


def test_a_wish_that_cannot_be_prepared_never_reaches_the_service(desk, document):
    desk.controller.attach("doc")
    desk.submit(document, "x" * 1_000_000)
    assert isinstance(desk.wait(JobEnded).error, RequestInvalid)
    assert desk.controller.jobs() == ()


def test_a_job_asked_for_without_a_service_goes_out_when_there_is_one(tmp_path, document):
    service = ServiceProcess(tmp_path / "home")
    desk = Desk.__new__(Desk)
    desk.service, desk.store, desk.said = service, PendingStore(tmp_path / "jobs"), []
    desk.memory = EmbeddingMemory(tmp_path / "embeddings")
    desk.is_reachable, desk._controllers = False, []
    desk.open()
    desk.controller.attach("doc")
    job_id = desk.submit(document, "steps=1")
    assert isinstance(desk.wait(Trouble).error, ConnectionLost)
    eventually(lambda: desk.store.ids() == (job_id,))
    with service:
        desk.is_reachable = True
        assert desk.wait(JobDelivered).job_id == job_id
        desk.close()


def test_a_look_asked_for_without_a_service_goes_out_when_there_is_one(desk, photo):
    desk.wait(ServiceKnown)
    desk.controller.attach("doc")
    desk.is_reachable = False
    desk.service.kill()
    desk.wait(Trouble, lambda message: isinstance(message.error, ConnectionLost))
    job_id = desk.controller.look("doc", photo.committed_state, Wish(action=Action.DESCRIBE))
    desk.service.start()
    desk.is_reachable = True
    assert desk.wait(JobEnded).job_id == job_id, "the fake engine paints, and finds nothing out"
    with desk.service.client() as client:
        assert client.job(job_id).request.look is not None
    assert desk.controller.jobs() == ()


def test_a_look_is_forgotten_with_its_document(desk, photo, tmp_path):
    desk.controller.attach("doc")
    desk.submit(photo, f"until={tmp_path / 'go'}")
    job_id = desk.controller.look("doc", photo.committed_state, Wish(action=Action.DESCRIBE))
    desk.wait(JobChanged, lambda message: message.job.id == job_id and message.job.phase is Phase.WAITING)
    desk.controller.detach("doc")
    with desk.service.client() as client:
        eventually(lambda: client.job(job_id).state is JobState.CANCELLED)
    (tmp_path / "go").touch()


def test_a_job_outlives_the_service(desk, document, tmp_path):
    desk.controller.attach("doc")
    job_id = desk.submit(document, f"until={tmp_path / 'go'}")
    desk.wait(JobChanged, lambda message: message.job.phase is Phase.RUNNING)
    desk.service.kill()
    desk.service.start()
    (tmp_path / "go").touch()
    assert desk.wait(JobDelivered).job_id == job_id


def test_a_job_outlives_the_window_and_is_delivered_once(desk, document, tmp_path):
    desk.controller.attach("doc")
    job_id = desk.submit(document, f"until={tmp_path / 'go'}")
    desk.wait(JobChanged, lambda message: message.job.phase is Phase.RUNNING)
    desk.controller.shutdown()
    (tmp_path / "go").touch()
    desk.said.clear()
    desk.open().attach("doc", ["some-layer"])
    delivered = desk.wait(JobDelivered)
    assert delivered.job_id == job_id
    desk.controller.acknowledge(job_id)
    eventually(lambda: desk.store.ids() == ())
    with desk.service.client() as client:
        eventually(lambda: client.job(job_id).is_acknowledged)
    assert len(desk.all(JobDelivered)) == 1


def test_a_result_that_is_already_in_the_document_is_not_delivered_again(desk, document):
    desk.controller.attach("doc")
    job_id = desk.submit(document, "steps=1")
    layer = desk.wait(JobDelivered).layer
    desk.controller.shutdown()
    desk.said.clear()
    desk.open().attach("doc", [layer.id])
    eventually(lambda: desk.store.ids() == ())
    with desk.service.client() as client:
        eventually(lambda: client.job(job_id).is_acknowledged)
    assert desk.all(JobDelivered) == []


def test_a_result_waits_for_a_closed_document(desk, document):
    desk.wait(ServiceKnown)
    desk.submit(document, "steps=1", document_id="closed")
    with desk.service.client() as client:
        eventually(lambda: any(job.state is JobState.DONE for job in client.jobs()))
    assert desk.all(JobDelivered) == []
    desk.controller.attach("closed")
    assert desk.wait(JobDelivered).document_id == "closed"


def test_the_jobs_of_a_document_that_is_given_up_are_cancelled(desk, document, tmp_path):
    desk.controller.attach("doc")
    job_id = desk.submit(document, f"until={tmp_path / 'go'}")
    desk.wait(JobChanged, lambda message: message.job.phase is Phase.RUNNING)
    desk.controller.detach("doc", is_gone=True)
    eventually(lambda: desk.store.ids() == ())
    with desk.service.client() as client:
        eventually(lambda: client.job(job_id).state is JobState.CANCELLED)
    assert desk.controller.jobs() == ()


@pytest.fixture
def able(tmp_path) -> Iterator[Desk]:
    """A desk whose service can do every task."""
    with ServiceProcess(tmp_path / "home", module="tests.support.able_service") as service:
        desk = Desk(tmp_path, service)
        yield desk
        desk.close()


def test_a_second_stage_that_waits_outlives_the_window_and_the_service(able, photo, tmp_path):
    able.controller.attach("doc")
    wish = Wish(f"steps=1 note={tmp_path / 'ran'} until={tmp_path / 'go'}", 0.3, seed=7, scale=4)
    wish = replace(wish, action=Action.UPSCALE)
    first = able.controller.submit("doc", photo.committed_state, wish, Action.UPSCALE, BOX)
    able.wait(JobChanged, lambda message: message.job.phase is Phase.RUNNING)
    able.controller.shutdown()
    (tmp_path / "go").touch()
    with able.service.client() as client:
        eventually(lambda: client.job(first).state is JobState.DONE)
    able.service.kill()
    able.service.start()
    able.said.clear()
    able.open().attach("doc")
    delivered = able.wait(JobDelivered)
    assert delivered.layer.recipe.request.width_px == 4 * photo.size.width
    assert (tmp_path / "ran").read_text().split() == ["7", "7"], "each stage ran once"
    assert able.store.ids() == (delivered.job_id,)


def test_submitting_never_waits(desk, document, tmp_path):
    desk.service.kill()
    done = threading.Event()

    def ask() -> None:
        for _ in range(20):
            desk.submit(document, "steps=1")
        done.set()

    threading.Thread(target=ask).start()
    assert done.wait(1.0)
