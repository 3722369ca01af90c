"""The measurements' own arithmetic, and what they say when a loader fails."""

from __future__ import annotations

import contextlib
import json

import pytest

from backends.torch_cuda.bench.__main__ import PIECES
from backends.torch_cuda.training import checkpoint, judge
from backends.torch_cuda.training.data.feed import LABELS
from desktop.commands import bench, bench_cpu, bench_family, bench_h200, bench_lora
from flux_core.errors import Internal
from flux_core.imaging import codec
from tests.support.training_pack import disc_pack


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


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "pack.npz"
    disc_pack().save(path)
    return path


@pytest.fixture(scope="module")
def eye(tmp_path_factory):
    path = tmp_path_factory.mktemp("judge") / "judge.safetensors"
    checkpoint.save(path, judge.Judge(LABELS).state_dict())
    return path


@pytest.fixture
def family(flowbrush, pack, monkeypatch):
    """`flowbrush bench family` with the service that runs already, whose engine is the fake one."""
    monkeypatch.setattr(bench_family, "_service", contextlib.nullcontext)
    return lambda *arguments: flowbrush("bench", "family", "--pack", pack, *arguments, "--json")


def test_every_section_of_the_family_is_painted_judged_and_shown(family, eye, tmp_path):
    said = family("--judge", eye, "--into", "out", "--count", 2, "--only", "fill,kontext,schnell")
    assert said.code == 0, said.err
    found = said.json
    assert (found["left_out"], found["failed"]) == ({}, {})
    assert {"judge", "schnell", "fill_object", "kontext_style", "kontext", "seconds"} <= set(found["figures"])
    assert found["figures"]["seconds"]["schnell"] > 0
    assert found["figures"]["fill_object"]["largest_change_outside_of_255"] <= 1
    assert json.loads((tmp_path / "out" / "figures.json").read_text()) == found
    sheets = {path.stem for path in (tmp_path / "out" / "sheets").iterdir()}
    assert {"schnell", "fill_remove", "kontext_add"} <= sheets


def test_a_section_whose_model_is_not_here_is_left_out_and_the_others_are_measured(
    family, eye, tmp_path, monkeypatch
):
    run = bench_family._run

    def without_fill(*arguments):
        if arguments[0] == "fill":
            return {"error": {"code": "model_missing", "message": "Fill is not on this machine.", "hint": ""}}
        return run(*arguments)

    monkeypatch.setattr(bench_family, "_run", without_fill)
    found = family("--judge", eye, "--into", "out", "--count", 2, "--only", "fill,schnell").json
    assert set(found["left_out"]) == {
        f"fill_{way}" for way in ("object", "around", "remove", "remove_intent")
    }
    assert "schnell" in found["figures"]


def test_the_autoencoder_needs_no_judge(family, tmp_path):
    found = family("--into", "out", "--only", "autoencoder", "--count", 2).json
    assert found["figures"]["autoencoder"]["scenes_256px_db"] > 25


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "prompts"], ("need a judge", "--stages judge")),
        (["--judge", "none.safetensors"], ("no judge at none.safetensors", "--stages judge")),
        (["--only", "smell"], ("no section 'smell'", "kontext")),
    ],
)
def test_what_is_missing_for_the_family_is_one_sentence_with_the_next_step(family, arguments, words):
    said = family("--into", "out", *arguments)
    assert said.code == 2
    assert all(word in said.out for word in words)


def test_a_pack_or_a_judge_that_is_none_is_told_before_anything_is_painted(family, pack, flowbrush, tmp_path):
    said = flowbrush(
        "bench", "family", "--pack", "none.npz", "--into", "out", "--judge", pack, "--only", "two"
    )
    assert (said.code, "no training pack" in said.err) == (2, True)
    said = family("--judge", pack, "--into", "out", "--only", "two", "--count", 2)
    assert said.code == 2
    assert "is not a judge" in said.out
    assert not (tmp_path / "out" / "exercises.json").exists()  # nothing was painted for it


