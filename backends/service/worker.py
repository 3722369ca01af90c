"""The process in which an engine lives: `python -m backends.service.worker`.

One thread, the main one, makes the engine and runs its jobs; a second one reads orders, so a cancel
is heard in the middle of a job. Whatever a library prints goes to stderr, never between the reports,
and the process ends as soon as the service that started it does.
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
from typing import BinaryIO

import psutil
from pydantic import ValidationError

from backends.engines import load_factory
from backends.service.blobs import BlobStore
from backends.service.pipe import ORDERS, CancelOrder, Report, RunOrder
from flux_core.engine import Engine
from flux_core.errors import Cancelled, FluxError, Internal, ModelMissing, OutOfMemory
from flux_core.machine import die_with_parent
from flux_core.messages import Failed, Finished, Preview, Progress, ResultImage


class Worker:
    """Runs one engine for the service at the other end of two pipes."""

    def __init__(self, orders: BinaryIO, reports: BinaryIO, blobs: BlobStore) -> None:
        self._orders = orders
        self._reports = reports
        self._blobs = blobs
        self._write_lock = threading.Lock()
        self._waiting: queue.SimpleQueue[RunOrder] = queue.SimpleQueue()
        self._cancelled: set[str] = set()

    def serve(self, engine_name: str, models_dirs: tuple[Path, ...]) -> int:
        """Makes the engine, then runs orders until the service goes away; never returns while it lives."""
        threading.Thread(target=self._read_orders, name="orders", daemon=True).start()
        try:
            engine = load_factory(engine_name)(models_dirs)
            self._report(Report(devices=engine.devices()))
        except Exception as err:  # the edge of the process: every failure must be said
            self._report(Report(message=Failed.of(_as_flux_error(err))))
            return 1
        while True:
            order = self._waiting.get()
            outcome = self._run(engine_name, engine, order)
            self._cancelled.discard(order.job_id)
            self._report(Report(job_id=order.job_id, message=outcome, devices=engine.devices()))

    def _run(self, engine_name: str, engine: Engine, order: RunOrder) -> Finished | Failed:
        def say(message: Progress | Preview) -> None:
            self._report(Report(job_id=order.job_id, message=message))

        def is_cancelled() -> bool:
            return order.job_id in self._cancelled

        try:
            if is_cancelled():
                raise Cancelled("The job was cancelled before it started.")
            result = engine.run(order.request, self._blobs.read, say, is_cancelled)
            images = tuple(
                ResultImage(
                    sha256=self._blobs.add(image.png),
                    width_px=image.width_px,
                    height_px=image.height_px,
                    seed=image.seed,
                )
                for image in result.images
            )
        except Exception as err:  # the edge of the process: every failure must be said
            return Failed.of(_as_flux_error(err))
        return Finished(
            images=images,
            seconds=result.seconds,
            peak_memory_bytes=result.peak_memory_bytes,
            engine=engine_name,
            warnings=result.warnings,
            findings=result.findings,
        )

    def _read_orders(self) -> None:
        for line in self._orders:
            try:
                order = ORDERS.validate_json(line)
            except ValidationError:
                continue  # not an order of ours; there is nobody to tell
            if isinstance(order, CancelOrder):
                self._cancelled.add(order.job_id)
            else:
                self._waiting.put(order)
        os._exit(0)  # the service is gone; nobody waits for what the engine does

    def _report(self, report: Report) -> None:
        line = report.model_dump_json(exclude_none=True).encode() + b"\n"
        try:
            with self._write_lock:
                self._reports.write(line)
                self._reports.flush()
        except OSError:
            os._exit(0)  # nobody reads any more


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a worker on this process's stdin and stdout."""
    parser = argparse.ArgumentParser(description="Runs one engine for the job service.")
    parser.add_argument("--engine", required=True)
    parser.add_argument("--blobs", required=True, type=Path)
    parser.add_argument("--models", required=True, type=Path, action="append")
    parser.add_argument("--share", type=int, default=1, help="number of workers that share the processor")
    options = parser.parse_args(arguments)
    orders, reports = _take_over_pipes()
    die_with_parent()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # sent to the whole group, but meant for the service
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    for name, value in thread_settings(options.share).items():
        os.environ.setdefault(name, value)
    worker = Worker(orders, reports, BlobStore(options.blobs))
    return worker.serve(options.engine, tuple(options.models))


def _take_over_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Keeps stdin and stdout for the protocol; everybody else gets nothing to read and stderr to write."""
    orders, reports = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return os.fdopen(orders, "rb"), os.fdopen(reports, "wb")


def thread_settings(share: int) -> dict[str, str]:
    """How a worker computes on the processor that it shares with others, as environment variables."""
    # Sleep, do not spin, while the other threads work: on a busy machine spinning is ten times slower.
    return {
        "OMP_NUM_THREADS": str(_num_threads(share)),
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "1000",
    }


def _num_threads(share: int) -> int:
    cores = psutil.cpu_count(logical=False) or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    return max(1, cores // max(1, share))


def _as_flux_error(err: Exception) -> FluxError:
    if isinstance(err, FluxError):
        return err
    traceback.print_exc(file=sys.stderr)
    if isinstance(err, MemoryError):
        return OutOfMemory("The engine ran out of memory.", "Make the picture smaller.")
    if isinstance(err, FileNotFoundError) and err.filename:
        name = Path(os.fsdecode(err.filename)).name
        return ModelMissing(f"{name} is no longer there.", "Put it back, or get its model again.")
    reason = f"{type(err).__name__}: {err}"[:300]
    return Internal(f"The engine failed: {reason}.", "Report it; the engine's log has the details.")


if __name__ == "__main__":
    sys.exit(main())
