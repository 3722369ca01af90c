"""How fast each solver comes to the truth as steps get smaller, and that peers take the same steps.

The truth is an ordinary differential equation whose model is known: data that are one Gaussian, where
the walk has a closed form, or two, where very many small steps say where it leads. All in float64.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

from flux_core.request import Solver
from flux_core.sampling.schedule import sigmas
from flux_core.sampling.solvers import walk
from tests.support.oracle import OracleBackend

BACKEND = OracleBackend()
START = np.random.default_rng(0).standard_normal((1, 64, 8))
MEAN, DEVIATION = 0.7, 0.4
SECOND_ORDER = [Solver.HEUN, Solver.DPMPP_2M, Solver.UNIPC]


def one_gaussian(x: Any, sigma: float) -> Any:
    """The velocity when every value of the data is drawn from N(MEAN, DEVIATION^2)."""
    alpha = 1 - sigma
    share = alpha * DEVIATION**2 / spread(sigma) ** 2
    return (x - MEAN - share * (x - alpha * MEAN)) / sigma


def spread(sigma: float) -> float:
    """The standard deviation of states at a noise level."""
    return float(np.hypot((1 - sigma) * DEVIATION, sigma))


def exactly(sigma: float, target: float) -> Any:
    """Where the Gaussian's walk from START at sigma is at another level."""
    return (1 - target) * MEAN + spread(target) / spread(sigma) * (START - (1 - sigma) * MEAN)


def two_gaussians(x: Any, sigma: float) -> Any:
    """The velocity when values are drawn from N(-1, 0.3^2) or N(0.8, 0.3^2), equally often."""
    alpha, means, deviation = 1 - sigma, (-1.0, 0.8), 0.3
    variance = (alpha * deviation) ** 2 + sigma**2
    logits = np.stack([-((x - alpha * mean) ** 2) / (2 * variance) for mean in means])
    weights = np.exp(logits - logits.max(0))
    weights /= weights.sum(0)
    clean = [mean + alpha * deviation**2 / variance * (x - alpha * mean) for mean in means]
    return (x - (weights * np.stack(clean)).sum(0)) / sigma


@functools.cache
def truth_of_two(sigma: float, target: float) -> Any:
    return walk(Solver.HEUN, BACKEND, two_gaussians, START, np.linspace(sigma, target, 4001).tolist())


PROBLEMS = {"one": (one_gaussian, exactly), "two": (two_gaussians, truth_of_two)}


def error(solver: Solver, problem: str, levels: Sequence[float]) -> float:
    """Root of the mean squared distance from the truth."""
    velocity, truth = PROBLEMS[problem]
    out = walk(solver, BACKEND, velocity, START, levels)
    return float(np.sqrt(np.mean((out - truth(levels[0], levels[-1])) ** 2)))


def order(solver: Solver, problem: str, start: float, end: float, steps: tuple[int, int]) -> float:
    """The power of the step size that the error follows, between few steps and many."""
    few, many = steps
    coarse, fine = (error(solver, problem, np.linspace(start, end, n + 1).tolist()) for n in steps)
    return float(np.log(coarse / fine) / np.log(many / few))


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize(
    ("solver", "least"),
    [(Solver.EULER, 0.9), (Solver.HEUN, 1.8), (Solver.DPMPP_2M, 1.8), (Solver.UNIPC, 1.8)],
)
def test_the_error_falls_with_the_order_of_the_solver(solver: Solver, least: float, problem: str) -> None:
    assert order(solver, problem, 0.95, 0.05, (40, 320)) >= least


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize(
    ("solver", "least"),
    [(Solver.EULER, 0.9), (Solver.HEUN, 1.8), (Solver.DPMPP_2M, 1.5), (Solver.UNIPC, 1.8)],
)
def test_a_whole_walk_from_noise_to_picture_loses_little_of_that(
    solver: Solver, least: float, problem: str
) -> None:
    """At both ends steps of equal sigma stay large in lambda, which costs DPM-Solver++(2M) a logarithm."""
    assert order(solver, problem, 1.0, 0.0, (160, 640)) >= least


@pytest.mark.parametrize("has_time_shift", [False, True])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("solver", SECOND_ORDER)
def test_ten_steps_are_nearer_to_the_truth_than_eulers_ten(
    solver: Solver, problem: str, has_time_shift: bool
) -> None:
    levels = sigmas(10, 1024, has_time_shift).tolist()
    assert error(solver, problem, levels) < error(Solver.EULER, problem, levels)


@pytest.mark.parametrize(("solver", "evaluated"), [(Solver.HEUN, 2), (Solver.DPMPP_2M, 1), (Solver.UNIPC, 1)])
def test_their_evaluations_are_worth_more_than_eulers(solver: Solver, evaluated: int) -> None:
    levels = sigmas(20 // evaluated, 1024, has_time_shift=False).tolist()
    assert error(solver, "two", levels) < error(
        Solver.EULER, "two", sigmas(20, 1024, has_time_shift=False).tolist()
    )


# Peers


def peer_walk(scheduler: Any, levels: Sequence[float]) -> Any:
    """diffusers' scheduler over our noise levels, in float64 where it lets us."""
    scheduler.set_timesteps(len(levels) - 1)
    scheduler.sigmas = torch.tensor(levels, dtype=torch.float64)
    scheduler.set_begin_index(0)
    x = torch.from_numpy(START)
    for sigma, timestep in zip(levels, scheduler.timesteps, strict=False):
        v = torch.from_numpy(two_gaussians(x.numpy(), sigma))
        x = scheduler.step(v, timestep, x).prev_sample
    return x.numpy()


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.parametrize("steps", [3, 10, 25])
@pytest.mark.parametrize("start", [1.0, 0.7])
def test_dpm_solver_takes_the_steps_of_diffusers(steps: int, start: float) -> None:
    """Its sample is float32 inside, hence the bound."""
    levels = [start * level for level in sigmas(steps, 1024, has_time_shift=True).tolist()]
    scheduler = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    ours = walk(Solver.DPMPP_2M, BACKEND, two_gaussians, START, levels)
    assert np.abs(ours - peer_walk(scheduler, levels)).max() < 1e-5


@pytest.mark.parametrize("steps", [3, 10, 25])
@pytest.mark.parametrize("start", [1.0 - 1e-6, 0.7])
def test_unipc_takes_the_steps_of_diffusers(steps: int, start: float) -> None:
    """1 - 1e-6 is where diffusers moves a level of 1, whose lambda is infinite."""
    levels = [start * level for level in sigmas(steps, 1024, has_time_shift=True).tolist()]
    scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    ours = walk(Solver.UNIPC, BACKEND, two_gaussians, START, levels)
    assert np.abs(ours - peer_walk(scheduler, levels)).max() < 1e-5


def test_pure_noise_is_the_limit_of_nearly_pure_noise() -> None:
    """The one difference to diffusers: its second step still looks for a slope across 1 - 1e-6."""
    levels = sigmas(10, 1024, has_time_shift=True).tolist()
    for solver in (Solver.DPMPP_2M, Solver.UNIPC):
        limit = walk(solver, BACKEND, two_gaussians, START, levels)
        apart = [
            np.abs(walk(solver, BACKEND, two_gaussians, START, [1 - eps, *levels[1:]]) - limit).max()
            for eps in (1e-3, 1e-6, 1e-12, 1e-15)
        ]
        assert apart == sorted(apart, reverse=True)
