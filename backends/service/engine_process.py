"""One engine in a child process, seen from the service.

Starts the worker, hands it jobs one at a time, passes on what it says, and knows why it ended. An
engine that dies takes down the job it was running and nothing else; the next job gets a new one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from backends.service.pipe import MAX_LINE_BYTES, CancelOrder, Report, RunOrder
from backends.service.postmortem import EngineLog, count_oom_kills, explain_end
from flux_core.errors import Cancelled, EngineDied, FluxError
from flux_core.messages import Device, Failed, Finished, Preview, Progress
from flux_core.request import GenerationRequest

WorkerState = Literal["loading", "ready", "busy", "engine_died"]

_CANCEL_GRACE_S = 30.0
_STOP_GRACE_S = 2.0
_DRAIN_S = 1.0

log = logging.getLogger("flowbrush.service.engine")


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """How to start a worker.

    Attributes:
        engine: As backends.engines.load_factory takes it.
        share: How many workers share this machine's processor.
        environ: Added to the environment, for example to choose a device.
    """

    engine: str
    blobs: Path
    models_dirs: tuple[Path, ...]
    log: Path
    share: int = 1
    environ: Mapping[str, str] = field(default_factory=dict)

    def command(self) -> list[str]:
        models = [part for folder in self.models_dirs for part in ("--models", str(folder))]
        options = ["--engine", self.engine, "--blobs", str(self.blobs), "--share", str(self.share)]
        return [sys.executable, "-m", "backends.service.worker", *options, *models]


@dataclass(slots=True)
class _Job:
    job_id: str
    on_message: Callable[[Progress | Preview], None]
    outcome: asyncio.Future[Finished | Failed]
    is_cancelled: bool = False

    def end(self, outcome: Finished | Failed) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class EngineProcess:
    """Keeps one engine alive and runs one job at a time on it."""

    def __init__(
        self, spec: WorkerSpec, on_change: Callable[[], None], cancel_grace_s: float = _CANCEL_GRACE_S
    ) -> None:
        self._spec = spec
        self._on_change = on_change
        self._cancel_grace_s = cancel_grace_s
        self._log = EngineLog(spec.log)
        self._starting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._is_ready = False
        self._is_stopping = False
        self._job: _Job | None = None
        self._refusal: Failed | None = None  # why the engine could not be made
        self.devices: tuple[Device, ...] = ()
        self.detail = ""  # why the last process ended, with its last words, until a job succeeds

    @property
    def state(self) -> WorkerState:
        if self._process is None:
            return "engine_died"
        if not self._is_ready:
            return "loading"
        return "busy" if self._job else "ready"

    async def start(self) -> None:
        """Starts the process unless it runs; does not wait for the engine.

        Raises:
            EngineDied: The process cannot be started.
        """
        async with self._starting:
            if self._process is not None or self._is_stopping:
                return
            self._is_ready, self._refusal = False, None
            self._log.begin(f"starting {self._spec.engine}")
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._spec.command(),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    limit=MAX_LINE_BYTES,
                    env={**os.environ, **self._spec.environ},
                )
            except OSError as err:
                message = f"The engine cannot be started: {err.strerror or err}."
                raise EngineDied(message, "Free some memory, or install Flowbrush again.") from err
            log.info("engine started", extra={"engine": self._spec.engine, "pid": self._process.pid})
            self._watcher = asyncio.create_task(self._watch(self._process, count_oom_kills()))
        self._on_change()

    async def run(
        self, job_id: str, request: GenerationRequest, on_message: Callable[[Progress | Preview], None]
    ) -> Finished | Failed:
        """Carries a job out; never raises for what the engine does."""
        job = _Job(job_id, on_message, asyncio.get_running_loop().create_future())
        self._job = job
        self._on_change()
        try:
            await self.start()
            if not job.outcome.done():  # cancelled while the process was started
                self._send(RunOrder(job_id=job_id, request=request))
            outcome = await job.outcome
        except FluxError as err:
            outcome = Failed.of(err)
        finally:
            self._job = None
        if isinstance(outcome, Finished):
            self.detail = ""
        self._on_change()
        return outcome

    def cancel(self, job_id: str) -> bool:
        """Asks the engine to stop this job; False if it does not run here.

        An engine that does not obey in time is ended.
        """
        job = self._job
        if job is None or job.job_id != job_id:
            return False
        if job.is_cancelled:
            return True
        job.is_cancelled = True
        self._send(CancelOrder(job_id=job_id))
        if self._is_ready:
            asyncio.get_running_loop().call_later(self._cancel_grace_s, self._end_if_running, job)
        else:  # nothing to stop yet, so nobody has to wait for the engine
            job.end(_cancelled())
        return True

    async def stop(self) -> None:
        """Ends the process for good."""
        self._is_stopping = True
        async with self._starting:
            process = self._process
        if process is None or self._watcher is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        done, _ = await asyncio.wait({self._watcher}, timeout=_STOP_GRACE_S)
        if not done:
            _kill(process)
            await self._watcher

    def _send(self, order: RunOrder | CancelOrder) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(order.model_dump_json().encode() + b"\n")

    def _end_if_running(self, job: _Job) -> None:
        if self._job is job and self._process is not None:
            log.warning("engine does not obey a cancel", extra={"job_id": job.job_id})
            _kill(self._process)

    async def _watch(self, process: asyncio.subprocess.Process, oom_kills_before: int) -> None:
        """Reads the process until it ends, then says why it ended."""
        assert process.stdout is not None
        assert process.stderr is not None
        stderr = asyncio.create_task(self._read_log(process.stderr))
        await self._read_reports(process, process.stdout)
        exit_code = await process.wait()
        await asyncio.wait({stderr}, timeout=_DRAIN_S)  # a grandchild may hold it open
        stderr.cancel()
        was_ready = self._is_ready
        self._process, self._is_ready = None, False
        if self._is_stopping:
            return
        self._bury(explain_end(exit_code, count_oom_kills() - oom_kills_before))
        self._on_change()
        if was_ready:  # one that could not even start is tried again with the next job only
            try:
                await self.start()
            except EngineDied as err:
                self.detail = str(err)

    def _bury(self, reason: str) -> None:
        lines = self._log.last_lines()
        self.detail = "\n".join([f"The engine stopped: {reason}.", *lines])
        log.error("engine died", extra={"engine": self._spec.engine, "reason": reason})
        if self._job is None:
            return
        if self._job.is_cancelled:
            self._job.end(_cancelled())
            return
        said = f' Its last words were "{lines[-1][:200]}".' if lines else ""
        died = EngineDied(
            f"The engine stopped in the middle of the job: {reason}.{said}",
            "The next job starts a fresh engine; a smaller picture needs less memory.",
        )
        self._job.end(self._refusal or Failed.of(died))

    async def _read_reports(self, process: asyncio.subprocess.Process, reports: asyncio.StreamReader) -> None:
        try:
            async for line in reports:
                self._hear(Report.model_validate_json(line))
        except (ValidationError, ValueError):
            self._log.write(b"The engine said something that is not a report.\n")
            _kill(process)

    async def _read_log(self, stderr: asyncio.StreamReader) -> None:
        while chunk := await stderr.read(65536):
            self._log.write(chunk)

    def _hear(self, report: Report) -> None:
        if report.devices is not None:
            self.devices = report.devices
            if not self._is_ready:
                self._is_ready = True
                log.info("engine ready", extra={"engine": self._spec.engine})
                self._on_change()
        message, job = report.message, self._job
        if message is None:
            return
        if not report.job_id and isinstance(message, Failed):
            self._refusal = message
            self._log.write(f"{message.message}\n".encode())
        elif job is not None and report.job_id == job.job_id:
            if isinstance(message, Finished | Failed):
                job.end(message)
            else:
                job.on_message(message)


def _cancelled() -> Failed:
    return Failed.of(Cancelled("The job was cancelled."))


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
