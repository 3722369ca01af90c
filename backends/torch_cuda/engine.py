"""The shared engine on torch: a CUDA device when there is one, else the processor.

This is where torch's own ways of running out of memory become the one error that a person can act
on. The number of threads is the process's affair (OMP_NUM_THREADS), because engines share a machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.devices import device_of, is_out_of_memory, prepare_products
from backends.torch_cuda.helpers import TorchHelpers
from backends.torch_cuda.processor import keep_freed_memory
from backends.torch_cuda.split.team import Team
from backends.torch_cuda.warm_up import WarmUp
from flux_core import catalog
from flux_core.engine import EngineResult
from flux_core.errors import Cancelled
from flux_core.messages import Device, Preview, Progress
from flux_core.pipeline import FluxEngine, out_of_memory
from flux_core.pipeline.conditions import Conditions
from flux_core.pipeline.job import Job
from flux_core.request import GenerationRequest, Precision

_SHARE_OF_FREE_MEMORY = 0.6  # for weights that stay; the rest is for activations and for others


class TorchEngine(FluxEngine):
    """flux_core.engine.Engine on a torch device.

    Args:
        device: "cpu", "cuda" or "cuda:1".
        models_dirs: Where models are looked for.
        memory_budget_bytes: Weights that may stay in memory between jobs; None is a share of what is free.
        free_bytes: As TorchBackend takes it.
        others: Devices of the same kind on which every picture is computed, too; each gets a process.
    """

    def __init__(
        self,
        device: str,
        models_dirs: tuple[Path, ...],
        memory_budget_bytes: int | None = None,
        free_bytes: Callable[[], int] | None = None,
        others: tuple[str, ...] = (),
    ) -> None:
        prepare_products()
        backend = TorchBackend(device, free_bytes, is_split=bool(others))
        self._team = Team(backend, others) if others else None
        is_cuda = backend.device.type == "cuda"

        def devices() -> tuple[Device, ...]:
            return (device_of(backend.device), *(self._team.devices if self._team is not None else ()))

        if memory_budget_bytes is None:
            memory_budget_bytes = int(devices()[0].memory_free_bytes * _SHARE_OF_FREE_MEMORY)
        self._warm_up = WarmUp(backend)
        super().__init__(
            name="torch",
            backend=backend,
            models_dirs=models_dirs,
            list_devices=devices,
            auto_precision=Precision.BF16 if is_cuda else Precision.FP32,
            memory_budget_bytes=memory_budget_bytes,
            helpers=TorchHelpers(backend.device, models_dirs),
            has_fp8=backend.has_fp8,
            ready=backend.graphs.ready if self._team is None else self._team.ready,
            ready_in_time=backend.graphs.ready_in_time,
        )

    def run(
        self,
        request: GenerationRequest,
        read_blob: Callable[[str], bytes],
        say: Callable[[Progress | Preview], None],
        is_cancelled: Callable[[], bool],
    ) -> EngineResult:
        spec = catalog.MODELS.get(request.model)
        if spec is not None and request.look is None:
            self._warm_up.begin(request, spec)
        try:
            return super().run(request, read_blob, say, is_cancelled)
        except RuntimeError as err:
            if not is_out_of_memory(err):
                raise
            self.release()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise out_of_memory(request) from err

    def release(self) -> None:
        super().release()
        if self._team is not None:
            self._team.free()

    def close(self) -> None:
        """Ends the processes on other devices, which end with this one, too, and begins with nothing more."""
        self._warm_up.end()
        if self._team is not None:
            self._team.end()

    def _carry_out(self, job: Job) -> EngineResult:
        if self._team is None:
            return super()._carry_out(job)
        self._team.load(job)
        result = super()._carry_out(job)
        return replace(result, warnings=(*result.warnings, *self._team.warnings()))

    def _walk(self, job: Job, conditions: Conditions) -> list[Any]:
        if self._team is None:
            return super()._walk(job, conditions)
        try:
            walked = super()._walk(job, conditions)
        except Cancelled:
            raise
        except Exception:
            self._team.settle()  # what a failed device left behind is not the error that counts
            raise
        self._team.settle()
        return walked


def create(models_dirs: tuple[Path, ...]) -> TorchEngine:
    """The engine of all CUDA devices that this process may see; the first one's where there is one."""
    if torch.cuda.is_available():
        first, *others = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        return TorchEngine(first if others else "cuda", models_dirs, others=tuple(others))
    keep_freed_memory()
    return TorchEngine("cpu", models_dirs)
