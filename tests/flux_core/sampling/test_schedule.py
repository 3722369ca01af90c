"""Noise levels: the published numbers, diffusers' numbers, and what must hold for any settings."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_core.sampling.schedule import sigmas, start_step


@pytest.mark.parametrize(
    ("num_steps", "tokens", "first", "last"),
    [
        (28, 4096, (1, 0.988409, 0.976222, 0.963394), (0.274828, 0.195455, 0.104721, 0)),
        (20, 1024, (1, 0.972733, 0.944129, 0.914088), (0.248879, 0.172612, 0.089934, 0)),
    ],
)
def test_equals_the_published_schedule(
    num_steps: int, tokens: int, first: tuple[float, ...], last: tuple[float, ...]
) -> None:
    found = sigmas(num_steps, tokens, has_time_shift=True)
    assert len(found) == num_steps + 1
    assert found[:4] == pytest.approx(first, abs=1e-6)
    assert found[-4:] == pytest.approx(last, abs=1e-6)


def test_four_steps_without_shift_are_quarters() -> None:
    assert sigmas(4, 4096, has_time_shift=False).tolist() == [1, 0.75, 0.5, 0.25, 0]


@pytest.mark.parametrize("tokens", [16, 256, 1024, 3600, 4096, 10_000])
@pytest.mark.parametrize("num_steps", [1, 4, 28, 50])
def test_equals_diffusers(num_steps: int, tokens: int) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, shift=3.0
    )
    scheduler.set_timesteps(
        sigmas=np.linspace(1.0, 1 / num_steps, num_steps), mu=calculate_shift(tokens, 256, 4096, 0.5, 1.15)
    )
    found = sigmas(num_steps, tokens, has_time_shift=True)
    assert np.abs(found - scheduler.sigmas.numpy()).max() < 2e-7


@given(num_steps=st.integers(1, 200), tokens=st.integers(1, 70_000), has_time_shift=st.booleans())
def test_falls_strictly_from_one_to_zero(num_steps: int, tokens: int, has_time_shift: bool) -> None:
    found = sigmas(num_steps, tokens, has_time_shift)
    assert found[0] == 1
    assert found[-1] == 0
    assert (np.diff(found) < 0).all()


@given(num_steps=st.integers(2, 200), tokens=st.integers(1, 60_000))
def test_more_tokens_spend_more_time_at_high_noise(num_steps: int, tokens: int) -> None:
    few, many = sigmas(num_steps, tokens, True), sigmas(num_steps, tokens + 1000, True)
    assert (many[1:-1] > few[1:-1]).all()


@given(num_steps=st.integers(1, 200), strength=st.floats(0, 1, exclude_min=True))
def test_an_image_job_always_has_a_step_left(num_steps: int, strength: float) -> None:
    start = start_step(num_steps, strength)
    assert 0 <= start < num_steps
    assert num_steps - start >= math.floor(num_steps * strength)


@given(num_steps=st.integers(1, 200))
def test_full_strength_forgets_the_picture(num_steps: int) -> None:
    assert start_step(num_steps, 1.0) == 0


@pytest.mark.parametrize(
    ("num_steps", "strength", "start"),
    [(50, 0.8, 10), (10, 0.5, 5), (20, 0.3, 14), (4, 0.1, 3), (28, 0.6, 11)],
)
def test_float_rounding_never_costs_a_step(num_steps: int, strength: float, start: int) -> None:
    assert start_step(num_steps, strength) == start


@given(num_steps=st.integers(1, 200), a=st.floats(0.01, 1), b=st.floats(0.01, 1))
def test_more_strength_never_starts_later(num_steps: int, a: float, b: float) -> None:
    assert start_step(num_steps, max(a, b)) <= start_step(num_steps, min(a, b))
