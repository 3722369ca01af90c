"""The shared engine on MLX: Metal on a Mac, the processor elsewhere.

Metal shares the machine's memory, so what is free is what the system has left. MLX keeps freed
buffers for itself; they are given back when a job ran out of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

from backends.mlx_metal.backend import MlxBackend
from flux_core import machine
from flux_core.engine import EngineResult
from flux_core.messages import Device, Preview, Progress
from flux_core.pipeline import FluxEngine, out_of_memory
from flux_core.request import GenerationRequest, Precision

_SHARE_OF_FREE_MEMORY = 0.6  # for weights that stay; the rest is for activations and for others
_CACHE_BYTES = 256 * 2**20  # of freed buffers; without a limit a job leaves gigabytes behind


class MlxEngine(FluxEngine):
    """flux_core.engine.Engine on MLX's default device.

    Args:
        models_dirs: Where models are looked for.
    """

    def __init__(self, models_dirs: tuple[Path, ...]) -> None:
        is_metal = mx.default_device() == mx.Device(mx.gpu)

        def devices() -> tuple[Device, ...]:
            device = machine.processor()
            return (device.model_copy(update={"kind": "metal"}) if is_metal else device,)

        super().__init__(
            name="mlx",
            backend=MlxBackend(),
            models_dirs=models_dirs,
            list_devices=devices,
            auto_precision=Precision.BF16 if is_metal else Precision.FP32,
            memory_budget_bytes=int(devices()[0].memory_free_bytes * _SHARE_OF_FREE_MEMORY),
        )

    def run(
        self,
        request: GenerationRequest,
        read_blob: Callable[[str], bytes],
        say: Callable[[Progress | Preview], None],
        is_cancelled: Callable[[], bool],
    ) -> EngineResult:
        try:
            return super().run(request, read_blob, say, is_cancelled)
        except RuntimeError as err:
            if not _is_out_of_memory(err):
                raise
            self.release()
            mx.clear_cache()
            raise out_of_memory(request) from err


def create(models_dirs: tuple[Path, ...]) -> MlxEngine:
    """The engine of MLX's default device; limits MLX's buffer cache for the whole process."""
    mx.set_cache_limit(_CACHE_BYTES)
    return MlxEngine(models_dirs)


def _is_out_of_memory(err: RuntimeError) -> bool:
    """MLX raises a plain RuntimeError, from its allocator or from a command buffer."""
    text = str(err).lower()
    return "malloc" in text or "insufficient memory" in text
