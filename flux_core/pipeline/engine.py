"""The engine that every backend shares: prepare a job, make its conditions, walk, decode.

A backend gives it arrays, operations and weights; whatever goes wrong in the middle of a job leaves nothing
half-loaded behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from flux_core import machine
from flux_core.engine import EngineImage, EngineResult
from flux_core.errors import Cancelled, OutOfMemory, RequestInvalid
from flux_core.imaging import codec
from flux_core.looking import Look
from flux_core.messages import Device, Preview, Progress, Stage
from flux_core.ops import Backend
from flux_core.pipeline.conditions import ConditionMaker, Conditions
from flux_core.pipeline.helpers import Helpers, NoHelpers
from flux_core.pipeline.job import Job, prepare
from flux_core.pipeline.obeyed import check_look
from flux_core.pipeline.pictures import Pictures
from flux_core.pipeline.walk import walk_all
from flux_core.pipeline.words import Words
from flux_core.pipeline.workbench import Ready, Workbench, as_it_is
from flux_core.plan import Component
from flux_core.reporting import Report
from flux_core.request import GenerationRequest, Precision


class FluxEngine:
    """flux_core.engine.Engine on a backend. One thread owns it.

    Args:
        name: As the service calls it.
        backend: The device's operations.
        models_dirs: Where models are looked for, first match wins.
        list_devices: The devices it computes on, with the memory that is free now.
        auto_precision: What Precision.AUTO means on this device.
        has_fp8: Whether it computes in Precision.FP8.
        memory_budget_bytes: Weights that may stay in memory between jobs.
        helpers: What it has beside FLUX.1.
        ready: Makes the model ready for the many evaluations of a walk.
        ready_in_time: Makes a part that stays ready for being called now and then, a text encoder as well as
            what makes modulations.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        models_dirs: tuple[Path, ...],
        list_devices: Callable[[], tuple[Device, ...]],
        auto_precision: Precision,
        memory_budget_bytes: int,
        helpers: Helpers | None = None,
        has_fp8: bool = False,
        ready: Ready = as_it_is,
        ready_in_time: Ready = as_it_is,
    ) -> None:
        self.name = name
        self._backend = backend
        self._models_dirs = models_dirs
        self._list_devices = list_devices
        self._auto_precision = auto_precision
        self._has_fp8 = has_fp8
        self._bench = Workbench(backend, memory_budget_bytes, ready_in_time)
        self._words = Words(self._bench)
        self._helpers = helpers or NoHelpers()
        self._conditions = ConditionMaker(self._bench, self._words, self._helpers)
        self._pictures = Pictures(self._bench)
        self._ready = ready

    def devices(self) -> tuple[Device, ...]:
        return self._list_devices()

    def run(
        self,
        request: GenerationRequest,
        read_blob: Callable[[str], bytes],
        say: Callable[[Progress | Preview], None],
        is_cancelled: Callable[[], bool],
    ) -> EngineResult:
        report = Report(say, is_cancelled)
        try:
            if request.look is not None:
                return self._look(request, request.look, read_blob, report)
            job = prepare(request, read_blob, self._models_dirs, self._auto_precision, report, self._has_fp8)
            self._helpers.check(request)
        except MemoryError as err:
            self.release()
            raise out_of_memory(request) from err
        try:
            with self._backend.session():
                return self._carry_out(job)
        except (RequestInvalid, Cancelled):
            raise
        except MemoryError as err:
            self.release()
            raise out_of_memory(request) from err
        except Exception:
            self.release()  # what was loaded or attached is in doubt
            raise

    def release(self) -> None:
        """Forgets every weight and everything encoded."""
        self._bench.clear()
        self._pictures.clear()

    def _carry_out(self, job: Job) -> EngineResult:
        self._bench.lay_out(job, lambda key: self._words.is_known(job, key))
        walked = self._walk(job, self._conditions.make(job))  # which nothing holds while pictures are decoded
        images = self._pictures.decode_all(job, walked)
        warnings = job.warnings + self._bench.warnings
        return EngineResult(images, dict(job.report.seconds), machine.peak_memory_bytes(), warnings)

    def _look(
        self, request: GenerationRequest, look: Look, read_blob: Callable[[str], bytes], report: Report
    ) -> EngineResult:
        """Looks are rare beside painting and need its memory, so what paints makes room."""
        check_look(request)
        names = [ref for ref in (request.image, *request.references) if ref is not None]
        images = [codec.decode(read_blob(name), "the picture") for name in names]
        self.release()
        findings, pictures = self._helpers.look(look, images, report)
        report.progress(Stage.LOOKING, 1.0)
        shown = [
            EngineImage(codec.encode_png(picture), picture.shape[1], picture.shape[0], seed=0)
            for picture in pictures
        ]
        return EngineResult(
            tuple(shown), dict(report.seconds), machine.peak_memory_bytes(), findings=tuple(findings)
        )

    def _walk(self, job: Job, conditions: Conditions) -> list[Any]:
        preview = self._pictures.previews(job)
        with ExitStack() as stack:
            nets = {
                name: stack.enter_context(self._bench.part(job, Component.CONTROLNET, name))
                for name in _controlnets(job)
            }
            transformer = stack.enter_context(self._bench.part(job, Component.TRANSFORMER))
            stack.enter_context(job.report.stage(Stage.DENOISING))
            is_last = not self._bench.is_resident(job)
            if is_last:
                self._bench.parts.seal(Component.TRANSFORMER)
            in_time = partial(self._bench.ready, job, Component.TRANSFORMER)
            return walk_all(
                self._backend, job, conditions, transformer, nets, preview, self._ready, in_time, is_last
            )


def out_of_memory(request: GenerationRequest) -> OutOfMemory:
    """What the person reads when a job does not fit."""
    if request.look is not None:
        return OutOfMemory(
            "There is not enough memory to look at the picture.",
            "Choose a smaller picture or a smaller helper, or close other programs.",
        )
    size = f"{request.width_px} x {request.height_px}"
    return OutOfMemory(
        f"There is not enough memory for {size} pixels with the model {request.model!r}.",
        "Choose a smaller size, precision bf16 or a smaller model, or close other programs.",
    )


def _controlnets(job: Job) -> Iterator[str]:
    return (key.name for key in job.plan.keys if key.component is Component.CONTROLNET)
