"""What the benchmark says of exactness: errors, distances of pictures, and walks that take over on demand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from backends.torch_cuda.bench import cached, family, quality
from backends.torch_cuda.bench.context import Bench
from backends.torch_cuda.bench.figures import Figure, Results
from backends.torch_cuda.bench.pictures import Painter
from backends.torch_cuda.bench.sizes import FULL, SMALL
from backends.torch_cuda.bench.studio import Choosing, Pixels, psnr_db
from backends.torch_cuda.eight_bit import EightBitLinear
from flux_core import catalog
from flux_core.request import Precision, StepCache
from flux_core.sampling import step_cache
from flux_core.sampling.step_cache import PRESETS, BlockCache, Preset


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setitem(catalog.MODELS, SMALL.spec.model, SMALL.spec)
    return Bench(torch.device("cpu"), SMALL, Results(None, ""), True, False, ("fp8",), tmp_path)


def found(bench: Bench, words: str) -> list[Figure]:
    return [figure for figure in bench.results.figures if words in figure.what]


def test_eight_bits_cost_products_little_and_bfloat16_a_step_no_more_than_it_costs_the_peer(
    bench: Bench,
) -> None:
    quality.quality(bench)
    products = found(bench, "channels, fp8") + found(bench, "even input, fp8")
    assert len(products) == 2 * 6
    assert all(2.5 < (figure.value or 0.0) < 4.5 for figure in products)
    exact, half, _ = found(bench, "against the peer's exact step")
    assert exact.value is not None
    assert exact.value < 1e-3  # per cent: the peer computes in float64
    assert half.ratio is not None
    assert half.ratio < 1.1  # a little luck with one rounding or another


def test_an_error_is_relative_to_what_should_be() -> None:
    exact = torch.tensor([3.0, 4.0])
    assert quality.error(exact + torch.tensor([0.0, 0.5]), exact) == pytest.approx(0.1)


def test_the_familys_pictures_are_measured_in_each_precision_and_without_a_kind_of_matrix(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family, "KINDS", {"all": "."})
    monkeypatch.setattr(family, "MEMBERS", ("dev", "fill"))
    bench.has_peer, bench.sizes = False, replace(SMALL, num_prompts=1)
    family.family(bench)
    half, eight = (found(bench, f"dev, {name}: PSNR")[0].value for name in ("bf16", "fp8"))
    (none,) = found(bench, "velocity, fp8 but all")
    (whole,) = (figure for figure in bench.results.figures if figure.what == "velocity, fp8")
    assert half is not None
    assert eight is not None
    assert 30 < eight < half < 100
    assert none.value == 0  # nothing is left in eight bits
    assert whole.value is not None
    assert whole.value > 0.5
    assert none.note == f"that kind alone: {whole.value:.2f} %"
    assert len(found(bench, "fill, ")) == 2


def test_kinds_of_matrices_are_all_of_them_between_them() -> None:
    backend = Choosing("cpu", "|".join(family.KINDS.values()))
    make = backend.linear_maker(Precision.FP8)
    assert make is not None
    weight = nn.Parameter(torch.ones(16, 16), requires_grad=False)
    kept = ("double_blocks.1.txt_attn.proj", "double_blocks.2.img_mlp.0", "single_blocks.1.linear2")
    assert not any(isinstance(make(name, weight, None), EightBitLinear) for name in kept)
    other = Choosing("cpu", family.KINDS["proj"]).linear_maker(Precision.FP8)
    assert other is not None
    assert [isinstance(other(name, weight, None), EightBitLinear) for name in kept] == [False, True, True]


def test_what_a_preset_takes_over_and_does_to_pictures_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, StepCache.FAST, Preset(1e9, max_run=4))
    monkeypatch.setattr(cached, "MEMBERS", ("dev",))
    monkeypatch.setattr(cached, "CACHES", (StepCache.FAST,))
    cached.family_cache(bench)
    (taken,) = found(bench, "dev, 12 steps, fp8, fast: taken over")
    assert taken.value == pytest.approx(100 * 8 / 12)
    assert "the median picture: .++++.++++.." in taken.note
    assert [figure.value for figure in found(bench, "off: shows its prompt")] == [100]
    (decibels,) = found(bench, "dev, 12 steps, fp8, fast: PSNR")
    (apart,) = found(bench, "dev, 12 steps, fp8, fast: distance to CLIP")
    assert decibels.value is not None
    assert decibels.value < 60
    assert apart.value is not None
    assert apart.value > 0


def test_a_walk_takes_over_what_a_pattern_says_and_no_more(bench: Bench) -> None:
    made: list[cached.Replayed] = []
    pattern = "..++.++++++."  # a longer run than any preset allows

    def make(*args: Any, **kwargs: Any) -> BlockCache:
        made.append(cached.Replayed(pattern, *args, **kwargs))
        return made[-1]

    painter = Painter(bench, Precision.FP32)
    with cached.caches_made_by(make):
        painter.paint(step_cache=StepCache.FAST)
    (cache,) = made
    assert (cache.hits, cache.evaluations) == (8, 12)
    painter.paint(step_cache=StepCache.FAST)
    assert len(made) == 1


def test_patterns_are_such_as_their_presets_allow() -> None:
    for cache, pattern in cached.PATTERNS.items():
        assert len(pattern) == FULL.num_steps
        assert "." in (pattern[0], pattern[-1])
        assert "+" * (step_cache.PRESETS[cache].max_run + 1) not in pattern


def test_equal_pictures_are_a_hundred_decibels_apart_and_others_less() -> None:
    grey: Pixels = np.full((4, 4, 3), 128, np.uint8)
    assert psnr_db(grey, grey) == 100
    assert psnr_db(grey, grey + np.uint8(1)) == pytest.approx(48.13, abs=0.01)
