"""Looking from the command line, through a real service and the torch engine, with tiny helpers."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from desktop.commands.main import run
from flux_core.imaging import codec
from tests.desktop.commands.conftest import ROOT, Said
from tests.support import vision_folders
from tests.support.vision_folders import pixels

HEIGHT, WIDTH = 40, 60


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """The home of a service with the torch engine and a tiny helper of every kind."""
    with tempfile.TemporaryDirectory(prefix="fb-") as folder:
        home = Path(folder)
        vision_folders.clip(home / "models/clip-l-336")
        vision_folders.florence2(home / "models/florence-2-large")
        vision_folders.llava(home / "models/llava-1.5-7b")
        vision_folders.sam2(home / "models/sam2.1-large")
        vision_folders.depth_pro(home / "models/depth-pro")
        command = [sys.executable, "-m", "desktop.commands", "serve", "--json"]
        command += ["--engine", "torch", "--home", str(home)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert b"{" in process.stdout.readline()
            yield home
        finally:
            process.terminate()
            process.communicate(timeout=30)


@pytest.fixture
def look(home: Path, monkeypatch, capsys, tmp_path: Path) -> Callable[..., Said]:
    """Runs the command line in an empty folder that holds two pictures."""
    monkeypatch.setenv("FLOWBRUSH_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(codec.encode_png(pixels(HEIGHT, WIDTH, number)))

    def call(*arguments: object) -> Said:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return call


def _grey(path: Path) -> np.ndarray:
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        assert image.mode == "L"
        return np.array(image)


def test_describe_captions_and_answers_and_says_who_did(look) -> None:
    said = look("describe", "0.png", "--json")
    assert said.code == 0, said.out
    assert said.json["helper"] == "florence-2-large"
    assert said.json["text"]
    assert said.json["request"]["look"]["kind"] == "caption"
    answer = look("describe", "0.png", "--question", "How many?", "--max-tokens", 6, "--json")
    assert (answer.json["helper"], answer.json["is_cut"]) == ("llava-1.5-7b", True)
    plain = look("describe", "0.png", "--question", "How many?", "--max-tokens", 6)
    assert answer.json["text"] in plain.out
    assert "--max-tokens" in plain.err


def test_describe_with_a_helper_that_only_answers_asks_it_to_describe(look) -> None:
    said = look("describe", "0.png", "--helper", "llava-1.5-7b", "--max-tokens", 4, "--json")
    assert said.json["request"]["look"]["kind"] == "describe"


def test_find_gives_boxes_in_pixels(look) -> None:
    said = look("describe", "0.png", "--find", "a cat", "--find", "the sea", "--json")
    assert {box["label"] for box in said.json["boxes"]} == {"a cat", "the sea"}
    for box in (each["box"] for each in said.json["boxes"]):
        assert 0 <= box["left_px"] < box["right_px"] <= WIDTH
        assert 0 <= box["top_px"] < box["bottom_px"] <= HEIGHT
    assert "LEFT,TOP,RIGHT,BOTTOM" in look("describe", "0.png", "--find", "a cat").out


def test_segment_writes_the_mask_of_a_phrase_or_of_clicks(look, tmp_path: Path) -> None:
    said = look("segment", "0.png", "a cat", "-o", "m.png", "--json")
    assert said.code == 0, said.out
    mask = _grey(tmp_path / "m.png")
    assert mask.shape == (HEIGHT, WIDTH)
    assert set(np.unique(mask)) == {0, 255}
    assert said.json["box"]["left_px"] == np.flatnonzero(mask.any(axis=0))[0]
    clicks = ["--point", "50,10", "--point", "52, 12", "--not", "5,35", "--box", "20,5,60,30"]
    said = look("segment", "0.png", "-o", "n.png", *clicks, "--json")
    assert said.code == 0, said.out
    asked = said.json["request"]["look"]
    assert [(p["x_px"], p["y_px"], p["is_positive"]) for p in asked["points"]] == [
        (50, 10, True),
        (52, 12, True),
        (5, 35, False),
    ]
    assert asked["box"] == {"left_px": 20, "top_px": 5, "right_px": 60, "bottom_px": 30}
    assert _grey(tmp_path / "n.png").shape == (HEIGHT, WIDTH)
    assert 0 <= said.json["score"] <= 1


def test_depth_writes_a_map_from_black_to_white(look, tmp_path: Path) -> None:
    said = look("depth", "0.png", "-o", "d.png")
    assert said.code == 0, said.err
    assert "White is" in said.out
    grey = _grey(tmp_path / "d.png")
    assert (grey.min(), grey.max(), grey.shape) == (0, 255, (HEIGHT, WIDTH))


def test_score_ranks_pictures_and_shows_each_phrase(look) -> None:
    said = look("score", "0.png", "1.png", "a red cat, a blue dog", "--json")
    assert said.code == 0, said.out
    scores = said.json["scores"]
    assert [each["rank"] for each in scores] == [1, 2]
    assert scores[0]["similarity"] > scores[1]["similarity"]
    assert {each["file"] for each in scores} == {"0.png", "1.png"}
    assert [part["phrase"] for part in scores[0]["phrases"]] == ["a red cat", "a blue dog"]
    plain = look("score", "0.png", "1.png", "a red cat, a blue dog").out
    assert f"{scores[0]['similarity']:.4f}" in plain
    assert "  a blue dog" in plain


def test_the_suite_paints_scores_and_keeps_its_pictures(look, tmp_path: Path) -> None:
    suite = {"prompts": [{"name": "an apple", "prompt": "a red apple", "phrases": ["a red apple"]}]}
    (tmp_path / "mine.json").write_text(json.dumps(suite))
    (tmp_path / "kept").mkdir()
    said = look("score", "--prompts", "mine.json", "--steps", 1, "--keep", "kept", "--json")
    assert said.code == 0, said.out
    assert (said.json["model"], said.json["helper"]) == ("tiny", "clip-l-336")
    assert [column["text_length"] for column in said.json["columns"]] == [32]
    assert said.json["scores"][0]["phrases"][0]["phrase"] == "a red apple"
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["an-apple-32.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("describe", "nobody.png"), "nobody.png cannot be read"),
        (("describe", "0.png", "--helper", "depth-pro"), "Depth Pro cannot do captions"),
        (("describe", "0.png", "--find", "a", "--question", "b"), "are two requests"),
        (("describe", "0.png", "--find", " "), "it is empty; write what to look for"),
        (("segment", "0.png", "-o", "m.png"), "Nothing says what to mask"),
        (("segment", "0.png", "a cat", "--point", "1,1", "-o", "m.png"), "are two requests"),
        (("segment", "0.png", "--point", "1", "-o", "m.png"), "'1' is not a point"),
        (("segment", "0.png", "--box", "1,2,3", "-o", "m.png"), "'1,2,3' is not a box"),
        (("segment", "0.png", "--box", "9,2,3,8", "-o", "m.png"), "right must be more than left"),
        (("segment", "0.png", "--not", "1,1", "-o", "m.png"), "a positive point or a box"),
        (("segment", "0.png", "--point", "60,1", "-o", "m.png"), "lies outside of the picture"),
        (("segment", "0.png", "a cat", "-o", "m.jpg"), "no name for a grey PNG"),
        (("depth", "0.png", "-o", "no/d.png"), "There is no folder no"),
        (("score", "0.png"), "There is nothing to score"),
        (("score", "0.png", " "), "it is empty"),
        (("score", "--suite", "0.png"), "paints its own pictures"),
        (("score", "--suite", "--keep", "no"), "There is no folder no"),
        (("score", "--suite", "--model", "nobody"), "There is no model called 'nobody'"),
        (("score", "--prompts", "0.png"), "is not a suite of prompts"),
    ],
)
def test_a_wrong_look_is_one_sentence(look, arguments: tuple[str, ...], words: str) -> None:
    said = look(*arguments)
    assert words in said.err
    assert said.code == (1 if "suite of prompts" in words else 2)
    assert "Traceback" not in said.err
    assert said.out == ""


def test_a_helper_that_is_missing_ends_with_how_to_get_it_before_anything_is_painted(
    look, home: Path
) -> None:
    kept, hidden = home / "models/clip-l-336", home / "clip-l-336"
    kept.rename(hidden)
    try:
        for arguments in (("score", "0.png", "a cat"), ("score", "--suite")):
            said = look(*arguments, "--helper", "clip-l-336", "--json")
            assert said.code == 1
            assert said.json["error"]["code"] == "model_missing"
            assert "flowbrush models get clip-l-336" in said.json["error"]["hint"]
    finally:
        hidden.rename(kept)
