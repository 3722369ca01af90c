"""Windows that cover everything, fade into each other, and cost the memory of one picture."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_core.imaging.tiles import Blender, Tiling, plan_tiling, scaled_tiling, tiled_apply


@st.composite
def tilings(draw) -> tuple[Tiling, int, int, int]:
    """A tiling of any grid, with its window, overlap and margin."""
    multiple = draw(st.sampled_from([1, 2, 8]))
    height, width = (draw(st.integers(1, 150)) * multiple for _ in range(2))
    window = draw(st.integers(2, 40)) * multiple
    overlap = draw(st.integers(0, window // multiple // 2)) * multiple
    margin = draw(st.integers(0, max((overlap - 1) // 2, 0)))
    return plan_tiling(height, width, window, overlap, multiple, margin), window, overlap, margin


@settings(max_examples=200, deadline=None)
@given(tilings())
def test_windows_cover_every_place_with_weights_that_sum_to_one(case):
    tiling, window, overlap, margin = case
    total = np.zeros((tiling.height, tiling.width))
    for index, here in enumerate(tiling.windows):
        weight = tiling.weight(index)
        assert weight.shape == (here.height, here.width, 1)
        assert weight.min() >= 0.0
        assert here.height == min(window, tiling.height)
        assert here.width == min(window, tiling.width)
        if margin and here.y0 > 0:
            assert not weight[:margin].any()
        if margin and here.x1 < tiling.width:
            assert not weight[:, -margin:].any()
        total[here.rows, here.columns] += weight[..., 0]
    assert np.abs(total - 1.0).max() < 1e-6
    starts = sorted({here.x0 for here in tiling.windows})
    assert all(a + window - b >= overlap for a, b in zip(starts, starts[1:], strict=False))


@settings(max_examples=60, deadline=None)
@given(tilings(), st.floats(-3, 3, width=32))
def test_a_constant_picture_stays_constant(case, value):
    tiling = case[0]
    blender = Blender(tiling, np.zeros((1, tiling.height, tiling.width, 1), np.float32))
    for index, here in enumerate(tiling.windows):
        blender.add(index, np.full((1, here.height, here.width, 1), value, np.float32))
    assert np.abs(blender.total - value).max() < 1e-5


def test_weights_fade_smoothly_and_in_the_middle_of_the_overlap():
    tiling = plan_tiling(8, 56, 32, 8)
    fade = tiling.column_weights[0]
    assert (fade[:24] == 1.0).all()
    assert fade[27] > 0.5 > fade[28]
    assert np.abs(np.diff(fade)).max() < 0.25
    assert np.abs(np.diff(fade, 2)).max() < 0.1


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_arrays_of_every_kind_are_blended_alike(kind):
    rng = np.random.default_rng(3)
    tiling = plan_tiling(20, 30, 16, 6)
    parts = [rng.normal(size=(1, w.height, w.width, 5)).astype(np.float32) for w in tiling.windows]
    plain = Blender(tiling, np.zeros((1, 20, 30, 5), np.float32))
    to_array = torch.from_numpy if kind == "torch" else (lambda weight: weight)
    other = Blender(tiling, to_array(np.zeros((1, 20, 30, 5), np.float32)), to_array)
    for index, part in enumerate(parts):
        plain.add(index, part)
        other.add(index, to_array(part))
    assert np.allclose(plain.total, np.asarray(other.total), atol=1e-6)


def test_mlx_arrays_are_blended_alike():
    import mlx.core as mx

    tiling = plan_tiling(20, 30, 16, 6)
    x = np.random.default_rng(3).normal(size=(1, 20, 30, 5)).astype(np.float32)
    blender = Blender(tiling, mx.zeros((1, 20, 30, 5)), mx.array)
    for index, here in enumerate(tiling.windows):
        blender.add(index, here.cut(mx.array(x)))
    assert np.allclose(np.array(blender.total), x, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([1, 2, 8]))
def test_what_needs_no_surroundings_is_the_same_in_windows(height, width, scale):
    x = np.random.default_rng(height).normal(size=(1, height, width, 2)).astype(np.float32)

    def enlarged(part: np.ndarray) -> np.ndarray:
        return part.repeat(scale, axis=1).repeat(scale, axis=2)[..., :1] * 2.0

    assert np.allclose(tiled_apply(enlarged, x, 16, 4, scale, margin=1), enlarged(x), atol=1e-5)


def test_an_encoder_shrinks_window_by_window():
    x = np.random.default_rng(0).normal(size=(1, 120, 200, 3)).astype(np.float32)

    def means(part: np.ndarray) -> np.ndarray:
        return part.reshape(1, part.shape[1] // 8, 8, part.shape[2] // 8, 8, 3).mean(axis=(2, 4))

    assert np.allclose(tiled_apply(means, x, 64, 16, Fraction(1, 8)), means(x), atol=1e-6)
    with pytest.raises(ValueError, match="multiples of 8"):
        tiled_apply(means, x[:, :119], 64, 16, Fraction(1, 8))


def test_it_stops_between_windows_when_told_to():
    seen: list[tuple[int, int]] = []

    def stop_at_the_third(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        tiled_apply(lambda part: part, np.zeros((1, 64, 64, 1), np.float32), 32, 8, 1, stop_at_the_third)
    assert seen == [(0, 9), (1, 9), (2, 9)]


def test_memory_is_the_result_and_a_few_windows():
    x = np.zeros((1, 1024, 1024, 1), np.float32)
    tiled_apply(lambda part: part, x[:, :64, :64], 64, 16, 1)
    tracemalloc.start()
    result = tiled_apply(lambda part: part * np.float32(2), x, 64, 16, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < result.nbytes + 12 * 64 * 64 * 4 + 300_000  # and the list of 441 windows


def test_scaled_windows_are_the_same_windows():
    tiling = plan_tiling(40, 64, 24, 8)
    large = scaled_tiling(tiling, 8)
    assert [(w.y0, w.x1) for w in large.windows] == [(w.y0 * 8, w.x1 * 8) for w in tiling.windows]
    with pytest.raises(ValueError, match="whole number"):
        scaled_tiling(tiling, Fraction(1, 16))


@pytest.mark.parametrize(
    "numbers", [(10, 10, 8, 5, 1, 0), (0, 10, 8, 2, 1, 0), (9, 10, 8, 2, 2, 0), (20, 20, 8, 4, 2, 2)]
)
def test_numbers_that_do_not_fit_together_are_refused(numbers):
    with pytest.raises(ValueError, match=r"\d"):
        plan_tiling(*numbers)
