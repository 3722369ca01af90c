"""A rank that follows the engine: it does what rank 0 orders, in the same order on every rank.

Whatever goes wrong is said, and then the process ends, because it would be out of step.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.devices import device_of, is_out_of_memory, prepare_products
from backends.torch_cuda.recording import Recording, Tape
from backends.torch_cuda.split.caches import Obeying
from backends.torch_cuda.split.direct import linked
from backends.torch_cuda.split.evaluation import evaluated, recorded
from backends.torch_cuda.split.inputs import Inputs, built
from backends.torch_cuda.split.links import Links, Way, prepare_environment
from backends.torch_cuda.split.messages import (
    ORDERS,
    CacheOrder,
    EvaluateOrder,
    FreeOrder,
    LoadOrder,
    Order,
    Report,
)
from flux_core.errors import FluxError, Internal, OutOfMemory
from flux_core.models.transformer import Transformer
from flux_core.parts import Parts
from flux_core.plan import Component, PartKey
from flux_core.request import Precision
from flux_core.weights.lora.library import open_lora

_TRANSFORMER = PartKey(Component.TRANSFORMER)


class Follower:
    """One rank but the first.

    Args:
        backend: Of its device, with operations that can be split.
        links: To the other ranks.
        orders: Waits for the next one and gives it.
        reports: Where it writes.
    """

    def __init__(
        self, backend: TorchBackend, links: Links, orders: Callable[[], bytes], reports: BinaryIO
    ) -> None:
        self._backend = backend
        self._links = links
        self._orders = orders
        self._reports = reports
        self._parts = Parts(backend)
        self._model: Transformer | None = None
        self._recordings: dict[int, Recording] = {}
        self._tape = Tape(backend.device)
        self._taken_over: dict[int, Any] = {}  # what step caches remember, by number

    def obey(self) -> None:
        """Carries out the next order."""
        match self._next():
            case LoadOrder() as order:
                self._load(order)
            case EvaluateOrder() as order:
                self._evaluate(order)
            case FreeOrder():
                self._model = None
                self._recordings.clear()
                self._taken_over.clear()
                self._parts.free_all()
            case CacheOrder():
                raise ValueError("a step cache has decided outside of an evaluation")

    def say(self, report: Report) -> None:
        try:
            self._reports.write(report.model_dump_json(exclude_none=True).encode() + b"\n")
            self._reports.flush()
        except OSError:
            os._exit(0)  # nobody reads any more

    def _next(self) -> Order:
        return ORDERS.validate_json(self._orders())

    def _load(self, order: LoadOrder) -> None:
        if order.precision is Precision.FP8:
            self._backend.has_fp8 = True
        loras = tuple(open_lora(each.path, each.name, each.strength, order.spec) for each in order.loras)
        self._parts.choose(order.spec, order.folder, order.precision, loras)
        if not self._parts.is_ready(_TRANSFORMER):
            self._recordings.clear()
        self._model = self._parts.get(_TRANSFORMER)
        self._backend.wait()
        self.say(Report(loaded=order.number))

    def _evaluate(self, order: EvaluateOrder) -> None:
        for kind in order.forgotten:
            self._recordings.pop(kind, None)
        if order.how == "replay":
            self._recordings[order.kind].repeat()
            return
        assert self._model is not None
        inputs: Inputs = built(order.inputs, self._backend.device)
        evaluated(self._model, self._links, inputs, self._cache(order))
        if order.how == "record":
            found = recorded(self._model, self._links, inputs, self._tape)
            if found is not None:
                self._recordings[order.kind] = found
            self.say(Report(recorded=found is not None))

    def _cache(self, order: EvaluateOrder) -> Obeying | None:
        for number in self._taken_over.keys() - set(order.caches):
            del self._taken_over[number]
        if order.cache is None:
            return None

        def is_taken_over() -> bool:
            decision = self._next()
            assert isinstance(decision, CacheOrder)
            return decision.is_taken_over

        return Obeying(self._taken_over, order.cache, is_taken_over)


def follow(
    device: str, meet: Path, rank: int, size: int, way: Way, orders: Callable[[], bytes], reports: BinaryIO
) -> NoReturn:
    """Follows for the rest of the process's life.

    Args:
        device: Of this rank.
        meet: File where the ranks meet.
        rank: Of this process.
        size: How many there are.
        way: As Links takes it.
        orders: Waits for the next one and gives it.
        reports: Where it writes.
    """
    prepare_environment()
    prepare_products()
    try:
        backend = TorchBackend(device, is_split=True)
        if backend.device.type == "cuda":
            torch.cuda.set_device(backend.device)
        links = linked(meet, rank, size, backend.device, way)
        follower = Follower(backend, links, orders, reports)
        follower.say(Report(device=device_of(backend.device)))
        links.meet()
        with backend.session():
            while True:
                follower.obey()
    except Exception as err:  # noqa: BLE001 # the edge of the process: every failure must be said
        traceback.print_exc(file=sys.stderr)
        known = _as_flux_error(err)
        report = Report(failed=(known.code, known.message, known.hint))
        reports.write(report.model_dump_json(exclude_none=True).encode() + b"\n")
        reports.flush()
        os._exit(1)  # without waiting for what the device still waits for


def _as_flux_error(err: Exception) -> FluxError:
    if isinstance(err, FluxError):
        return err
    if isinstance(err, MemoryError) or (isinstance(err, RuntimeError) and is_out_of_memory(err)):
        return OutOfMemory("there is not enough memory on its device", "Choose a smaller size.")
    return Internal(f"{type(err).__name__}: {(str(err).splitlines() or [''])[0]}"[:300])
