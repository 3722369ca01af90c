"""A LoRA on every matrix: how long hanging it on and another strength take, and what it costs a step.

Once in the engine, as a person waits for it, and once around the step alone. There a step with it stands
between steps without, in the same seconds, because clocks drift by more than what is looked for. Files of two
kinds are common: with one low-rank matrix for each of the model's, or with more, for queries, keys, values
and MLP apart, whose ranks add up where the model multiplies with all of them at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import fmean
from typing import Any

from backends.torch_cuda.bench.context import Bench
from backends.torch_cuda.bench.figures import Figure, give_back, sustained, wait
from backends.torch_cuda.bench.pictures import Painter, painters
from backends.torch_cuda.bench.step import Walked, walked_step
from flux_core.plan import Component
from flux_core.request import LoraUse, Precision
from flux_core.weights.lora.attach import Adapters
from flux_core.weights.lora.library import choose_loras

_ROUNDS = 2
_REACH_S = 1.0
_REACH_PERCENT = 3.0


def lora(bench: Bench) -> None:
    """Of each rank: whole pictures, then steps."""
    for painter in painters(bench):
        _pictures(bench, painter)
    for name in bench.precisions:
        _steps(bench, Precision(name))
        give_back(bench.device)


def _pictures(bench: Bench, painter: Painter) -> None:
    """What the first picture with a LoRA, or with another strength, takes longer than the next."""
    name = painter.precision.value
    short: dict[str, Any] = {"num_steps": bench.sizes.few_steps}
    painter.best(**short)
    for rank in bench.sizes.lora_ranks:
        use = LoraUse(name=bench.lora(rank))
        first = painter.paint(loras=(use,), **short)
        stages = painter.stages
        again = min(painter.paint(loras=(use,), **short) for _ in range(2))
        other = painter.paint(loras=(use.model_copy(update={"strength": 0.5}),), **short)
        for what, seconds in (("first picture with it", first), ("with another strength", other)):
            what = f"{what} over the next, rank {rank}, {name}"
            bench.results.add(Figure("lora", what, "s", seconds - again, reach=_REACH_S, note=stages))


def _steps(bench: Bench, precision: Precision) -> None:
    """Steps without and with, in turns, recorded where that is possible."""
    walked, name = walked_step(bench, precision), precision.value
    adapters = walked.backend.adapters(walked.leaves, precision)
    with walked.backend.session():
        for rank in bench.sizes.lora_ranks:
            _steps_with(bench, walked, adapters, bench.lora(rank), f"rank {rank}, {name}")
            whole = bench.lora(rank, is_whole=True)
            _steps_with(bench, walked, adapters, whole, f"rank {rank}, one a matrix, {name}")


def _steps_with(bench: Bench, walked: Walked, adapters: Adapters, lora: str, what: str) -> None:
    backend, model, arguments, _ = walked
    step = backend.graphs.ready(model.modulated)
    use, dirs = LoraUse(name=lora), (bench.base,)
    seconds: dict[str, list[float]] = {}

    def took(name: str, call: Callable[[], Any]) -> None:
        wait(bench.device)
        started = time.perf_counter()
        call()
        wait(bench.device)
        seconds.setdefault(name, []).append(time.perf_counter() - started)

    def hang_on() -> None:
        (chosen,) = choose_loras((use,), bench.sizes.spec, dirs)
        adapters.attach(use.name, chosen.lora.patches(Component.TRANSFORMER), 1.0)

    def steps(name: str) -> None:
        seconds.setdefault(name, []).append(
            sustained(bench.device, lambda: step(*arguments), bench.sizes.num_steps)
        )

    steps("without")
    for _ in range(_ROUNDS):
        took("hanging it on", hang_on)
        took("first step with it", lambda: step(*arguments))
        steps("with")
        took("another strength", lambda: adapters.weigh(use.name, 0.5))
        took("first step with another strength", lambda: step(*arguments))
        adapters.detach(use.name)
        steps("without")
    for name in (
        "hanging it on",
        "first step with it",
        "another strength",
        "first step with another strength",
    ):
        told = ", ".join(f"{1e3 * each:.0f}" for each in seconds[name])
        bench.results.add(Figure("lora", f"{name}, {what}", "s", max(seconds[name]), reach=_REACH_S,
                                 note=f"in ms: {told}"))  # fmt: skip
    without, with_it = fmean(seconds["without"]), fmean(seconds["with"])
    told = "; ".join(
        f"{name} {', '.join(f'{1e3 * s:.2f}' for s in seconds[name])}" for name in ("without", "with")
    )
    bench.results.add(Figure("lora", f"step, {what}", "ms", 1e3 * with_it, note=told))
    loss = 100.0 * (with_it / without - 1.0)
    bench.results.add(Figure("lora", f"slower by, {what}", "%", loss, reach=_REACH_PERCENT))
