"""The measurements' own arithmetic, and what they say when a loader fails."""

from __future__ import annotations

import pytest

from desktop.commands import bench, bench_lora
from flux_core.errors import Internal
from flux_core.imaging import codec


def runs(*ready_s: float, peak_bytes: int = 100) -> list[dict[str, float]]:
    return [{"returned_s": ready / 2, "ready_s": ready, "peak_bytes": peak_bytes} for ready in ready_s]


def test_a_loader_is_judged_by_the_median_of_its_runs_and_by_diffusers():
    found = {
        "flowbrush": runs(1.0, 9.0, 2.0),
        "diffusers from_pretrained": runs(5.0, 4.0, 3.0, peak_bytes=200),
    }
    ours, diffusers = bench._loader_times(found)
    assert (ours.returned_s, ours.ready_s) == (1.0, 2.0)
    assert (ours.ready_ratio, ours.memory_ratio) == (0.5, 0.5)
    assert (diffusers.ready_ratio, diffusers.memory_ratio) == (1.0, 1.0)


def test_without_diffusers_there_is_no_ratio():
    (ours,) = bench._loader_times({"flowbrush": runs(1.0)})
    assert ours.ready_ratio is None
    assert ours.memory_ratio is None


def test_a_loader_that_fails_is_one_sentence(tmp_path):
    with pytest.raises(Internal, match=r"'flowbrush' ended with 1: .*ModelMissing.* cannot be read"):
        bench._load_child("flowbrush", str(tmp_path))


def test_pictures_of_the_trained_look_are_no_way_from_it_and_others_are():
    shown = [bench_lora.composed(number, 64) for number in range(5)]
    alike = bench_lora._look(1.0, [codec.encode_png(pixels) for pixels in shown], shown)
    assert (alike.colour_distance, alike.mean_distance) == (0.0, 0.0)
    grey = codec.encode_png(shown[0] * 0 + 128)
    assert bench_lora._look(None, [grey] * 5, shown).colour_distance > 50
