"""Where a job's parts lie while it runs: loaded when a stage needs them, kept if everything fits.

Parts stay between jobs when they all fit into memory, else each one is freed as soon as its stage is over.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from typing import Any

from flux_core.messages import Stage
from flux_core.ops import Backend
from flux_core.parts import Parts
from flux_core.pipeline.job import Job
from flux_core.plan import Component, PartKey

MAX_REMEMBERED = 32
Ready = Callable[[Callable[..., Any]], Callable[..., Any]]
"""A method that is called with arrays of the same shapes again -> the same, quicker where a backend can."""


def as_it_is(method: Callable[..., Any]) -> Callable[..., Any]:
    """The `Ready` of a backend that can do nothing about it."""
    return method


class Workbench:
    """The parts of one engine, and what it remembers of earlier jobs.

    Args:
        backend: The device's operations.
        budget_bytes: Weights that may stay in memory between jobs.
        ready: Makes a part that stays ready for being called now and then.
    """

    def __init__(self, backend: Backend, budget_bytes: int, ready: Ready = as_it_is) -> None:
        self.backend = backend
        self.parts = Parts(backend)
        self._budget_bytes = budget_bytes
        self._ready = ready
        self._remembered: OrderedDict[Any, Any] = OrderedDict()

    def clear(self) -> None:
        """Forgets every weight and everything encoded."""
        self.parts.free_all()
        self._remembered.clear()

    def lay_out(self, job: Job, is_known: Callable[[PartKey], bool]) -> None:
        """Chooses the job's parts, and loads them all if they fit.

        Args:
            job: What comes.
            is_known: Whether what a part would compute is remembered, so that it need not be loaded.
        """
        self.parts.choose(job.spec, job.folder, job.precision, job.loras, job.companions, job.beside_bytes)
        if not self.is_resident(job):
            self.parts.free_loaded()  # what an earlier job that fitted has left would lie beside each stage
            return
        wanted = [
            key for key in job.plan.keys if key.component not in HELPED and not self.parts.is_ready(key)
        ]
        wanted = [key for key in wanted if not is_known(key)]
        for count, key in enumerate(wanted):
            with job.report.stage(Stage.LOADING):
                self.parts.get(key)
                job.report.progress(Stage.LOADING, (count + 1) / len(wanted))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the person should know of how the job's parts lay in memory."""
        streamed = {key: size for key, size in self.parts.streamed_bytes.items() if size}
        if not streamed:
            return ()
        names = " and ".join(dict.fromkeys(key.component.replace("_", " ") for key in streamed))
        return (
            f"The device's memory does not hold all of {names}: {sum(streamed.values()) / 1e9:.1f} GB of "
            "weights were copied to it whenever they were used, which may have taken longer. Precision fp8 "
            "or a quantised model needs less.",
        )

    def is_resident(self, job: Job) -> bool:
        """Whether all parts of a job may stay."""
        return job.resident_bytes <= self._budget_bytes

    @contextmanager
    def part(self, job: Job, component: Component, name: str = "") -> Generator[Any]:
        """A part while it is used; freed afterwards unless everything fits."""
        key = PartKey(component, name)
        if not self.parts.is_ready(key):
            with job.report.stage(Stage.LOADING):
                self.parts.get(key)
        try:
            yield self.parts.get(key)
        finally:
            if not self.is_resident(job):
                self.parts.free(key)

    def ready(self, job: Job, component: Component, method: Callable[..., Any]) -> Callable[..., Any]:
        """A method of a part; where it stays, and nothing of it streams, ready for being called again."""
        stays = self.is_resident(job) and not self.parts.streamed_bytes.get(PartKey(component))
        return self._ready(method) if stays else method

    def knows(self, key: Any) -> bool:
        """Whether something encoded is remembered."""
        return key in self._remembered

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, now or for an earlier job; the oldest is forgotten."""
        if key not in self._remembered:
            self._remembered[key] = make()
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        self._remembered.move_to_end(key)
        return self._remembered[key]


HELPED: Collection[Component] = (Component.DEPTH_ESTIMATOR, Component.UPSCALER, Component.HELPER)
"""Parts that are no model of ours: helpers load and free them."""
