"""Second-order solvers that learn from earlier steps instead of evaluating the model twice.

Both integrate the model's estimate of the clean picture, which changes slowly, as a polynomial in
lambda = log((1 - sigma) / sigma), half the logarithm of the signal-to-noise ratio. They start at first
order, take the last step to sigma 0 at first order (which is the estimate itself), and are exact on
straight paths.

Pure noise (sigma 1) has lambda = -infinity. The formulas are taken to that limit, in which an estimate
made there says nothing about the slope; diffusers moves the level to 1 - 1e-6 instead (UniPC) or never
meets it (DPM-Solver), so its second step differs from ours by that much.

With a known region, x is put back after every step, and the estimates that are remembered are the
model's own, also where it is overruled. The model judges the state that really was, on the known path
or off it, so its estimates change smoothly even across the step in which a value becomes free; the known
picture in their place would end in a jump, which would be extrapolated as a slope. A correction of UniPC
is a new version of a step's end, so what that step had to keep is put back again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from flux_core.sampling.steps import Course, Taken


class DpmSolver2M:
    """DPM-Solver++(2M): one evaluation a step, the slope from the last two estimates.

    Source: Lu et al. 2022 (DPM-Solver++), algorithm 2, with alpha = 1 - sigma.
    """

    def __init__(self, course: Course) -> None:
        self._course = course
        self._last: _Estimate | None = None

    def take(self, step: int, x: Any) -> Taken:
        course = self._course
        now = _estimate(course, step, x)
        moved = _predicted(x, now, self._last, course.levels[step + 1])
        self._last = now
        return Taken(course.restored(moved, step, course.levels[step + 1]), lambda: now.clean)


class UniPC:
    """UniPC-2 with B(h) = exp(h) - 1: the prediction of DPM-Solver++(2M), and then a correction.

    The next evaluation, which is needed anyway, also says how well the last step predicted, and that
    step is taken again with it. The evaluation itself is not repeated, as in the paper.

    Source: Zhao et al. 2023 (UniPC), algorithms 5-8; the weights of order 1 and of the predictor of order 2
    are the paper's fixed 1/2.
    """

    def __init__(self, course: Course) -> None:
        self._course = course
        self._from: Any = None  # x at the start of the last step, corrected
        self._last: _Estimate | None = None
        self._before: _Estimate | None = None

    def take(self, step: int, x: Any) -> Taken:
        course = self._course
        now = _estimate(course, step, x)
        if self._last is not None:
            better = _corrected(self._from, now, self._last, self._before)
            x = course.restored(better, step - 1, now.sigma)
        moved = _predicted(x, now, self._last, course.levels[step + 1])
        self._from, self._before, self._last = x, self._last, now
        return Taken(course.restored(moved, step, course.levels[step + 1]), lambda: now.clean)


@dataclass(frozen=True, slots=True)
class _Estimate:
    """The clean picture [B, L, C] as the model saw it at a noise level."""

    sigma: float
    clean: Any

    @property
    def level(self) -> float:
        """Its lambda."""
        return _level(self.sigma)


def _estimate(course: Course, step: int, x: Any) -> _Estimate:
    sigma = course.levels[step]
    return _Estimate(sigma, x - course.velocity(x, sigma) * sigma)


def _level(sigma: float) -> float:
    """Of a sigma above 0; -infinity at 1."""
    return math.log((1.0 - sigma) / sigma) if sigma < 1.0 else -math.inf


def _moved(x: Any, sigma: float, target: float, clean: Any) -> Any:
    """x at `target`, if the clean picture were this; the exact solution, and Euler's step in flow form."""
    ratio = target / sigma
    return x * ratio + clean * (1.0 - ratio)


def _predicted(x: Any, now: _Estimate, last: _Estimate | None, target: float) -> Any:
    """x at `target`, from the estimates at its start and, for second order, at the start of the last step."""
    clean = now.clean
    if last is not None and target > 0.0:
        h = _level(target) - now.level
        clean = clean + (now.clean - last.clean) * (0.5 * h / (now.level - last.level))
    return _moved(x, now.sigma, target, clean)


def _corrected(x: Any, now: _Estimate, last: _Estimate, before: _Estimate | None) -> Any:
    """The step from `last` to `now` once more, with what was estimated at its end.

    Args:
        x: [B, L, C] at the step's start.
        now: At its end.
        last: At its start.
        before: At the start of the step before; None corrects at first order.
    """
    change = now.clean - last.clean
    if before is None:
        clean = last.clean + change * 0.5
    else:
        h = now.level - last.level
        r = (before.level - last.level) / h  # below 0
        phi_1 = math.expm1(-h)
        phi_2 = phi_1 / -h - 1.0
        b_1 = phi_2 / phi_1
        b_2 = 2.0 * (phi_2 / -h - 0.5) / phi_1
        rho_before = (b_1 - b_2) / (1.0 - r)
        clean = last.clean + change * (b_1 - rho_before)
        clean = clean + (before.clean - last.clean) * (rho_before / r)
    return _moved(x, last.sigma, now.sigma, clean)
