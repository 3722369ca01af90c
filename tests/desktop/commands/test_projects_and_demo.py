"""Projects without a window, and the main job from end to end."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from desktop.commands.demo import PHOTO
from flux_core.imaging import codec, metadata


def pixels_of(path) -> np.ndarray:
    return codec.decode(path.read_bytes())


def test_a_project_from_a_picture_renders_to_the_same_pixels(flowbrush, write, noise, tmp_path):
    picture = noise(70, 300, 4)
    write("photo.png", picture)
    assert flowbrush("project", "new", "photo.png", "-o", "p.ora").code == 0
    assert flowbrush("project", "render", "p.ora", "-o", "r.png").code == 0
    assert np.array_equal(pixels_of(tmp_path / "r.png"), picture)


def test_an_empty_project_has_the_size_that_was_asked_for(flowbrush):
    assert flowbrush("project", "new", "--size", "320x200", "-o", "p.ora").code == 0
    found = flowbrush("project", "info", "p.ora", "--json").json
    assert (found["width_px"], found["height_px"], found["layers"]) == (320, 200, [])


@pytest.mark.parametrize(
    "arguments",
    [
        ["new", "-o", "p.ora"],
        ["new", "--size", "10x10", "photo.png", "-o", "p.ora"],
        ["new", "--size", "10x10", "-o", "p.png"],
        ["new", "--size", "0x10", "-o", "p.ora"],
        ["new", "--size", "10x10", "-o", "nowhere/p.ora"],
        ["info", "none.ora"],
        ["render", "none.ora", "-o", "a.png"],
        ["export", "none.ora", "-o", "a.xyz"],
    ],
)
def test_a_wrong_project_command_is_one_sentence(flowbrush, write, noise, arguments):
    write("photo.png", noise(4, 4, 3))
    said = flowbrush("project", *arguments)
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_project_that_is_there_is_replaced_only_when_that_is_said(flowbrush, tmp_path):
    assert flowbrush("project", "new", "--size", "320x200", "-o", "p.ora").code == 0
    before = (tmp_path / "p.ora").read_bytes()
    said = flowbrush("project", "new", "--size", "64x64", "-o", "p.ora")
    assert said.code == 2
    assert "--force" in said.err
    assert (tmp_path / "p.ora").read_bytes() == before
    assert flowbrush("project", "new", "--size", "64x64", "-o", "p.ora", "--force").code == 0


def test_a_project_that_reaches_outside_itself_is_refused(flowbrush, tmp_path):
    stack = '<image version="0.0.3" w="8" h="8"><stack><layer src="../../x" name="evil"/></stack></image>'
    with zipfile.ZipFile(tmp_path / "p.ora", "w") as file:
        file.writestr("mimetype", "image/openraster")
        file.writestr("stack.xml", stack)
    said = flowbrush("project", "render", "p.ora", "-o", "a.png")
    assert said.code == 1
    assert said.err.count("\n") == 1
    assert not (tmp_path / "a.png").exists()


def test_the_demo_does_the_main_job_and_leaves_everything_else_alone(flowbrush, tmp_path):
    said = flowbrush("demo", "-o", "out", "--json")
    assert said.code == 0, said.err
    found = said.json
    assert found["files"] == ["out/demo.png", "out/demo.ora"]
    assert found["pixels_changed"] > 1000
    assert found["peak_memory_bytes"] > 0
    assert {"start the service", "let the model paint", "save the project"} <= set(found["parts_s"])
    photo, result = pixels_of(PHOTO), pixels_of(tmp_path / "out" / "demo.png")
    changed = (photo != result).any(axis=2)
    assert changed.sum() == found["pixels_changed"]
    assert not changed[: photo.shape[0] // 3].any()


def test_the_demo_s_project_says_how_its_layer_was_made(flowbrush, tmp_path):
    flowbrush("demo", "-o", "out", "--seed", 11)
    layers = flowbrush("project", "info", "out/demo.ora", "--json").json["layers"]
    assert [layer["kind"] for layer in layers] == ["generative", "raster"]
    assert layers[0]["has_mask"]
    assert layers[0]["request"]["seed"] == 11
    listed = flowbrush("project", "info", "out/demo.ora").out
    assert "(generative, " in listed

    assert flowbrush("project", "export", "out/demo.ora", "-o", "e.png").code == 0
    assert metadata.read_request((tmp_path / "e.png").read_bytes()).seed == 11
    assert flowbrush("project", "export", "out/demo.ora", "-o", "s.png", "--strip").code == 0
    assert metadata.read_request((tmp_path / "s.png").read_bytes()) is None
    assert np.array_equal(pixels_of(tmp_path / "e.png"), pixels_of(tmp_path / "s.png"))

    layer = ["--layer", layers[1]["name"]]
    assert flowbrush("project", "render", "out/demo.ora", "-o", "below.png", *layer).code == 0
    assert np.array_equal(pixels_of(tmp_path / "below.png"), pixels_of(PHOTO))
    assert flowbrush("project", "render", "out/demo.ora", "-o", "x.png", "--layer", "nobody").code == 2


def test_the_demo_tells_people_what_it_does(flowbrush):
    said = flowbrush("demo", "-o", "out")
    assert " s  let the model paint" in said.out
    assert "outside it every byte is as it was" in said.out