def test_pictures_of_the_trained_look_are_no_way_from_it_and_others_are():
    shown = [bench_lora.composed(number, 64) for number in range(5)]
    alike = bench_lora._look(1.0, [codec.encode_png(pixels) for pixels in shown], shown)
    assert (alike.colour_distance, alike.mean_distance) == (0.0, 0.0)
    grey = codec.encode_png(shown[0] * 0 + 128)
    assert bench_lora._look(None, [grey] * 5, shown).colour_distance > 50


def test_sizes_of_flux_on_a_machine_without_cuda_are_refused_with_the_next_step(flowbrush):
    found = flowbrush("bench", "h200", "--only", "t5")
    assert found.code == 2
    assert found.err.startswith("There is no CUDA device on this machine. Run it on a machine with one")
    assert found.err.count("\n") == 1


def test_a_piece_that_nobody_knows_is_refused_with_those_there_are(flowbrush):
    found = flowbrush("bench", "h200", "--tiny", "--only", "teapot")
    assert found.code == 2
    assert found.err == f"The benchmark knows no 'teapot'. Choose one of: {', '.join(PIECES)}.\n"
    assert list(bench_h200.PIECES) == list(PIECES)


def test_a_precision_that_nobody_knows_is_refused_with_those_there_are(flowbrush):
    found = flowbrush("bench", "h200", "--tiny", "--only", "t5", "--precision", "fp4")
    assert found.code == 2
    assert found.err == "The benchmark knows no 'fp4'. Choose one of: fp32, bf16, fp8.\n"


def test_small_sizes_are_a_table_for_people_and_one_object_for_machines(flowbrush, tmp_path):
    arguments = ("bench", "h200", "--tiny", "--only", "t5", "--output", str(tmp_path / "out"))
    shown = flowbrush(*arguments).out
    assert "32 tokens" in shown
    assert "FLOOR (ITS SHARE)" in shown
    found = json.loads(flowbrush(*arguments, "--json").out)
    assert "table" not in found
    assert [figure["piece"] for figure in found["figures"]] == ["t5"]
    assert found["machine"]["torch"]
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".json", ".md", ".svg"]


def test_the_processor_is_measured_from_start_to_picture_beside_diffusers(flowbrush):
    said = flowbrush("bench", "cpu", "--size", 64, "--steps", 1, "--seconds", 0, "--json")
    assert said.code == 0, said.err
    found = said.json
    step, picture = found["pairs"]
    assert (step["what"], picture["what"]) == ("step 64x64", "picture 64x64, 1 steps")
    assert all(each[clock]["ratio"] > 0 for each in found["pairs"] for clock in ("wall", "cpu"))
    assert picture["largest_difference"] <= 1
    assert 0 < found["peak_memory_bytes"]["flowbrush"] < found["peak_memory_bytes"]["diffusers"]
    start = found["start"]
    assert 0 < start["warm_min_s"] <= start["warm_s"] < start["cold_s"]


def test_without_diffusers_the_processor_is_measured_alone_and_who_waits_is_told(flowbrush, monkeypatch):
    monkeypatch.setattr(bench_cpu, "find_spec", lambda name: None)
    said = flowbrush("bench", "cpu", "--size", 64, "--steps", 1, "--seconds", 0, "--no-start")
    assert said.code == 0, said.err
    lines = {line[:14]: line for line in said.out.splitlines()}
    assert "ms" in lines["step 64x64    "]
    assert "MB" in lines["memory of a pr"]
    assert "start" not in said.out
    told = said.err.splitlines()
    assert told[0] == "Loading"
    assert [line[:12] for line in told[1:]] == ["Step 64x64 w", "Picture 64x6", "Memory of fl"]


def test_by_default_the_first_size_is_also_painted_in_many_steps_and_all_in_few():
    assert bench_cpu.what_to_measure(None, None) == ([256, 512], [(256, 4), (256, 20), (512, 4)])
    assert bench_cpu.what_to_measure([64], [8, 2]) == ([64], [(64, 2), (64, 8)])


def test_a_model_that_is_not_there_cannot_be_measured(flowbrush):
    said = flowbrush("bench", "cpu", "--model", "flux1-dev", "--no-start")
    assert said.code == 1
    assert "'times' ended with 1" in said.err
