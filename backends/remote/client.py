"""The one client that every front end uses to talk to a job service, local or remote.

It is synchronous and may be used from several threads. Pictures travel as blobs named by their
sha256, jobs carry an id that the client makes (so sending twice is one job), and the event stream
reconnects by itself and replays what was missed, so a caller sees every change once.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from pydantic import TypeAdapter

from backends.remote.connection import Connection, parse, parse_list
from backends.remote.event_stream import open_events
from backends.remote.health import HealthReport, HealthWatch
from backends.service.state_folder import Endpoint
from flux_core.errors import ConnectionLost, Corrupt, FluxError, RequestInvalid
from flux_core.messages import PROTOCOL_VERSION, Hello, JobEdit, JobEvent, JobRecord, JobSubmission, Lane
from flux_core.request import GenerationRequest

_CHUNK_BYTES = 256 * 1024
_TRANSFER_ATTEMPTS = 4
_MAX_BACK_OFF_S = 30.0
_POLL_S = 0.1

_RECORDS = TypeAdapter(tuple[JobRecord, ...])


class ServiceClient:
    """Talks to the service at `endpoint`; opens connections as they are needed.

    Every method raises ConnectionLost when the service does not answer, and otherwise the error
    that the service reports.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._connection = Connection(endpoint)
        self._health = HealthWatch()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections; jobs go on."""
        self._connection.close()

    @property
    def health(self) -> HealthReport:
        """How the service is, as last heard; asks nothing and never blocks. Kept fresh by `events`."""
        return self._health.report()

    def hello(self) -> Hello:
        """Asks who is there.

        Raises:
            RequestInvalid: The service speaks another version of the protocol.
        """
        try:
            hello = parse(Hello, self._connection.ask("GET", "/v1/hello").content)
        except ConnectionLost as err:
            self._health.lost(str(err))
            raise
        if hello.protocol != PROTOCOL_VERSION:
            raise RequestInvalid(
                f"The service speaks protocol {hello.protocol}, this program speaks {PROTOCOL_VERSION}.",
                "Install the same version of Flowbrush at both ends.",
            )
        self._health.heard(hello.state, hello.engine_detail)
        return hello

    def put_blob(self, data: bytes) -> str:
        """Sends a picture unless the service has it already; goes on where a broken transfer stopped.

        Returns:
            The sha256 by which requests refer to it.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        for attempt in range(_TRANSFER_ATTEMPTS):
            try:
                if self._put_rest(sha256, data):
                    return sha256
            except ConnectionLost:
                if attempt + 1 == _TRANSFER_ATTEMPTS:
                    raise
                time.sleep(0.25 * 2**attempt)
        raise ConnectionLost("The service did not take the picture whole.", "Try again.")

    def get_blob(self, sha256: str) -> bytes:
        """Fetches a picture and checks it; goes on where a broken transfer stopped.

        Raises:
            RequestInvalid: The service has no such blob.
            Corrupt: What arrived is not what the name says.
        """
        received = bytearray()
        for attempt in range(_TRANSFER_ATTEMPTS):
            try:
                self._get_rest(sha256, received)
                break
            except ConnectionLost:
                if attempt + 1 == _TRANSFER_ATTEMPTS:
                    raise
                time.sleep(0.25 * 2**attempt)
        if hashlib.sha256(received).hexdigest() != sha256:
            raise Corrupt("A picture was damaged on its way from the service.", "Fetch it again.")
        return bytes(received)

    def submit(
        self,
        request: GenerationRequest,
        job_id: str | None = None,
        lane: Lane = Lane.INTERACTIVE,
        order: int = 0,
        engine: str = "",
    ) -> JobRecord:
        """Sends a job; its pictures must have been sent before.

        Args:
            request: What to do.
            job_id: A UUID; sending the same one again is the same job. None makes one.
            lane: Interactive jobs go before bulk jobs.
            order: Within the lane, low goes first.
            engine: A name from `Hello.engines`; "" lets the service choose.
        """
        submission = JobSubmission(request=request, lane=lane, order=order, engine=engine)
        return self._job("PUT", job_id or str(uuid.uuid4()), content=submission.model_dump_json())

    def job(self, job_id: str) -> JobRecord:
        """What a job is now."""
        return self._job("GET", job_id)

    def jobs(self) -> tuple[JobRecord, ...]:
        """Every job the service remembers, oldest first."""
        return parse_list(_RECORDS, self._connection.ask("GET", "/v1/jobs").content)

    def edit(
        self,
        job_id: str,
        request: GenerationRequest | None = None,
        lane: Lane | None = None,
        order: int | None = None,
    ) -> JobRecord:
        """Changes a job that still waits; None leaves a part as it is."""
        change = JobEdit(request=request, lane=lane, order=order)
        return self._job("PATCH", job_id, content=change.model_dump_json())

    def cancel(self, job_id: str) -> JobRecord:
        """Asks that a job stop; a job that has ended stays as it is."""
        return self._job("POST", job_id, "/cancel")

    def ack(self, job_id: str) -> JobRecord:
        """Says that a job's result is safe here; from then on the service may forget it."""
        return self._job("POST", job_id, "/ack")

    def events(self, since: int = 0, stop: threading.Event | None = None) -> Iterator[JobEvent]:
        """Everything that happens, from change number `since` on, until `stop` is set.

        State changes come each exactly once, in order, also across lost connections and restarts
        of the service; progress and previews only while connected, newest first served. While the
        connection is lost the iterator waits and tries again after 1, 2, 4 ... 30 s; `health` says so.

        Raises:
            FluxError: The service refuses (for example the token); never ConnectionLost.
        """
        stop = stop or threading.Event()
        delay_s = 1.0
        while not stop.is_set():
            try:
                for event in open_events(self._connection, self._health, since, stop):
                    delay_s = 1.0
                    if isinstance(event, int):  # the service's last number: it starts here, or anew
                        since = since if event >= since else 0
                        continue
                    if event.kind == "state":
                        if event.seq <= since:
                            continue
                        since = event.seq
                    yield event
            except ConnectionLost as err:
                self._health.lost(str(err))
            if stop.wait(delay_s):
                return
            delay_s = min(delay_s * 2, _MAX_BACK_OFF_S)

    def wait(
        self,
        job_id: str,
        on_event: Callable[[JobEvent], None] | None = None,
        is_cancelled: Callable[[], bool] | None = None,
        patience_s: float = 60.0,
    ) -> JobRecord:
        """Waits until a job has ended, however it ended.

        Args:
            job_id: Whose end to wait for.
            on_event: Called in this thread with the job's state changes, progress and previews.
            is_cancelled: Asked ten times a second; once true, the job is cancelled.
            patience_s: How long the service may be silent.

        Raises:
            ConnectionLost: The service was silent for longer than `patience_s`; the job goes on.
        """
        record = self._job_patiently(job_id, patience_s)
        if record.state.is_final:
            return record
        self._health.heard()
        inbox: queue.SimpleQueue[JobEvent | FluxError] = queue.SimpleQueue()
        stop = threading.Event()
        listener = threading.Thread(
            target=self._listen, args=(job_id, record.seq, stop, inbox), name="job-events", daemon=True
        )
        listener.start()
        try:
            return self._follow(job_id, inbox, on_event, is_cancelled, patience_s)
        finally:
            stop.set()
            listener.join(timeout=5.0)

    def _job_patiently(self, job_id: str, patience_s: float) -> JobRecord:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return self.job(job_id)
            except ConnectionLost:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)

    def _follow(
        self,
        job_id: str,
        inbox: queue.SimpleQueue[JobEvent | FluxError],
        on_event: Callable[[JobEvent], None] | None,
        is_cancelled: Callable[[], bool] | None,
        patience_s: float,
    ) -> JobRecord:
        is_asked = False
        while True:
            if is_cancelled is not None and not is_asked and is_cancelled():
                with contextlib.suppress(ConnectionLost):  # asked again at the next turn
                    self.cancel(job_id)
                    is_asked = True
            try:
                event = inbox.get(timeout=_POLL_S)
            except queue.Empty:
                if self._health.silence_s() > patience_s:
                    raise ConnectionLost(
                        f"The service at {self.endpoint} has said nothing for {patience_s:.0f} s.",
                        "The job goes on by itself; ask for it again later.",
                    ) from None
                continue
            if isinstance(event, FluxError):
                raise event
            if on_event is not None:
                on_event(event)
            if event.record is not None and event.record.state.is_final:
                return event.record

    def _listen(
        self, job_id: str, since: int, stop: threading.Event, inbox: queue.SimpleQueue[JobEvent | FluxError]
    ) -> None:
        try:
            for event in self.events(since, stop):
                if event.job_id == job_id:
                    inbox.put(event)
        except FluxError as err:
            inbox.put(err)

    def _job(self, method: str, job_id: str, action: str = "", content: str | None = None) -> JobRecord:
        try:
            name = str(uuid.UUID(job_id))
        except ValueError as err:
            raise RequestInvalid(f"{job_id[:40]!r} is not a job id.", "A job id is a UUID.") from err
        headers = {"Content-Type": "application/json"} if content is not None else None
        path = f"/v1/jobs/{name}{action}"
        return parse(JobRecord, self._connection.ask(method, path, content=content, headers=headers).content)

    def _put_rest(self, sha256: str, data: bytes) -> bool:
        path = f"/v1/blobs/{sha256}"
        known = self._connection.ask("HEAD", path, allow=(404,))
        if known.status_code != 404:
            return True
        offset = int(known.headers.get("Upload-Offset", "0"))
        if offset >= len(data):  # a service was killed before it could check the whole: send it anew
            offset = 0
        headers = {"Content-Length": str(len(data) - offset), "Content-Type": "application/octet-stream"}
        if offset:
            headers["Content-Range"] = f"bytes {offset}-{len(data) - 1}/{len(data)}"
        pieces = (data[at : at + _CHUNK_BYTES] for at in range(offset, len(data), _CHUNK_BYTES))
        # 416: somebody else sent a part meanwhile; ask again how much is there.
        answer = self._connection.ask("PUT", path, allow=(416,), headers=headers, content=pieces)
        return answer.status_code != 416

    def _get_rest(self, sha256: str, received: bytearray) -> None:
        headers = {"Range": f"bytes={len(received)}-"} if received else {}
        with self._connection.stream(f"/v1/blobs/{sha256}", headers) as answer:
            for piece in answer.iter_bytes(_CHUNK_BYTES):
                received += piece
