"""What a step is made of, and the solvers that need nothing of the steps before: Euler and Heun.

A state at noise level sigma is (1 - sigma) picture + sigma noise, and the model gives its derivative by
sigma, so a step is arithmetic of Python numbers on device arrays, the same for every backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from flux_core.ops import Backend
from flux_core.sampling.known import KnownRegion

Velocity = Callable[[Any, float], Any]
"""(x [B, L, C] float32, sigma) -> noise - data, float32."""


@dataclass(frozen=True, slots=True)
class Course:
    """What every step of a walk has in common.

    Attributes:
        backend: Where the walk happens.
        velocity: One evaluation of the model.
        levels: Noise levels of the whole run, falling to 0.
        known: What must stay.
    """

    backend: Backend
    velocity: Velocity
    levels: tuple[float, ...]
    known: KnownRegion | None

    def restored(self, x: Any, step: int, sigma: float) -> Any:
        """x with what must stay during a step (an index) as it is at noise level sigma."""
        return x if self.known is None else self.known.restore(x, step, sigma)


class Taken(NamedTuple):
    """A step that was taken: x [B, L, C] at the next level, and what gives the model's clean estimate."""

    x: Any
    denoised: Callable[[], Any]


class Stepper(Protocol):
    """A solver during one walk; it may remember steps."""

    def take(self, step: int, x: Any) -> Taken:
        """From x [B, L, C] at levels[step] to levels[step + 1]."""
        ...


class Euler:
    """First order: straight along the velocity.

    Source: black-forest-labs/flux sampling.py (denoise).
    """

    def __init__(self, course: Course) -> None:
        self._course = course

    def take(self, step: int, x: Any) -> Taken:
        course = self._course
        sigma, target = course.levels[step], course.levels[step + 1]
        v = course.velocity(x, sigma)
        return Taken(course.restored(x + v * (target - sigma), step, target), lambda: x - v * sigma)


class Heun:
    """Second order: the mean of the velocities at both ends of a step; the step to 0 is Euler's.

    The far end is Euler's guess with the known region put back, so that the model sees there what it
    will see at the next step.

    Source: Karras et al. 2022, algorithm 1.
    """

    def __init__(self, course: Course) -> None:
        self._course = course
        self._euler = Euler(course)

    def take(self, step: int, x: Any) -> Taken:
        course = self._course
        sigma, target = course.levels[step], course.levels[step + 1]
        if target == 0.0:
            return self._euler.take(step, x)
        v = course.velocity(x, sigma)
        guess = course.restored(x + v * (target - sigma), step, target)
        course.backend.evaluate(guess)
        v_there = course.velocity(guess, target)
        moved = x + (v + v_there) * (0.5 * (target - sigma))
        return Taken(course.restored(moved, step, target), lambda: guess - v_there * target)
