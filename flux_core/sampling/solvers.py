"""From noise to a picture: the walk along the model's velocity, by the solver of choice.

The state is float32 on the device whatever the model computes in, so that small steps are not lost, and
no solver draws noise, so a walk is a function of its start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from flux_core.ops import Backend
from flux_core.request import Solver
from flux_core.sampling.known import KnownRegion
from flux_core.sampling.multistep import DpmSolver2M, UniPC
from flux_core.sampling.steps import Course, Euler, Heun, Stepper, Taken, Velocity

OnStep = Callable[[int, Any, Callable[[], Any]], Callable[[], None] | None]
"""(index of the step, x after it, gives the denoised estimate) -> what may be done beside the next step."""

Watch = Callable[[int, Any, Callable[[], Any]], Callable[[], None]]
"""The same, when the step is on its way -> waits until x is computed, and may raise."""

_STEPPERS: dict[Solver, Callable[[Course], Stepper]] = {
    Solver.EULER: Euler,
    Solver.HEUN: Heun,
    Solver.DPMPP_2M: DpmSolver2M,
    Solver.UNIPC: UniPC,
}


def walk(
    solver: Solver,
    backend: Backend,
    velocity: Velocity,
    x: Any,
    sigmas: Sequence[float],
    first: int = 0,
    known: KnownRegion | None = None,
    on_step: OnStep | None = None,
    watch: Watch | None = None,
    waits: bool = False,
) -> Any:
    """Walks from sigmas[first] to the last sigma.

    A device with a queue has the next step in it before anybody is told of one, so that it need not wait for
    the host between two steps.

    Args:
        solver: How the steps are taken.
        backend: Computes each step before `on_step` is told of it.
        velocity: One evaluation of the model.
        x: [B, L, C] float32 at noise level sigmas[first].
        sigmas: Noise levels of the whole run, falling strictly to 0.
        first: Index of the level that x is at.
        known: What must stay.
        on_step: Called after each step; whatever it raises ends the walk. What it gives is called when the
            device is busy with the next step, or when there is none.
        watch: By default nothing is asked of x but that it is computed.
        waits: Whether `velocity` itself waits for the device, so that nothing is gained by telling late.

    Returns:
        [B, L, C] float32 at the last noise level.
    """
    course = Course(backend, velocity, tuple(float(sigma) for sigma in sigmas), known)
    stepper = _STEPPERS[solver](course)
    is_ahead = backend.is_queued and not waits
    meanwhile = _nothing
    for step in range(first, len(course.levels) - 1):
        taken = stepper.take(step, x)
        x, denoised = taken.x, partial(_denoised, course, step, taken)
        wait = partial(backend.wait, x) if watch is None else watch(step, x, denoised)
        tell = partial(_told, on_step, wait, step, x, denoised)
        meanwhile()
        meanwhile = partial(_all_of, tell) if is_ahead else tell()
    meanwhile()
    return x


def evaluations_of(solver: Solver, num_steps: int) -> int:
    """How often a walk of this many steps, at least 1, evaluates the model."""
    return 2 * num_steps - 1 if solver is Solver.HEUN else num_steps


def _told(
    on_step: OnStep | None, wait: Callable[[], None], step: int, x: Any, denoised: Callable[[], Any]
) -> Callable[[], None]:
    """Tells of a step once it is computed; gives what may be done beside the next one."""
    wait()
    beside = on_step(step, x, denoised) if on_step is not None else None
    return beside or _nothing


def _all_of(tell: Callable[[], Callable[[], None]]) -> None:
    tell()()


def _nothing() -> None:
    pass


def _denoised(course: Course, step: int, taken: Taken) -> Any:
    """The clean picture as the model sees it at this step, with what must stay."""
    return course.restored(taken.denoised(), step, 0.0)
