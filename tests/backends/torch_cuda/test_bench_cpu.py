"""The arithmetic of turns, and that both engines are really given the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backends.torch_cuda import bench_cpu
from backends.torch_cuda.bench_cpu import Ours, Theirs, pair_of

MODELS = (Path(__file__).parents[3] / "resources" / "models",)


def test_a_ratio_is_the_median_over_the_turns_and_a_slow_machine_slows_both():
    pair = pair_of("step", [1.0, 8.0, 1.0, 1.0, 3.0], [2.0, 16.0, 1.0, 2.0, 2.0])
    assert (pair.ours.min_s, pair.ours.median_s, pair.ours.max_s) == (1.0, 1.0, 8.0)
    assert (pair.ratio_low, pair.ratio, pair.ratio_high) == (0.5, 0.5, 1.0)


def test_without_a_peer_there_is_no_ratio():
    pair = pair_of("step", [1.0, 2.0], None)
    assert (pair.theirs, pair.ratio) == (None, None)


@pytest.fixture(scope="module")
def both() -> tuple[Ours, Theirs]:
    ours = Ours("tiny", MODELS)
    with torch.inference_mode():
        return ours, Theirs(ours)


def test_both_answer_a_step_the_same(both):
    with torch.inference_mode():
        ours, theirs = (one.step(64)() for one in both)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_both_paint_the_same_picture(both):
    with torch.inference_mode():
        ours, theirs = (one.paint(64, 2, "a red apple on a blue background").astype(int) for one in both)
    assert np.abs(ours - theirs).max() <= 1


def test_who_goes_first_alternates():
    order: list[str] = []
    bench_cpu._pair("x", lambda: order.append("ours"), lambda: order.append("theirs"), 3)
    assert order == ["ours", "theirs", "ours", "theirs", "theirs", "ours", "ours", "theirs"]
