"""The walk of every solver on both backends, and the region that must stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from backends.mlx_metal.backend import MlxBackend
from backends.torch_cuda.backend import TorchBackend
from flux_core.errors import Cancelled
from flux_core.ops import Backend
from flux_core.request import Solver
from flux_core.sampling.known import KnownRegion, noised
from flux_core.sampling.noise import seeded_noise
from flux_core.sampling.schedule import sigmas
from flux_core.sampling.solvers import evaluations_of, walk

STEPS = 8
LEVELS = [float(s) for s in sigmas(STEPS, 256, has_time_shift=True)]


@pytest.fixture(params=[TorchBackend, MlxBackend], ids=["torch", "mlx"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param()


def tokens(backend: Backend, seed: int) -> Any:
    return backend.from_numpy(seeded_noise(seed, 4, 4, 8).reshape(1, 16, 8))


def region(backend: Backend, picture: Any, noise: Any, freedom: np.ndarray) -> KnownRegion:
    return KnownRegion(backend, picture, noise, freedom.astype(np.float32), STEPS)


@pytest.fixture(params=list(Solver), ids=[solver.value for solver in Solver])
def solver(request: pytest.FixtureRequest) -> Solver:
    return request.param


def bending(x: Any, sigma: float) -> Any:
    """A velocity that depends on where and when."""
    return x * (0.7 - sigma) + 1.0


def test_a_perfect_velocity_leads_exactly_to_the_picture(solver: Solver, backend: Backend) -> None:
    picture, noise = tokens(backend, 1), tokens(backend, 2)
    out = walk(solver, backend, lambda x, sigma: noise - picture, noise, LEVELS)
    assert np.allclose(backend.to_numpy(out), backend.to_numpy(picture), atol=1e-5)


def test_the_estimate_of_a_perfect_model_is_the_picture_at_every_step(
    solver: Solver, backend: Backend
) -> None:
    picture, noise = tokens(backend, 1), tokens(backend, 2)
    seen: list[np.ndarray] = []
    walk(
        solver,
        backend,
        lambda x, sigma: noise - picture,
        noise,
        LEVELS,
        on_step=lambda step, x, denoised: seen.append(backend.to_numpy(denoised())),
    )
    assert len(seen) == STEPS
    assert all(np.allclose(estimate, backend.to_numpy(picture), atol=1e-5) for estimate in seen)


def test_euler_is_the_plain_sum_of_steps_to_the_last_bit(backend: Backend) -> None:
    x = tokens(backend, 1)
    out = walk(Solver.EULER, backend, bending, x, LEVELS)
    for sigma, target in zip(LEVELS, LEVELS[1:], strict=False):
        x = x + bending(x, sigma) * (target - sigma)
    assert np.array_equal(backend.to_numpy(out), backend.to_numpy(x))


def test_a_walk_that_starts_late_takes_only_the_remaining_steps(solver: Solver, backend: Backend) -> None:
    levels: list[float] = []
    steps: list[int] = []

    def velocity(x: Any, sigma: float) -> Any:
        levels.append(sigma)
        return x * 0.0

    def on_step(step: int, x: Any, denoised: Any) -> None:
        steps.append(step)

    walk(solver, backend, velocity, tokens(backend, 1), LEVELS, first=5, on_step=on_step)
    assert steps == [5, 6, 7]
    assert set(levels) == set(LEVELS[5:-1])
    assert len(levels) == evaluations_of(solver, STEPS - 5)


def test_what_a_step_leaves_to_do_is_done_when_the_next_is_on_its_way(
    solver: Solver, backend: Backend
) -> None:
    said: list[str] = []

    def velocity(x: Any, sigma: float) -> Any:
        said.append("model")
        return x * 0.0

    def on_step(step: int, x: Any, denoised: Any) -> Callable[[], None]:
        said.append(f"step {step}")
        return lambda: said.append(f"beside {step}")

    walk(solver, backend, velocity, tokens(backend, 1), LEVELS, first=6, on_step=on_step)
    order = [word for word in said if word != "model"]
    assert order == ["step 6", "beside 6", "step 7", "beside 7"]
    assert said[said.index("beside 6") - 1] == "model"


@pytest.mark.parametrize("waits", [False, True], ids=["", "but where the model waits"])
def test_a_device_with_a_queue_has_the_next_step_in_it_before_anybody_is_told_of_one(
    solver: Solver, waits: bool
) -> None:
    """As on a GPU, whose queue a processor does not have."""
    backend, said = TorchBackend(), list[str]()
    backend.is_queued = True

    def velocity(x: Any, sigma: float) -> Any:
        said.append("model")
        return x * 0.0

    def watch(step: int, x: Any, denoised: Any) -> Callable[[], None]:
        said.append(f"on its way {step}")
        return lambda: said.append(f"computed {step}")

    def on_step(step: int, x: Any, denoised: Any) -> Callable[[], None]:
        said.append(f"step {step}")
        return lambda: said.append(f"beside {step}")

    x = tokens(backend, 1)
    walk(solver, backend, velocity, x, LEVELS, first=6, on_step=on_step, watch=watch, waits=waits)
    order = [word for word in said if word != "model"]
    if waits:
        assert order[:3] == ["on its way 6", "computed 6", "step 6"]
        assert said[said.index("step 6") + 1] == "model"
    else:
        told = [[f"computed {step}", f"step {step}", f"beside {step}"] for step in (6, 7)]
        assert order == ["on its way 6", "on its way 7", *told[0], *told[1]]


def test_what_watches_a_step_ends_the_walk(solver: Solver, backend: Backend) -> None:
    steps: list[int] = []

    def watch(step: int, x: Any, denoised: Any) -> Callable[[], None]:
        def wait() -> None:
            if step == 6:
                raise Cancelled("not a number")

        return wait

    def on_step(step: int, x: Any, denoised: Any) -> None:
        steps.append(step)

    with pytest.raises(Cancelled, match="not a number"):
        walk(solver, backend, bending, tokens(backend, 1), LEVELS, first=5, on_step=on_step, watch=watch)
    assert steps == [5]


def test_a_walk_that_starts_late_is_a_walk_over_the_remaining_levels(
    solver: Solver, backend: Backend
) -> None:
    late = walk(solver, backend, bending, tokens(backend, 1), LEVELS, first=3)
    short = walk(solver, backend, bending, tokens(backend, 1), LEVELS[3:])
    assert np.array_equal(backend.to_numpy(late), backend.to_numpy(short))


def test_one_step_is_a_whole_walk(solver: Solver, backend: Backend) -> None:
    x = tokens(backend, 1)
    out = walk(solver, backend, bending, x, [1.0, 0.0])
    assert np.allclose(backend.to_numpy(out), backend.to_numpy(x - bending(x, 1.0)), atol=1e-6)


def test_the_same_start_gives_the_same_bytes(solver: Solver, backend: Backend) -> None:
    one, other = (
        backend.to_numpy(walk(solver, backend, bending, tokens(backend, 1), LEVELS)) for _ in range(2)
    )
    assert one.dtype == np.float32
    assert np.array_equal(one, other)


def test_kept_values_are_the_picture_to_the_last_bit_and_free_ones_are_not(
    solver: Solver, backend: Backend
) -> None:
    picture, noise = tokens(backend, 1), tokens(backend, 2)
    freedom = np.zeros((1, 16, 8))
    freedom[:, 5:9] = 1.0
    known = region(backend, picture, noise, freedom)
    out = backend.to_numpy(walk(solver, backend, bending, noise, LEVELS, known=known))
    same = out == backend.to_numpy(picture)
    assert same[freedom == 0.0].all()
    assert not same[freedom == 1.0].any()


def test_kept_values_follow_their_own_noise_on_the_way(solver: Solver, backend: Backend) -> None:
    """In what the solver says, and wherever it asks the model."""
    picture, noise = tokens(backend, 1), tokens(backend, 2)
    known = region(backend, picture, noise, np.zeros((1, 16, 8)))

    def is_on_its_path(x: Any, sigma: float) -> bool:
        expected = backend.to_numpy(noised(picture, noise, sigma))
        return np.allclose(backend.to_numpy(x), expected, atol=1e-6)

    def velocity(x: Any, sigma: float) -> Any:
        assert is_on_its_path(x, sigma)
        return bending(x, sigma)

    def on_step(step: int, x: Any, denoised: Any) -> None:
        assert is_on_its_path(x, LEVELS[step + 1])
        assert is_on_its_path(denoised(), 0.0)

    walk(solver, backend, velocity, noise, LEVELS, known=known, on_step=on_step)


def test_values_beside_a_known_region_walk_as_if_it_were_not_there(solver: Solver, backend: Backend) -> None:
    """The model judges each value alone here, so what is kept must not leak into what is free."""
    picture, noise = tokens(backend, 1), tokens(backend, 2)
    freedom = np.zeros((1, 16, 8))
    freedom[:, 5:9] = 1.0
    known = region(backend, picture, noise, freedom)
    beside = backend.to_numpy(walk(solver, backend, bending, noise, LEVELS, known=known))
    alone = backend.to_numpy(walk(solver, backend, bending, noise, LEVELS))
    assert np.allclose(beside[freedom == 1.0], alone[freedom == 1.0], atol=1e-6)


@pytest.mark.parametrize("freedom", [0.0, 0.125, 0.3, 0.5, 0.74, 1.0])
def test_grey_is_the_strength_that_a_value_is_repainted_with(backend: Backend, freedom: float) -> None:
    """A value walks freely during the last `freedom` of the steps, like image to image does."""
    picture, noise = tokens(backend, 1), tokens(backend, 2)
    known = region(backend, picture, noise, np.full((1, 16, 8), freedom))
    out = walk(Solver.EULER, backend, bending, noise, LEVELS, known=known)
    free_steps = int(freedom * STEPS + 1e-9)
    first = STEPS - free_steps
    expected = walk(Solver.EULER, backend, bending, noised(picture, noise, LEVELS[first]), LEVELS, first)
    assert np.allclose(backend.to_numpy(out), backend.to_numpy(expected), atol=1e-5)


def test_a_value_that_becomes_free_late_goes_where_a_late_walk_goes(solver: Solver, backend: Backend) -> None:
    """With what it remembers of the steps before, a solver is nearer to the truth than without, never off."""
    picture, noise = tokens(backend, 1), tokens(backend, 2)
    levels = [float(s) for s in np.linspace(1, 0, 25)]
    known = KnownRegion(backend, picture, noise, np.full((1, 16, 8), 0.5, np.float32), 24)
    start, finely = noised(picture, noise, 0.5), [float(s) for s in np.linspace(0.5, 0, 1001)]
    truth = backend.to_numpy(walk(Solver.HEUN, backend, bending, start, finely))
    euler, released = (
        backend.to_numpy(walk(way, backend, bending, noise, levels, known=known))
        for way in (Solver.EULER, solver)
    )
    assert np.abs(released - truth).max() <= np.abs(euler - truth).max()


def test_what_is_raised_at_a_step_ends_the_walk(solver: Solver, backend: Backend) -> None:
    calls: list[int] = []

    def on_step(step: int, x: Any, denoised: Any) -> None:
        calls.append(step)
        if step == 2:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        walk(solver, backend, bending, tokens(backend, 1), LEVELS, on_step=on_step)
    assert calls == [0, 1, 2]
