"""A rank that follows the engine: `python -m backends.torch_cuda.split.follower`.

The main thread does what rank 0 orders; a second one reads the orders and ends the process as soon as nobody
gives any. Whatever goes wrong is said, and then the process ends, because it would be out of step.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.devices import device_of, is_out_of_memory
from backends.torch_cuda.graphs import Recording
from backends.torch_cuda.split.evaluation import evaluated, recorded
from backends.torch_cuda.split.inputs import Inputs, built
from backends.torch_cuda.split.links import Links, prepare_environment
from backends.torch_cuda.split.messages import ORDERS, EvaluateOrder, FreeOrder, LoadOrder, Report
from flux_core.errors import FluxError, Internal, OutOfMemory
from flux_core.machine import die_with_parent
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
        reports: Where it writes.
    """

    def __init__(self, backend: TorchBackend, links: Links, reports: BinaryIO) -> None:
        self._backend = backend
        self._links = links
        self._reports = reports
        self._parts = Parts(backend)
        self._model: Transformer | None = None
        self._recordings: dict[int, Recording] = {}
        self._pool: Any = None

    def obey(self, order: LoadOrder | EvaluateOrder | FreeOrder) -> None:
        match order:
            case LoadOrder():
                self._load(order)
            case EvaluateOrder():
                self._evaluate(order)
            case FreeOrder():
                self._model = None
                self._recordings.clear()
                self._parts.free_all()

    def say(self, report: Report) -> None:
        try:
            self._reports.write(report.model_dump_json(exclude_none=True).encode() + b"\n")
            self._reports.flush()
        except OSError:
            os._exit(0)  # nobody reads any more

    def _load(self, order: LoadOrder) -> None:
        if order.precision is Precision.FP8:
            self._backend.has_fp8 = True
        loras = tuple(open_lora(each.path, each.name, each.strength, order.spec) for each in order.loras)
        self._parts.choose(order.spec, order.folder, order.precision, loras)
        if not self._parts.is_ready(_TRANSFORMER):
            self._recordings.clear()
        self._model = self._parts.get(_TRANSFORMER)
        self._backend.evaluate()
        self.say(Report(loaded=order.number))

    def _evaluate(self, order: EvaluateOrder) -> None:
        for kind in order.forgotten:
            self._recordings.pop(kind, None)
        if order.how == "replay":
            self._recordings[order.kind].repeat()
            return
        assert self._model is not None
        inputs: Inputs = built(order.inputs, self._backend.device)
        evaluated(self._model, self._links, inputs)
        if order.how == "record":
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            found = recorded(self._model, self._links, inputs, self._pool)
            if found is not None:
                self._recordings[order.kind] = found
            self.say(Report(recorded=found is not None))


def _read(orders: BinaryIO, waiting: queue.SimpleQueue[bytes]) -> None:
    for line in orders:
        waiting.put(line)
    os._exit(0)  # rank 0 is gone; nobody waits for what this one does


def main(arguments: Sequence[str] | None = None) -> int:
    """Follows the process at the other end of stdin and stdout."""
    parser = argparse.ArgumentParser(description="Computes its share of another process's pictures.")
    parser.add_argument("--device", required=True)
    parser.add_argument("--meet", required=True, type=Path)
    parser.add_argument("--rank", required=True, type=int)
    parser.add_argument("--size", required=True, type=int)
    parser.add_argument("--way", required=True, choices=["nccl", "gloo"])
    options = parser.parse_args(arguments)
    die_with_parent()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # sent to the whole group, but meant for rank 0
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    reports = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints goes to stderr
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, waiting), name="orders", daemon=True).start()
    prepare_environment()
    try:
        backend = TorchBackend(options.device, is_split=True)
        if backend.device.type == "cuda":
            torch.cuda.set_device(backend.device)
        links = Links(options.meet, options.rank, options.size, backend.device, options.way)
        follower = Follower(backend, links, reports)
        follower.say(Report(device=device_of(backend.device)))
        links.meet()
        with backend.session():
            while True:
                follower.obey(ORDERS.validate_json(waiting.get()))
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


if __name__ == "__main__":
    sys.exit(main())
