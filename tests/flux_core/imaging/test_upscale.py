"""The plan of a large picture, and the measure that says whether its windows show."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_core.errors import RequestInvalid
from flux_core.imaging.geometry import Box
from flux_core.imaging.upscale import plan_upscale, seam_energy, start_picture


def test_1024_becomes_4096_in_two_stages_of_windows_of_the_models_own_size():
    first, second = plan_upscale(1024, 1024, 4, 1024).stages
    assert (first.width_px, first.height_px) == (2048, 2048)
    assert (second.width_px, second.height_px) == (4096, 4096)
    assert [len(stage.tiling.windows) for stage in (first, second)] == [9, 25]
    assert (first.strength, second.strength) == (0.3, pytest.approx(0.225))
    assert {(w.height, w.width) for w in first.tiling.windows} == {(128, 128)}
    assert plan_upscale(1024, 1024, 4, 1024).num_windows == 34


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.sampled_from([2, 4]), st.sampled_from([256, 512]))
def test_any_size_grows_exactly_and_windows_never_exceed_the_models_size(width, height, scale, side):
    plan = plan_upscale(width, height, scale, side)
    assert (plan.stages[-1].width_px, plan.stages[-1].height_px) == (width * scale, height * scale)
    before = (width, height)
    for stage in plan.stages:
        assert (stage.width_px, stage.height_px) == (before[0] * 2, before[1] * 2)
        before = (stage.width_px, stage.height_px)
        assert stage.padded_width_px % 16 == stage.padded_height_px % 16 == 0
        assert 0 <= stage.padded_width_px - stage.width_px < 16
        assert all(w.height * 8 <= side and w.width * 8 <= side for w in stage.tiling.windows)
        assert all(v % 2 == 0 for w in stage.tiling.windows for v in (w.y0, w.x0, w.y1, w.x1))


def test_a_stage_starts_from_lanczos_continued_at_its_edges():
    picture = np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8)
    stage = plan_upscale(70, 45, 2, 256).stages[0]
    start = start_picture(picture, stage)
    assert start.shape == (96, 144, 3)
    assert (start[:, 140:] == start[:, 139:140]).all()
    assert np.array_equal(start_picture(start[:90, :140], stage), start)  # made by an upscaler model
    with pytest.raises(RequestInvalid, match="proportions"):
        start_picture(picture[:30], stage)


@pytest.mark.parametrize("numbers", [(100, 100, 3, 256), (0, 9, 2, 256), (9000, 10, 2, 256)])
def test_what_cannot_be_enlarged_is_refused(numbers):
    with pytest.raises(RequestInvalid):
        plan_upscale(*numbers)
    for strength in (0.0, 1.5, float("nan")):
        with pytest.raises(RequestInvalid):
            plan_upscale(64, 64, 2, 256, strength)


def test_seam_energy_is_one_on_noise_and_sees_a_step_of_two_levels():
    rng = np.random.default_rng(5)
    smooth = np.cumsum(rng.normal(0, 1, (256, 256, 3)), axis=1)
    windows = [Box(0, 0, 144, 256), Box(112, 0, 256, 256)]
    assert seam_energy(smooth, windows) == pytest.approx(1.0, abs=0.1)
    stepped = smooth.copy()
    stepped[:, 112:] += 2.0
    assert seam_energy(stepped, windows) > 2.0
    assert seam_energy(smooth, [Box(0, 0, 256, 256)]) == 1.0


def test_seam_energy_counts_only_along_the_side_of_a_window():
    flat = np.random.default_rng(0).normal(0, 1, (128, 128))
    flat[64:, 64:] += 20.0
    quarter = [Box(64, 64, 128, 128)]
    assert seam_energy(flat, quarter) > 50
    assert seam_energy(np.zeros((64, 64), np.uint8), [Box(0, 0, 32, 64)]) == 1.0
