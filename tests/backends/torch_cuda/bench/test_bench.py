"""Every piece of the benchmark runs on a processor at small sizes, and says what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from backends.torch_cuda.bench import merge, plot
from backends.torch_cuda.bench.__main__ import NO_DEVICE, PIECES, run_piece
from backends.torch_cuda.bench.context import Bench
from backends.torch_cuda.bench.figures import Figure, Results, line
from backends.torch_cuda.bench.sizes import FULL, SMALL, put_into_catalog
from backends.torch_cuda.bench.weights import RandomSource, model_shapes, write_file, write_model
from flux_core import catalog
from flux_core.weights.safetensors_file import SafetensorsFile

TESTED_ALONE = "floor", "cold", "quality", "family", "family-cache"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def bench(base: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setitem(catalog.MODELS, SMALL.spec.model, SMALL.spec)
    results = Results(None, "flowbrush bench h200")
    return Bench(torch.device("cpu"), SMALL, results, False, False, ("fp32",), base)


@pytest.mark.parametrize("name", [name for name in PIECES if name not in TESTED_ALONE])
def test_a_piece_measures_something_and_tells_it_under_its_name(bench: Bench, name: str) -> None:
    run_piece(bench, name)
    figures = bench.results.figures
    assert {figure.piece for figure in figures} == {name}
    assert any(figure.value is not None for figure in figures) or name == "memory"


def test_the_floor_of_a_step_is_the_sum_of_its_products_and_its_attention(bench: Bench) -> None:
    run_piece(bench, "floor")
    (bf16,) = (figure for figure in bench.results.figures if figure.what == "step, bf16")
    assert bf16.value == pytest.approx(1e3 * bench.floor_s["bf16"])


def test_the_floor_knows_attention_over_an_edits_tokens_too(bench: Bench) -> None:
    run_piece(bench, "floor")
    lengths = {figure.what.split("x")[2] for figure in bench.results.figures if "attention" in figure.what}
    assert lengths == {str(n * SMALL.img_tokens + SMALL.txt_tokens) for n in (1, 2)}


def test_a_precision_that_nobody_knows_is_refused_before_anything_is_measured() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "backends.torch_cuda.bench", "t5", "--tiny", "--precision", "fp4"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "invalid choice: 'fp4'" in done.stderr


def test_a_first_picture_is_measured_in_a_process_of_its_own(bench: Bench) -> None:
    run_piece(bench, "cold")
    first, again = bench.results.figures
    assert first.value is not None
    assert again.value is not None
    assert "loading" in again.note
    assert "denoising" in again.note


def test_the_peer_stands_beside_ours_with_a_ratio(bench: Bench) -> None:
    bench.has_peer = True
    run_piece(bench, "vae")
    (figure,) = bench.results.figures
    assert figure.peer_name == "diffusers, eager"
    assert figure.value is not None
    assert figure.peer is not None
    assert figure.ratio == figure.value / figure.peer


def test_a_piece_that_fails_is_told_and_the_others_go_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(bench: Bench) -> None:
        raise OSError("no room")

    monkeypatch.setitem(PIECES, "t5", fail)
    bench.sizes = FULL
    run_piece(bench, "t5")
    (figure,) = bench.results.figures
    assert figure.note == "failed: OSError: no room"


def test_full_size_is_the_published_model() -> None:
    shapes = model_shapes(FULL.spec)
    values = {name: sum(_size(shape) for shape in part.values()) for name, part in shapes.items()}
    assert values[FULL.spec.files.transformer] == 11_901_408_320
    assert values[FULL.spec.files.t5] == 4_762_310_656
    assert (FULL.img_tokens, FULL.txt_tokens) == (4096, 512)


def test_results_are_kept_after_every_figure_with_what_they_were_measured_on(tmp_path: Path) -> None:
    results = Results(tmp_path / "out", "flowbrush bench h200", {"device": "a GPU"})
    results.add(Figure("step", "bf16", "ms", 120.0, 174.0, "diffusers, eager", 108.0, 118.0))
    found = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert found["machine"] == {"device": "a GPU"}
    assert found["figures"][0]["ratio"] == pytest.approx(120 / 174)
    drawn = ElementTree.parse(tmp_path / "out" / "figures.svg").getroot()  # noqa: S314 # our own file
    assert drawn.tag.endswith("svg")
    assert any("174" in (text.text or "") for text in drawn.iter())


def test_a_drawing_leaves_out_what_cannot_be_compared_and_escapes_words() -> None:
    figures = [
        Figure("two", "one", "s", None, note="not built", reach=1.0),
        Figure("floor", "alone", "ms", 2.0),
        Figure("t5", "a < b", "ms", 1.0, reach=2.0),
    ]
    results = Results(None, "", {}, figures)
    assert "a &lt; b" in plot.svg(results.as_json())
    assert "two" not in plot.svg(results.as_json())
    assert "alone" not in plot.svg(results.as_json())
    assert line(figures[0]) == "one: not built"


def test_runs_of_one_machine_are_put_together_and_others_are_not() -> None:
    def run(torch_version: str) -> dict[str, Any]:
        machine = {"device": "a GPU", "torch": torch_version}
        return Results(None, "one piece", machine, [Figure("t5", "512", "ms", 9.0, 18.0, "peer")]).as_json()

    both = merge.merged([run("2.11"), run("2.11")])
    assert len(both["figures"]) == 2
    assert "| t5 | 512 | 9 ms | 18 ms peer | 0.50 |" in merge.markdown(both)
    assert merge.rows(both)[1][:5] == ("t5", "512", "9 ms", "18 ms peer", "0.50")
    with pytest.raises(ValueError, match="differ in torch"):
        merge.merged([run("2.11"), run("2.12")])


def test_the_table_says_how_much_of_a_figure_is_floor() -> None:
    figures = [Figure("step", "fp8", "ms", 80.0, floor=60.0), Figure("step", "fp8", "ms", None, floor=60.0)]
    at = merge.COLUMNS.index("floor (its share)")
    rows = merge.rows(Results(None, "", {}, figures).as_json())
    assert [row[at] for row in rows] == ["60 ms (75 %)", "60 ms"]


def test_a_model_is_written_once_and_gains_of_norms_are_one(tmp_path: Path) -> None:
    write_model(tmp_path, SMALL.spec)
    path = tmp_path / SMALL.spec.model / SMALL.spec.files.transformer
    file = SafetensorsFile(path)
    assert (file.read("single_blocks.0.norm.query_norm.scale").to_numpy() == 1.0).all()
    assert 0.01 < file.read("img_in.weight").to_numpy().std() < 0.03
    written = path.stat().st_mtime_ns
    write_model(tmp_path, SMALL.spec)
    assert path.stat().st_mtime_ns == written


def test_random_tensors_have_the_shapes_that_were_asked_for(tmp_path: Path) -> None:
    shapes = {"a.weight": (3, 5), "norm.scale": (7,), "a.bias": (3,)}
    source = RandomSource(shapes)
    assert {name: info.shape for name, info in source.names().items()} == shapes
    assert (source.read("norm.scale").to_numpy() == 1.0).all()
    write_file(tmp_path / "w", shapes, source._values)
    assert {name: info.shape for name, info in SafetensorsFile(tmp_path / "w").names().items()} == shapes


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="says what a machine without CUDA is told, and here is CUDA"
)
def test_a_machine_without_cuda_is_told_so_by_the_exit_status() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "backends.torch_cuda.bench", "t5", "--device", "cuda"],
        check=False,
        capture_output=True,
    )
    assert done.returncode == NO_DEVICE


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def test_the_row_of_the_benchmark_is_in_no_catalog_until_it_is_put_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models: dict[str, Any] = {}
    assert SMALL.spec.model not in catalog.MODELS
    monkeypatch.setattr(catalog, "MODELS", models)
    put_into_catalog(SMALL)
    assert models == {SMALL.spec.model: SMALL.spec}
