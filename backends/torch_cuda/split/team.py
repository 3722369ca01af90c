"""Rank 0's side of a picture on several devices: who takes part in which evaluation.

What cannot be split (heads that do not divide, a handful of tokens) is evaluated here alone, and so is
everything while the followers cannot be had.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.split.crew import Crew
from backends.torch_cuda.split.inputs import Inputs
from backends.torch_cuda.split.leading import Leading
from backends.torch_cuda.split.links import Way, way_between
from backends.torch_cuda.split.messages import FreeOrder, LoadOrder, LoraOrder
from flux_core.messages import Device
from flux_core.models.transformer import Transformer
from flux_core.pipeline.job import Job
from flux_core.plan import Component
from flux_core.sampling.step_cache import Sparing

MAX_FAILURES = 3
"""Crews in a row that fail before a picture is done; then this device goes on alone."""

MIN_TOKENS = 8
"""Of text and of image on each rank; cuBLAS refuses some eight-bit products of a single row."""

_SPLIT = ("residuals", "image_prompts", "bias")

_log = logging.getLogger(__name__)
Method = Callable[..., Any]


class Team:
    """An engine's device and the devices that follow it.

    Args:
        backend: Of the engine, with operations that can be split.
        devices: Of the followers.

    Attributes:
        crew: The followers; None where they failed too often.
        was_split: Whether evaluations of the last job went over all devices.
    """

    def __init__(self, backend: TorchBackend, devices: Sequence[str]) -> None:
        self._backend = backend
        self._names = tuple(devices)
        self._failures = 0
        self._number = 0  # of the last order to load
        self._check: Callable[[], None] | None = None  # of the job that the crew was told of
        self.was_split = False
        self._way: Way = way_between([str(backend.device), *self._names])
        self.crew: Crew | None = Crew(backend.device, self._names, self._way)
        self._leading = Leading(backend, self.crew)

    @property
    def devices(self) -> tuple[Device, ...]:
        """Of the followers, as they last said."""
        return tuple(self.crew.seen.values()) if self.crew is not None else ()

    def load(self, job: Job) -> None:
        """Has the followers load what a job's walk needs, while this process loads its own."""
        self._check, self.was_split = None, False
        if self.crew is not None and self.crew.is_over:
            self._replace()
        if self.crew is None or job.spec.transformer.num_heads % (len(self._names) + 1):
            return
        self._check = job.report.check
        self._number += 1
        loras = [lora for lora in job.loras if lora.touches(Component.TRANSFORMER)]
        self.crew.send(
            LoadOrder(
                number=self._number,
                spec=job.spec,
                folder=job.folder,
                precision=job.precision,
                loras=tuple(
                    LoraOrder(path=lora.path, name=lora.name, strength=lora.strength) for lora in loras
                ),
            )
        )

    def ready(self, method: Method) -> Method:
        """As Graphs.ready; whole evaluations are split, once the followers have loaded their models."""
        alone = self._backend.graphs.ready(method)
        model = _evaluated_by(method)
        if self.crew is None or self._check is None or model is None:
            return alone
        if not self.crew.wait_loaded(self._number, self._check):
            return alone

        def evaluate(img: Tensor, txt: Tensor, rows: Tensor, pe: Tensor, **told: Any) -> Tensor:
            fewest = min(img.shape[1], txt.shape[1]) // (len(self._names) + 1)
            if len(img) != 1 or fewest < MIN_TOKENS:
                return alone(img, txt, rows, pe, **told)
            self.was_split = True
            steered = {name: told[name] for name in _SPLIT if told.get(name) is not None}
            inputs = Inputs(img, txt, rows, pe, **steered)
            return self._leading.evaluate(model, inputs, told.get("cache"), told.get("heard"))

        return evaluate

    def warnings(self) -> tuple[str, ...]:
        """What a person should know about the job."""
        if self._check is None or self.was_split or self.crew is None or self.crew.failure is None:
            return ()
        return (f"One device computed this alone: {self.crew.failure.message}",)

    def settle(self) -> None:
        """After a walk.

        Raises:
            FluxError: A follower failed meanwhile, so what was computed is worth nothing.
        """
        if self.crew is None:
            return
        if self.was_split and self.crew.failure is not None:
            raise self.crew.failure
        if self.was_split:
            self._failures = 0

    def free(self) -> None:
        """Forgets all weights everywhere."""
        if self.crew is not None:
            self.crew.send(FreeOrder())

    def end(self) -> None:
        """Ends the followers."""
        if self.crew is not None:
            self._leading.end()

    def _replace(self) -> None:
        assert self.crew is not None
        self._leading.end()
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            _log.warning("Other devices failed %d times in a row: one goes on alone.", MAX_FAILURES)
            self.crew = None
            return
        if not self.crew.has_met and self._way == "direct":
            self._way = "nccl"  # a driver may promise what it then refuses
        self.crew = Crew(self._backend.device, self._names, self._way)
        self._leading = Leading(self._backend, self.crew)


def _evaluated_by(method: Method) -> Transformer | None:
    """The model of a whole evaluation; None of a part of one."""
    owner = getattr(method, "__self__", None)
    if isinstance(owner, Sparing):
        return owner.model
    is_whole = method.__name__ == Transformer.modulated.__name__
    return owner if isinstance(owner, Transformer) and is_whole else None
