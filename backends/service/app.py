"""The service's HTTP face: routes in, JSON and server-sent events out, and nothing decided here.

Every error leaves as {"code", "message", "hint"} with a fitting status. Bodies are read with a bound
and parsed by the messages' own models, so that a person gets the same sentence here as in a form.
"""

from __future__ import annotations

import contextlib
import hmac
import re
import time
import uuid
from collections.abc import AsyncIterator
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from backends.service.blobs import BlobStore
from backends.service.jobs import JobService
from backends.service.refusals import NotAllowed, Refused, TooLarge, WrongOffset
from backends.service.uploads import Uploads
from flux_core.errors import (
    ConnectionLost,
    Corrupt,
    EngineDied,
    FluxError,
    Internal,
    ModelMissing,
    OutOfMemory,
    RequestInvalid,
    StorageFull,
)
from flux_core.messages import Failed, Hello, JobEdit, JobRecord, JobSubmission
from flux_core.request import explain

MAX_JSON_BYTES = 8 * 1024 * 1024

_STATUS: dict[type[FluxError], int] = {
    RequestInvalid: 422,
    ModelMissing: 404,
    Corrupt: 422,
    OutOfMemory: 503,
    StorageFull: 507,
    ConnectionLost: 503,
    EngineDied: 503,
}

M = TypeVar("M", bound=BaseModel)


class Gate:
    """Lets in who has the token, and knows how long nobody has come.

    Args:
        app: What is behind the gate.
        token: Needed with every request; None lets everybody in (a Unix socket has its own lock).
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode() if token else None
        self._num_open = 0
        self._last_at = time.monotonic()

    @property
    def quiet_s(self) -> float:
        """Seconds since the last request ended; 0 while one is open."""
        return 0.0 if self._num_open else time.monotonic() - self._last_at

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if self._expected is not None and not hmac.compare_digest(given, self._expected):
            error = NotAllowed("The token is missing or wrong.", "Read it from the service's token file.")
            await _answer(error)(scope, receive, send)
            return
        self._num_open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._num_open -= 1
            self._last_at = time.monotonic()


def create_app(service: JobService) -> FastAPI:
    """The application of a service that was started; it stops the service with itself."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.stop()

    app = FastAPI(title="Flowbrush", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    _add_error_answers(app)
    _add_blob_routes(app, service.blobs)
    _add_job_routes(app, service)

    @app.get("/v1/hello")
    async def hello() -> Hello:
        return await service.hello()

    @app.get("/v1/events")
    async def events(request: Request) -> Response:
        since = request.headers.get("last-event-id") or request.query_params.get("since") or "0"
        if not re.fullmatch(r"\d{1,18}", since):
            raise Refused(f"{since[:40]!r} is not the number of an event.", "Use the id of an event.")
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        stream = service.events.stream(int(since))
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    return app


def _add_job_routes(app: FastAPI, service: JobService) -> None:
    @app.get("/v1/jobs")
    async def jobs() -> list[JobRecord]:
        return service.jobs()

    @app.get("/v1/jobs/{job_id}")
    async def job(job_id: str) -> JobRecord:
        return service.job(_job_id(job_id))

    @app.put("/v1/jobs/{job_id}")
    async def put_job(job_id: str, request: Request, response: Response) -> JobRecord:
        submission = await _read(JobSubmission, request)
        record, is_new = service.submit(_job_id(job_id), submission)
        response.status_code = 201 if is_new else 200
        return record

    @app.patch("/v1/jobs/{job_id}")
    async def patch_job(job_id: str, request: Request) -> JobRecord:
        return service.edit(_job_id(job_id), await _read(JobEdit, request))

    @app.post("/v1/jobs/{job_id}/cancel")
    async def cancel(job_id: str) -> JobRecord:
        return service.cancel(_job_id(job_id))

    @app.post("/v1/jobs/{job_id}/ack")
    async def acknowledge(job_id: str) -> JobRecord:
        return service.acknowledge(_job_id(job_id))


def _add_blob_routes(app: FastAPI, blobs: BlobStore) -> None:
    uploads = Uploads(blobs)

    @app.head("/v1/blobs/{sha256}")
    async def head_blob(sha256: str) -> Response:
        if blobs.has(sha256):
            return Response(headers={"Content-Length": str(blobs.path(sha256).stat().st_size)})
        return Response(status_code=404, headers={"Upload-Offset": str(blobs.received_bytes(sha256))})

    @app.get("/v1/blobs/{sha256}")
    async def get_blob(sha256: str) -> Response:
        return FileResponse(blobs.path(sha256), media_type="application/octet-stream")

    @app.put("/v1/blobs/{sha256}")
    async def put_blob(sha256: str, request: Request) -> Response:
        received_bytes = await uploads.receive(sha256, request)
        if received_bytes is None:
            return Response(status_code=201)
        return Response(status_code=202, headers={"Upload-Offset": str(received_bytes)})


def _add_error_answers(app: FastAPI) -> None:
    @app.exception_handler(FluxError)
    async def flux_error(_: Request, err: FluxError) -> Response:
        return _answer(err)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, err: HTTPException) -> Response:
        error = Refused(f"There is nothing here: {err.detail}.", "Check the address and the method.")
        return _answer(error, err.status_code)

    @app.exception_handler(Exception)
    async def other_error(_: Request, err: Exception) -> Response:
        message = f"The service made a mistake ({type(err).__name__})."
        return _answer(Internal(message, "Report it; the service's log has the details."))


def _answer(err: FluxError, status: int | None = None) -> Response:
    if status is None:
        status = err.status if isinstance(err, Refused) else _STATUS.get(type(err), 500)
    headers = {"Upload-Offset": str(err.offset)} if isinstance(err, WrongOffset) else {}
    content = Failed.of(err).model_dump_json(exclude={"kind"})
    return Response(content, status, headers, "application/json")


async def _read(model: type[M], request: Request) -> M:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_JSON_BYTES:
            raise TooLarge("The request is too long.", "Send pictures as blobs, and a shorter prompt.")
    try:
        return model.model_validate_json(bytes(body))
    except ValidationError as err:
        raise Refused(*explain(err)) from None


def _job_id(given: str) -> str:
    try:
        canonical = str(uuid.UUID(given))
    except ValueError:
        canonical = ""
    if canonical != given.lower():
        raise Refused(f"{given[:40]!r} is not a job id.", "A job id is a UUID, made by the client.")
    return canonical
