"""The Euler walk, and the region that must stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.mlx_metal.backend import MlxBackend
from backends.torch_cuda.backend import TorchBackend
from flux_core.errors import Cancelled
from flux_core.ops import Backend
from flux_core.sampling.noise import seeded_noise
from flux_core.sampling.schedule import sigmas
from flux_core.sampling.solvers import KnownRegion, euler, noised

STEPS = 8
LEVELS = [float(s) for s in sigmas(STEPS, 256, has_time_shift=True)]


@pytest.fixture(params=[TorchBackend, MlxBackend], ids=["torch", "mlx"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param()


def tokens(backend: Backend, seed: int) -> Any:
    return backend.from_numpy(seeded_noise(seed, 4, 4, 8).reshape(1, 16, 8))


def region(backend: Backend, picture: Any, noise: Any, freedom: np.ndarray) -> KnownRegion:
    return KnownRegion(backend, picture, noise, freedom.astype(np.float32), STEPS)


def test_a_perfect_velocity_leads_exactly_to_the_picture(backend: Backend) -> None:
    picture, noise = tokens(backend, 1), tokens(backend, 2)
    out = euler(backend, lambda x, sigma: noise - picture, noise, LEVELS)
    assert np.allclose(backend.to_numpy(out), backend.to_numpy(picture), atol=1e-5)


def test_the_estimate_of_a_perfect_model_is_the_picture_at_every_step(backend: Backend) -> None:
    picture, noise = tokens(backend, 1), tokens(backend, 2)
    seen: list[np.ndarray] = []
    euler(
        backend,
        lambda x, sigma: noise - picture,
        noise,
        LEVELS,
        on_step=lambda step, x, denoised: seen.append(backend.to_numpy(denoised())),
    )
    assert len(seen) == STEPS
    assert all(np.allclose(estimate, backend.to_numpy(picture), atol=1e-5) for estimate in seen)


def test_a_walk_that_starts_late_takes_only_the_remaining_steps(backend: Backend) -> None:
    levels: list[float] = []

    def velocity(x: Any, sigma: float) -> Any:
        levels.append(sigma)
        return x * 0.0

    euler(backend, velocity, tokens(backend, 1), LEVELS, first=5)
    assert levels == LEVELS[5:-1]


def test_kept_values_are_the_picture_to_the_last_bit_and_free_ones_are_not(backend: Backend) -> None:
    picture, noise = tokens(backend, 1), tokens(backend, 2)
    freedom = np.zeros((1, 16, 8))
    freedom[:, 5:9] = 1.0
    known = region(backend, picture, noise, freedom)
    out = backend.to_numpy(euler(backend, lambda x, sigma: x * 0.7 + 1.0, noise, LEVELS, known=known))
    same = out == backend.to_numpy(picture)
    assert same[freedom == 0.0].all()
    assert not same[freedom == 1.0].any()


def test_kept_values_follow_their_own_noise_on_the_way(backend: Backend) -> None:
    picture, noise = tokens(backend, 1), tokens(backend, 2)
    known = region(backend, picture, noise, np.zeros((1, 16, 8)))

    def on_step(step: int, x: Any, denoised: Any) -> None:
        expected = backend.to_numpy(noised(picture, noise, LEVELS[step + 1]))
        assert np.allclose(backend.to_numpy(x), expected, atol=1e-6)

    euler(backend, lambda x, sigma: x, noise, LEVELS, known=known, on_step=on_step)


@pytest.mark.parametrize("freedom", [0.0, 0.125, 0.3, 0.5, 0.74, 1.0])
def test_grey_is_the_strength_that_a_value_is_repainted_with(backend: Backend, freedom: float) -> None:
    """A value walks freely during the last `freedom` of the steps, like image to image does."""
    picture, noise = tokens(backend, 1), tokens(backend, 2)
    known = region(backend, picture, noise, np.full((1, 16, 8), freedom))
    out = euler(backend, lambda x, sigma: x * 0.7 + 1.0, noise, LEVELS, known=known)
    free_steps = int(freedom * STEPS + 1e-9)
    first = STEPS - free_steps
    expected = euler(
        backend, lambda x, sigma: x * 0.7 + 1.0, noised(picture, noise, LEVELS[first]), LEVELS, first
    )
    assert np.allclose(backend.to_numpy(out), backend.to_numpy(expected), atol=1e-5)


def test_what_is_raised_at_a_step_ends_the_walk(backend: Backend) -> None:
    calls: list[int] = []

    def on_step(step: int, x: Any, denoised: Any) -> None:
        calls.append(step)
        if step == 2:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        euler(backend, lambda x, sigma: x, tokens(backend, 1), LEVELS, on_step=on_step)
    assert calls == [0, 1, 2]
