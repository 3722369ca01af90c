"""One picture on two devices beside one picture on one: whole, step by step, and what the links take of it."""

from __future__ import annotations

import statistics
import time
from contextlib import closing

import torch
from torch.profiler import ProfilerActivity

from backends.torch_cuda.bench.context import Bench, known_precision
from backends.torch_cuda.bench.figures import Figure, give_back
from backends.torch_cuda.bench.pictures import INCLUDED, Painter
from flux_core.messages import Preview, Progress, Stage
from flux_core.request import Precision

_REACH_S = {"bf16": 1.9, "fp8": 1.45}
_LINK_KERNEL = "nccl"


def two(bench: Bench) -> None:
    """One device first, then two, with the same words."""
    what = f"{bench.sizes.num_steps} steps, {bench.sizes.txt_tokens} words"
    for name in bench.precisions:
        precision = known_precision(name)
        if precision is None:
            bench.results.add(Figure("two", f"{what}, {name}", "s", None, note="not built"))
        elif bench.device.type == "cuda" and torch.cuda.device_count() < 2:
            bench.results.add(Figure("two", f"{what}, {name}", "s", None, note="there is one GPU"))
        else:
            _in_precision(bench, precision, what)


def _in_precision(bench: Bench, precision: Precision, what: str) -> None:
    name = precision.value
    for count, others in ((1, ()), (2, (_other(bench),))):
        painter = Painter(bench, precision, others=others)
        with closing(painter.engine):
            seconds = painter.best()
            reach = _REACH_S.get(name) if others else None
            note = f"{INCLUDED}: {painter.stages}"
            figure = Figure("two", f"{what}, {name}, on {count}", "s", seconds, reach=reach, note=note)
            bench.results.add(figure)
            step_ms = 1e3 * _step_s(painter)
            bench.results.add(Figure("two", f"step, {name}, on {count}", "ms", step_ms))
            if others and bench.device.type == "cuda":
                links_ms = _links_ms(painter)
                share = f"{100 * links_ms / step_ms:.1f} %, with waiting for the other device"
                bench.results.add(Figure("two", f"links in a step, {name}", "ms", links_ms, note=share))
        painter.engine.release()
        del painter
        give_back(bench.device)


def _other(bench: Bench) -> str:
    return "cuda:1" if bench.device.type == "cuda" else "cpu"


def _step_s(painter: Painter) -> float:
    """Median seconds from one step's end to the next one's, as the walk takes them."""
    ends: list[float] = []

    def listen(message: Progress | Preview) -> None:
        if isinstance(message, Progress) and message.stage is Stage.DENOISING:
            ends.append(time.perf_counter())

    painter.paint(listen)
    return statistics.median(end - start for start, end in zip(ends[1:], ends[2:], strict=False))


def _links_ms(painter: Painter) -> float:
    """Milliseconds of a step in kernels that give to and take from the other device."""
    steps = painter.bench.sizes.few_steps
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiled:
        painter.paint(num_steps=steps)
    events = [event for event in profiled.key_averages() if _LINK_KERNEL in event.key.lower()]
    return sum(event.self_device_time_total for event in events) / 1e3 / steps
