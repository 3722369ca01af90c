"""Which kernels one step of the transformer spends its time in."""

from __future__ import annotations

from typing import Any

import torch
from torch.profiler import ProfilerActivity

from backends.torch_cuda.bench.context import Bench
from backends.torch_cuda.bench.figures import Figure, give_back
from backends.torch_cuda.bench.step import walked_step
from flux_core.request import Precision

MOST_KERNELS = 12


def profile(bench: Bench) -> None:
    """Milliseconds of the kernels that take most, in each precision, and of all of them together."""
    for name in bench.precisions:
        kernels = _kernels(bench, Precision(name))
        give_back(bench.device)
        total = sum(kernels.values())
        floor = bench.floor_s.get(name)
        bench.results.add(Figure("profile", f"{name}, all kernels", "ms", total, floor=floor and 1e3 * floor))
        for kernel in sorted(kernels, key=lambda kernel: -kernels[kernel])[:MOST_KERNELS]:
            took = kernels[kernel]
            share = f"{100 * took / total:.1f} %"
            bench.results.add(Figure("profile", f"{name}, {kernel}", "ms", took, note=share))


def _kernels(bench: Bench, precision: Precision) -> dict[str, float]:
    """Kernel with how often it runs -> milliseconds in one step, after one that warms up."""
    is_cuda = bench.device.type == "cuda"
    backend, model, arguments, _ = walked_step(bench, precision)
    with backend.session():
        model.modulated(*arguments)
        activity = ProfilerActivity.CUDA if is_cuda else ProfilerActivity.CPU
        with torch.profiler.profile(activities=[activity], acc_events=True) as profiled:
            model.modulated(*arguments)
            backend.wait()

    def microseconds(event: Any) -> float:
        return event.self_device_time_total if is_cuda else event.self_cpu_time_total

    events = [event for event in profiled.key_averages() if microseconds(event) > 0]
    return {f"{event.key[:80]} x{event.count}": microseconds(event) / 1e3 for event in events}
