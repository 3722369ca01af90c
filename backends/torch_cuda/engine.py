"""The shared engine on torch: a CUDA device when there is one, else the processor.

This is where torch's own ways of running out of memory become the one error that a person can act
on. The number of threads is the process's affair (OMP_NUM_THREADS), because engines share a machine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from backends.torch_cuda import warm_up
from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.helpers import TorchHelpers
from backends.torch_cuda.memory import free_and_total_bytes
from backends.torch_cuda.processor import keep_freed_memory
from flux_core import catalog, machine
from flux_core.engine import EngineResult
from flux_core.messages import Device, Preview, Progress
from flux_core.pipeline import FluxEngine, out_of_memory
from flux_core.request import GenerationRequest, Precision

_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
_SHARE_OF_FREE_MEMORY = 0.6  # for weights that stay; the rest is for activations and for others


class TorchEngine(FluxEngine):
    """flux_core.engine.Engine on a torch device.

    Args:
        device: "cpu", "cuda" or "cuda:1".
        models_dirs: Where models are looked for.
        memory_budget_bytes: Weights that may stay in memory between jobs; None is a share of what is free.
        free_bytes: As TorchBackend takes it.
    """

    def __init__(
        self,
        device: str,
        models_dirs: tuple[Path, ...],
        memory_budget_bytes: int | None = None,
        free_bytes: Callable[[], int] | None = None,
    ) -> None:
        backend = TorchBackend(device, free_bytes)
        is_cuda = backend.device.type == "cuda"

        def devices() -> tuple[Device, ...]:
            return (_cuda_device(backend.device) if is_cuda else machine.processor(),)

        if memory_budget_bytes is None:
            memory_budget_bytes = int(devices()[0].memory_free_bytes * _SHARE_OF_FREE_MEMORY)
        self._cold: TorchBackend | None = backend  # until the first job has begun
        super().__init__(
            name="torch",
            backend=backend,
            models_dirs=models_dirs,
            list_devices=devices,
            auto_precision=Precision.BF16 if is_cuda else Precision.FP32,
            memory_budget_bytes=memory_budget_bytes,
            helpers=TorchHelpers(backend.device, models_dirs),
            has_fp8=backend.has_fp8,
            ready=backend.graphs.ready,
        )

    def run(
        self,
        request: GenerationRequest,
        read_blob: Callable[[str], bytes],
        say: Callable[[Progress | Preview], None],
        is_cancelled: Callable[[], bool],
    ) -> EngineResult:
        spec = catalog.MODELS.get(request.model)
        if self._cold is not None and spec is not None and request.look is None:
            warm_up.start(self._cold, request, spec)
            self._cold = None
        try:
            return super().run(request, read_blob, say, is_cancelled)
        except RuntimeError as err:
            if not is_out_of_memory(err):
                raise
            self.release()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise out_of_memory(request) from err


def create(models_dirs: tuple[Path, ...]) -> TorchEngine:
    """The engine of this machine's best torch device."""
    if torch.cuda.is_available():
        return TorchEngine("cuda", models_dirs)
    keep_freed_memory()
    return TorchEngine("cpu", models_dirs)


def is_out_of_memory(err: RuntimeError) -> bool:
    """Torch has a class for its CUDA allocator only; the processor and CUDA's libraries say it in words."""
    return isinstance(err, torch.OutOfMemoryError) or any(words in str(err) for words in _NO_MEMORY)


def _cuda_device(device: torch.device) -> Device:
    free, total = free_and_total_bytes(device)
    name = torch.cuda.get_device_name(device)
    return Device(name=name, kind="cuda", memory_total_bytes=total, memory_free_bytes=free)
