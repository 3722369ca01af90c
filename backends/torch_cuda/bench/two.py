"""One picture on two devices beside one picture on one: whole, step by step, and what the links take of it.

What each of two devices computes of a step is measured on one alone, with links that carry nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.bench.context import Bench
from backends.torch_cuda.bench.figures import Figure, give_back, timed
from backends.torch_cuda.bench.pictures import INCLUDED, Painter
from backends.torch_cuda.bench.step import walked_step
from backends.torch_cuda.recording import Tape
from backends.torch_cuda.split.evaluation import evaluated, recorded
from backends.torch_cuda.split.inputs import Inputs
from backends.torch_cuda.split.links import Links
from flux_core.messages import Preview, Progress, Stage
from flux_core.request import Precision

_REACH_S = {"bf16": 1.9, "fp8": 1.45}
_LINK_KERNELS = "nccl", "_flags"
"""What their names have in them; copies run beside."""


def two(bench: Bench) -> None:
    """One device first, then two, with the same words."""
    what = f"{bench.sizes.num_steps} steps, {bench.sizes.txt_tokens} words"
    for name in bench.precisions:
        precision = Precision(name)
        _share(bench, precision)
        if bench.device.type == "cuda" and torch.cuda.device_count() < 2:
            bench.results.add(Figure("two", f"{what}, {name}", "s", None, note="there is one GPU"))
        else:
            _in_precision(bench, precision, what)


class Unlinked(Links):
    """The first of two ranks, to which nobody gives anything."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size, self.device, self.is_recordable = 0, 2, device, True

    def broadcast(self, x: Tensor) -> None:
        pass

    def exchange(
        self, given: Tensor, taken: Tensor, given_rows: Sequence[int], taken_rows: Sequence[int]
    ) -> Callable[[], None]:
        return lambda: None


def _share(bench: Bench, precision: Precision) -> None:
    """Milliseconds that one of two ranks computes in a step, as it is replayed."""
    backend = TorchBackend(str(bench.device), is_split=True)
    _, model, arguments, _ = walked_step(bench, precision, backend)
    links, inputs = Unlinked(bench.device), Inputs(*(values.contiguous() for values in arguments))
    with backend.session():
        call: Callable[[], object] = lambda: evaluated(model, links, inputs)  # noqa: E731
        call()
        if bench.device.type == "cuda":
            recording = recorded(model, links, inputs, Tape(bench.device))
            call = recording.repeat if recording is not None else call
        seconds = timed(bench.device, call, bench.sizes.repeats)
    given, tokens = 2.0, bench.sizes.img_tokens + bench.sizes.txt_tokens  # bytes of a value
    config = bench.sizes.spec.transformer
    given *= (
        tokens * config.hidden_size * (config.depth + config.depth_single)
    )  # q, k, v and the answer: 4 / 4
    note = f"without links, which carry {given / 1e9:.1f} GB each way"
    what = f"a rank's share of a step, {precision.value}"
    bench.results.add(Figure("two", what, "ms", 1e3 * seconds, note=note))
    give_back(bench.device)


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
    """Milliseconds of a step in kernels that give to, take from or wait for the other device."""
    steps = painter.bench.sizes.few_steps
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiled:
        painter.paint(num_steps=steps)
    events = [
        event for event in profiled.key_averages() if any(name in event.key.lower() for name in _LINK_KERNELS)
    ]
    return sum(event.self_device_time_total for event in events) / 1e3 / steps
