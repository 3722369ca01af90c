"""One job from the command line to its pictures, through the same service as everything else.

Ctrl-C cancels the job at the service and waits until it says so; a second Ctrl-C leaves at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from types import FrameType

from backends.remote.client import ServiceClient
from backends.remote.local import ensure_service
from backends.service.state_folder import Endpoint, default_home
from desktop.commands.options import Backend
from desktop.commands.screen import Screen
from flux_core.errors import Cancelled, ConnectionLost, Internal
from flux_core.messages import Finished, JobEvent, JobRecord, JobState
from flux_core.request import GenerationRequest

PATIENCE_S = 15.0  # three heartbeats of the service


@dataclass(frozen=True, slots=True)
class Outcome:
    """A job that is done.

    Attributes:
        request: As it was sent.
        pictures: PNG bytes, in the order of their seeds.
        finished: What the engine said about it.
        wall_s: Seconds from sending to having the pictures.
    """

    job_id: str
    request: GenerationRequest
    pictures: tuple[bytes, ...]
    finished: Finished
    wall_s: float

    def summary(self) -> dict[str, object]:
        """The figures for --json."""
        return {
            "job_id": self.job_id,
            "seed": self.request.seed,
            "engine": self.finished.engine,
            "wall_s": round(self.wall_s, 3),
            "seconds": self.finished.seconds,
            "peak_memory_bytes": self.finished.peak_memory_bytes,
            "warnings": self.finished.warnings,
            "request": self.request.model_dump(mode="json", exclude_none=True),
        }


def connect() -> ServiceClient:
    """A client of this person's service, which is started if it does not run."""
    return ServiceClient(ensure_service(default_home(os.environ)))


def blob_name(data: bytes) -> str:
    """The sha256 under which a picture travels."""
    return hashlib.sha256(data).hexdigest()


def run_job(
    client: ServiceClient,
    request: GenerationRequest,
    screen: Screen,
    *,
    blobs: tuple[bytes, ...] = (),
    backend: Backend = Backend.AUTO,
) -> Outcome:
    """Sends the pictures and the request, shows how it goes, and fetches the result.

    Raises:
        Cancelled: Somebody stopped it.
        FluxError: Why it failed, as the service says.
    """
    started = time.monotonic()
    for blob in blobs:
        client.put_blob(blob)
    with _interrupt_flag() as is_interrupted, screen.progress() as watch:
        engine = "" if backend is Backend.AUTO else backend.value
        job_id = client.submit(request, engine=engine).job_id
        record = wait_through(client, job_id, watch, is_interrupted.is_set)
    if record.state is JobState.CANCELLED:
        raise Cancelled("The job was cancelled.")
    if record.failed is not None:
        client.ack(job_id)  # whoever asked hears of it now
        raise record.failed.as_error()
    if record.finished is None or not (record.finished.images or record.finished.findings):
        raise Internal("The job ended without a result.", "Look into the service's log.")
    pictures = tuple(client.get_blob(image.sha256) for image in record.finished.images)
    client.ack(job_id)
    return Outcome(job_id, request, pictures, record.finished, time.monotonic() - started)


def wait_through(
    client: ServiceClient,
    job_id: str,
    on_event: Callable[[JobEvent], None],
    is_cancelled: Callable[[], bool],
    *,
    patience_s: float = PATIENCE_S,
    revive: Callable[[], Endpoint] = lambda: ensure_service(default_home(os.environ)),
) -> JobRecord:
    """Waits until a job has ended, also when the service dies on the way: it is started again once.

    Args:
        client: Of the service that has the job.
        job_id: Whose end to wait for.
        on_event: Called with what happens to the job.
        is_cancelled: Once true, the job is cancelled.
        patience_s: Seconds without a word after which the service counts as dead.
        revive: Starts this person's service if it does not run, and says where it is.

    Raises:
        ConnectionLost: The service is silent and is not this person's own, or died again.
    """
    try:
        return client.wait(job_id, on_event, is_cancelled, patience_s)
    except ConnectionLost:
        if revive() != client.endpoint:
            raise
        return client.wait(job_id, on_event, is_cancelled)


@contextlib.contextmanager
def _interrupt_flag() -> Generator[threading.Event]:
    """Turns the first Ctrl-C into a flag; the second one is an ordinary KeyboardInterrupt."""
    flag = threading.Event()
    with on_interrupt(flag.set):
        yield flag


@contextlib.contextmanager
def on_interrupt(act: Callable[[], None]) -> Generator[None]:
    """Has the first Ctrl-C call `act`; the second one is an ordinary KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def once(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        act()

    signal.signal(signal.SIGINT, once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
