"""Where jobs are carried out: the seam between the job service and its workers.

The service asks a pool to run a job and hears how it goes; whether the workers are processes of this
machine or elsewhere is the pool's business. LocalPool keeps one engine process for each device.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from backends.service.engine_process import EngineProcess, WorkerSpec, WorkerState
from flux_core.errors import EngineDied
from flux_core.messages import Device, Failed, Finished, Preview, Progress
from flux_core.request import GenerationRequest


class WorkerPool(Protocol):
    """Runs at most `capacity` jobs at a time."""

    @property
    def capacity(self) -> int: ...

    @property
    def devices(self) -> tuple[Device, ...]:
        """What the workers compute on, as they last said."""
        ...

    @property
    def state(self) -> WorkerState:
        """As ServiceHealth.state."""
        ...

    @property
    def detail(self) -> str:
        """Why a worker died, or ""."""
        ...

    async def start(self) -> None:
        """Gets the workers going; does not wait until they are ready."""
        ...

    async def stop(self) -> None:
        """Ends every worker; jobs in them are lost."""
        ...

    async def run(
        self, job_id: str, request: GenerationRequest, on_message: Callable[[Progress | Preview], None]
    ) -> Finished | Failed:
        """Carries a job out. Whatever goes wrong is a Failed, never an exception."""
        ...

    def cancel(self, job_id: str) -> None:
        """Asks that a job stop; `run` returns soon after, with whatever came of it."""
        ...


class LocalPool:
    """Engine processes on this machine, one for each device."""

    def __init__(self, specs: Sequence[WorkerSpec], on_change: Callable[[], None]) -> None:
        self._workers = [EngineProcess(spec, on_change) for spec in specs]
        self._idle = list(self._workers)

    @property
    def capacity(self) -> int:
        return len(self._workers)

    @property
    def devices(self) -> tuple[Device, ...]:
        found: dict[object, Device] = {}
        for worker in self._workers:
            for place, device in enumerate(worker.devices):
                # Workers on one processor speak of the same device; two GPUs may have the same name.
                found[(worker, place) if device.kind == "cuda" else device.name] = device
        return tuple(found.values())

    @property
    def state(self) -> WorkerState:
        states = {worker.state for worker in self._workers}
        order: tuple[WorkerState, ...] = ("ready", "loading", "busy", "engine_died")
        return next(state for state in order if state in states)

    @property
    def detail(self) -> str:
        return "\n".join(worker.detail for worker in self._workers if worker.detail)

    async def start(self) -> None:
        for worker in self._workers:
            try:
                await worker.start()
            except EngineDied as err:
                worker.detail = str(err)

    async def stop(self) -> None:
        await asyncio.gather(*(worker.stop() for worker in self._workers))

    async def run(
        self, job_id: str, request: GenerationRequest, on_message: Callable[[Progress | Preview], None]
    ) -> Finished | Failed:
        worker = self._idle.pop(0)
        try:
            return await worker.run(job_id, request, on_message)
        finally:
            self._idle.append(worker)

    def cancel(self, job_id: str) -> None:
        for worker in self._workers:
            worker.cancel(job_id)
