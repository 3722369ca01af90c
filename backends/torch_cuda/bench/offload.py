"""Devices with less memory than the model takes: a step and a whole picture, beside a device that holds all.

A large device is made small by the share of its memory that this process may take. What CUDA itself keeps for
a process counts, too: a cap of 8 GB is what a card of 8 GB (2^30 bytes) has when nothing else uses it. A
processor is treated as a device that holds no blocks at all.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.bench.context import Bench
from backends.torch_cuda.bench.figures import Figure, give_back, timed
from backends.torch_cuda.bench.pictures import Painter
from backends.torch_cuda.bench.step import walked_step
from backends.torch_cuda.engine import TorchEngine
from backends.torch_cuda.graphs import Graphs
from backends.torch_cuda.offload.host import HostMemory
from flux_core.pipeline.job import working_bytes
from flux_core.request import Precision

CAPS_GB = (24, 16, 12, 8)
_PAINTED_GB = (12, 8)
_REACH = {("fp8", 12): 1.05, ("fp8", 8): 1.3, ("bf16", 24): 1.02}
"""A step over that of a device that holds all weights."""
_GB = 2**30
_PROBE_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class _Step:
    """A step under a cap.

    Attributes:
        seconds: Of the step, as a walk runs it: recorded where nothing is copied.
        eager_s: Of the step if it is never recorded.
        streamed_bytes: Copied in it.
        peak_bytes: Of device memory, from loading to the last step.
        made_s: What loading took, and what makes the modulations.
        result: What the step gave, on the host.
    """

    seconds: float
    eager_s: float
    streamed_bytes: int
    peak_bytes: int
    made_s: float
    result: torch.Tensor


def offload(bench: Bench) -> None:
    """Steps under every cap, and whole pictures under the small ones."""
    is_cuda = bench.device.type == "cuda"
    rate = _copies_per_s(bench) if is_cuda else None
    for name in bench.precisions:
        precision = Precision(name)
        resident = _step(bench, precision, None)
        what = f"step, {name}, all weights there"
        note = f"without a recorded graph {1e3 * resident.eager_s:.1f} ms"
        bench.results.add(Figure("offload", what, "ms", 1e3 * resident.seconds, note=note))
        for cap in CAPS_GB if is_cuda else CAPS_GB[-1:]:
            give_back(bench.device)
            with _small(bench, cap) as free_bytes:
                step = _step(bench, precision, free_bytes)
            _tell(bench, name, cap, step, resident, rate)
        for cap in _PAINTED_GB if is_cuda else _PAINTED_GB[-1:]:
            give_back(bench.device)
            with _small(bench, cap) as free_bytes:
                _paint(bench, precision, cap, free_bytes)


def _tell(bench: Bench, name: str, cap: int, step: _Step, resident: _Step, rate: float | None) -> None:
    floor = None if rate is None else 1e3 * max(resident.seconds, step.streamed_bytes / rate)
    reach = _REACH.get((name, cap))
    copied = step.streamed_bytes / 1e9
    note = f"{copied:.2f} GB copied in a step, {copied / step.seconds:.1f} GB/s; "
    note += f"peak {step.peak_bytes / _GB:.2f} GiB; loaded in {step.made_s:.1f} s; "
    note += "the same to the bit" if torch.equal(step.result, resident.result) else "ANOTHER RESULT"
    resident_s = resident.seconds
    bench.results.add(
        Figure("offload", f"step, {name}, {cap} GB", "ms", 1e3 * step.seconds, 1e3 * resident_s,
               "all weights there", floor, reach and reach * 1e3 * resident_s, note)
    )  # fmt: skip


@contextmanager
def _small(bench: Bench, cap: int) -> Generator[int]:
    """The device with no more memory than a card of so many GB; gives what weights and all else may take."""
    if bench.device.type != "cuda":
        yield 0
        return
    free, total = torch.cuda.mem_get_info(bench.device)
    taken = total - free - torch.cuda.memory_reserved(bench.device)
    allowed = cap * _GB - taken
    torch.cuda.set_per_process_memory_fraction(allowed / total, bench.device)
    torch.cuda.reset_peak_memory_stats(bench.device)
    try:
        yield allowed
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, bench.device)


def _step(bench: Bench, precision: Precision, free_bytes: int | None) -> _Step:
    """A step as a walk runs it; without a limit on a device that holds everything."""
    sizes, device = bench.sizes, bench.device
    torch.manual_seed(0)  # all steps are given the same
    started = time.perf_counter()
    if free_bytes is None:
        backend, model, arguments, _ = walked_step(bench, precision)
    else:
        backend = TorchBackend(str(device), None if device.type == "cuda" else lambda: free_bytes)
        beside = working_bytes(sizes.spec, sizes.img_tokens + sizes.txt_tokens, precision)
        backend, model, arguments, _ = walked_step(bench, precision, backend, beside)
    made_s = time.perf_counter() - started
    graphs: Graphs = backend.graphs
    with backend.session():
        ready, repeats = graphs.ready(model.modulated), max(sizes.repeats // 2, 1)
        eager_s = timed(device, lambda: model.modulated(*arguments), repeats)
        seconds = timed(device, lambda: ready(*arguments), repeats)
        streamed = sum(stream.copied_bytes for stream in graphs.streams)
        result = ready(*arguments).cpu()
    peak = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0
    return _Step(seconds, eager_s, streamed, peak, made_s, result)


def _paint(bench: Bench, precision: Precision, cap: int, free_bytes: int) -> None:
    """A first picture, all of it but for the start of the process."""
    painter = Painter(bench, precision, is_roomy=False)
    if bench.device.type != "cuda":
        painter.engine = TorchEngine("cpu", (bench.models_dir(),), 0, lambda: free_bytes)
    seconds = painter.paint()
    note = f"loading all parts from the page cache, T5, CLIP, walk, decoder, PNG: {painter.stages}"
    if bench.device.type == "cuda":
        note += f"; peak {torch.cuda.max_memory_reserved(bench.device) / _GB:.2f} GiB"
    what = f"first picture, {bench.sizes.num_steps} steps, {precision.value}, {cap} GB"
    bench.results.add(Figure("offload", what, "s", seconds, note=note))
    painter.engine.release()


def _copies_per_s(bench: Bench) -> float:
    """Bytes a second from pinned memory of the host, and what pinning takes."""
    started = time.perf_counter()
    memory = HostMemory(_PROBE_BYTES, bench.device)
    pinned_s = time.perf_counter() - started
    target = torch.empty(_PROBE_BYTES, dtype=torch.uint8, device=bench.device)

    def copy() -> None:
        for _ in range(8):
            target.copy_(memory.bytes, non_blocking=memory.is_pinned)

    rate = 8 * _PROBE_BYTES / timed(bench.device, copy, 5)
    note = f"pinned: {memory.is_pinned}; pinning {_PROBE_BYTES / pinned_s / 1e9:.1f} GB/s"
    bench.results.add(Figure("offload", "host to device", "GB/s", rate / 1e9, note=note))
    return rate
