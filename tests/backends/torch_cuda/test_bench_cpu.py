"""Both engines are really given the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backends.torch_cuda import bench_cpu
from backends.torch_cuda.bench_cpu import Ours, Theirs

MODELS = (Path(__file__).parents[3] / "resources" / "models",)


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


def test_every_figure_says_what_it_is_of_and_every_picture_is_compared():
    told: list[tuple[str, float]] = []
    found = bench_cpu.measure(
        "tiny",
        MODELS,
        [64],
        [(64, 1), (64, 2)],
        0.0,
        tell=lambda what, detail, done: told.append((what, done)),
    )
    assert [pair.what for pair in found] == ["step 64x64", "picture 64x64, 1 steps", "picture 64x64, 2 steps"]
    assert found[0].largest_difference is None
    assert all(pair.largest_difference in (0, 1) for pair in found[1:])
    assert all(pair.cpu.ours.min_s > 0 for pair in found)
    assert [done for _, done in told] == sorted(done for _, done in told)
    assert list(dict.fromkeys(what for what, _ in told)) == [
        "Loading",
        *(pair.what.capitalize() for pair in found),
    ]
