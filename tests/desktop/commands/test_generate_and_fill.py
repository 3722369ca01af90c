"""Pictures from the command line, through a real service."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from flux_core.imaging import codec, metadata
from flux_core.request import Task


def opened(path) -> Image.Image:
    """The file as any other program sees it."""
    with Image.open(path) as image:
        image.load()
    return image


def pixels_of(path) -> np.ndarray:
    return np.array(opened(path))


def test_generate_writes_a_picture_with_its_recipe(flowbrush, tmp_path):
    said = flowbrush("generate", "a red apple", "--seed", 7, "--size", "128x96", "-o", "a.png")
    assert said.code == 0
    assert "a.png (128 x 96, seed 7)" in said.out
    assert pixels_of("a.png").shape == (96, 128, 3)
    request = metadata.read_request((tmp_path / "a.png").read_bytes())
    assert (request.prompt, request.seed, request.task) == ("a red apple", 7, Task.GENERATE)
    assert request.num_steps is not None
    assert request.guidance is not None


def test_the_same_seed_is_the_same_file_and_another_is_not(flowbrush, tmp_path):
    for name, seed in (("a.png", 7), ("b.png", 7), ("c.png", 8)):
        assert flowbrush("generate", "x", "--seed", seed, "--size", "64x64", "-o", name).code == 0
    first, second, third = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert first == second != third


def test_json_is_one_object_that_says_all(flowbrush):
    said = flowbrush("generate", "x", "-o", "a.webp", "--json", "--size", "64x64")
    assert said.err == ""
    assert said.json["file"] == "a.webp"
    assert said.json["request"]["seed"] == said.json["seed"]
    assert said.json["peak_memory_bytes"] > 0
    assert said.json["wall_s"] > 0


@pytest.mark.parametrize("command", ["generate", "transform", "fill"])
def test_loras_reach_the_engine_and_the_recipe(flowbrush, write, noise, tmp_path, command):
    write("photo.png", noise(64, 64, 3))
    write("m.png", np.full((64, 64), 255, np.uint8))
    inputs = {
        "generate": ["x"],
        "transform": ["photo.png", "x"],
        "fill": ["photo.png", "x", "--mask", "m.png"],
    }
    plain = flowbrush(command, *inputs[command], "--seed", 1, "-o", "plain.png")
    said = flowbrush(
        command, *inputs[command], "--seed", 1, "-o", "a.png", "--lora", "ink:0.75", "--lora", "oil paint"
    )
    assert (plain.code, said.code) == (0, 0), said.err
    data = (tmp_path / "a.png").read_bytes()
    request = metadata.read_request(data)
    assert [(use.name, use.strength) for use in request.loras] == [("ink", 0.75), ("oil paint", 1.0)]
    assert opened("a.png").text["parameters"].startswith("x <lora:ink:0.75> <lora:oil paint:1>\n")
    assert not np.array_equal(pixels_of("a.png"), pixels_of("plain.png"))  # it paints what it was asked


def test_what_was_not_done_as_asked_is_said_beside_the_result(flowbrush):
    sentence = "The fake engine left something out."
    said = flowbrush("generate", "warn", "-o", "a.png", "--size", "64x64")
    assert (said.code, said.err.splitlines()[-1]) == (0, sentence)
    found = flowbrush("generate", "warn", "-o", "a.png", "--size", "64x64", "--json").json
    assert found["warnings"] == [sentence]
    assert sentence in flowbrush("jobs", "show", found["job_id"]).out


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_other_formats_carry_the_recipe_too(flowbrush, tmp_path, name):
    assert flowbrush("generate", "x", "--seed", 5, "--size", "64x64", "-o", name).code == 0
    assert metadata.read_request((tmp_path / name).read_bytes()).seed == 5


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["generate", "x", "-o", "nowhere/a.png"], "nowhere"),
        (["generate", "x", "-o", "a.xyz"], "format"),
        (
            ["generate", "x", "-o", "a.png", "--size", "0x0"],
            "The width cannot be 0: it must be a whole number from 64",
        ),
        (["generate", "x", "-o", "a.png", "--size", "1000000x64"], "The width cannot be 1000000"),
        (["generate", "x", "-o", "a.png", "--size", "big"], "size"),
        (["generate", "x", "-o", "a.png", "--seed", "-1"], "seed"),
        (
            ["generate", "x", "-o", "a.png", "--steps", "0"],
            "--steps cannot be 0: it must be a whole number from 1 to 200",
        ),
        (["generate", "x", "-o", "a.png", "--guidance", "nan"], "guidance"),
        (["generate", "x", "-o", "a.png", "--model", "gpt"], "gpt"),
        (["generate", "y" * 1_000_000, "-o", "a.png"], "Prompt cannot be"),
        (["generate", "x", "-o", "a.png", "--lora", "ink:strong"], "strong"),
        (
            ["generate", "x", "-o", "a.png", "--lora", "ink:5"],
            "The strength of a LoRA cannot be 5.0: it must be a number from -4 to 4",
        ),
        (
            ["generate", "x", "-o", "a.png", "--lora", "../ink"],
            "The name of a LoRA cannot be '../ink': it must be a file name without a folder",
        ),
        (["generate", "x", "-o", "a.png", "--lora", "ink", "--lora", "ink:0.5"], "twice"),
        (["generate", "x"], "output"),
        (["generate", "x", "-o", "a.png", "--seed", "seven"], "seed"),
        (["transform", "none.png", "x", "-o", "a.png"], "none.png"),
        (["transform", "photo.png", "x", "-o", "a.png", "--strength", "nan"], "strength"),
        (["transform", "photo.png", "x", "-o", "a.png", "--strength", "0"], "strength"),
        (["fill", "photo.png", "x", "-o", "a.png"], "--mask"),
        (["fill", "photo.png", "x", "-o", "a.png", "--mask", "small.png"], "5 x 5"),
        (["fill", "photo.png", "x", "-o", "a.png", "--mask", "black.png"], "empty"),
        (["fill", "photo.png", "x", "-o", "a.png", "--mask", "broken.png"], "broken.png"),
        (["fill", "photo.png", "x", "-o", "a.png", "--mask", "mask.png", "--feather", "9999"], "9999"),
        (["fill", "photo.png", "x", "-o", "a.png", "--outpaint", "5"], "extend"),
        (["fill", "photo.png", "x", "-o", "a.png", "--outpaint", "0,0,0,0"], "extended"),
        (["fill", "photo.png", "x", "-o", "a.png", "--outpaint", "99999,0,0,0"], "pixels"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_writes_nothing(
    flowbrush, write, noise, tmp_path, arguments, word
):
    write("photo.png", noise(40, 50, 3))
    write("small.png", np.full((5, 5), 255, np.uint8))
    write("black.png", np.zeros((40, 50), np.uint8))
    write("mask.png", np.full((40, 50), 255, np.uint8))
    (tmp_path / "broken.png").write_bytes(b"no picture at all")
    said = flowbrush(*arguments)
    assert said.code == 2
    assert said.out == ""
    assert word in said.err
    assert len(said.err) < 300
    assert "Traceback" not in said.err
    assert not (tmp_path / "a.png").exists()
    assert flowbrush(*arguments, "--json").json["error"]["code"] == "request_invalid"


def test_a_truncated_photo_is_named_and_fails(flowbrush, write, noise, tmp_path):
    photo = write("photo.png", noise(40, 50, 3))
    photo.write_bytes(photo.read_bytes()[:900])
    said = flowbrush("transform", "photo.png", "x", "-o", "a.png")
    assert said.code == 1
    assert said.err == "photo.png is damaged or incomplete. Open another copy of the file.\n"


def test_a_job_that_fails_says_why_and_keeps_the_old_file(flowbrush, tmp_path):
    (tmp_path / "a.png").write_bytes(b"precious")
    said = flowbrush("generate", "oom", "-o", "a.png")
    assert said.code == 1
    assert "memory" in said.err
    assert (tmp_path / "a.png").read_bytes() == b"precious"
    assert flowbrush("generate", "fail", "-o", "a.png").code == 2  # the engine found the request wrong


def test_an_engine_that_dies_costs_the_job_and_the_next_one_runs(flowbrush):
    said = flowbrush("generate", "crash", "-o", "a.png", "--size", "64x64")
    assert said.code == 1
    assert sum(line.endswith(".") for line in said.err.splitlines()) == 1
    assert flowbrush("generate", "x", "-o", "a.png", "--size", "64x64").code == 0


def test_in_a_pipe_each_stage_is_a_plain_line_and_for_a_machine_there_is_none(flowbrush):
    lasting = "steps=4 step_s=0.1"  # so that somebody listens before it is over: progress is not replayed
    said = flowbrush("generate", lasting, "-o", "a.png", "--size", "64x64")
    stages = [line.split()[0] for line in said.err.splitlines()]
    assert "Denoising" in stages
    assert len(set(stages)) == len(stages)
    assert flowbrush("generate", "x", "-o", "a.png", "--size", "64x64", "--json").err == ""


@pytest.mark.parametrize("name", ["out.jpg", "out.webp", "out.png"])
def test_a_fill_says_when_its_format_changes_what_lies_outside_the_mask(flowbrush, write, noise, name):
    picture, mask = noise(90, 100, 3), np.zeros((90, 100), np.uint8)
    mask[20:60, 30:70] = 255
    write("photo.png", picture)
    write("m.png", mask)
    said = flowbrush("fill", "photo.png", "--mask", "m.png", "x", "-o", name)
    is_same = np.array_equal(pixels_of(name)[mask == 0], picture[mask == 0])
    assert is_same == (name == "out.png")
    assert ("pixels outside the mask changed a little, too; write a .png" in said.err) == (not is_same)


def test_transform_keeps_the_size_whatever_it_is(flowbrush, write, noise):
    write("photo.png", noise(333, 501, 3))
    said = flowbrush("transform", "photo.png", "x", "--strength", "0.5", "-o", "out.png", "--json")
    assert said.json["request"]["task"] == "transform"
    assert pixels_of("out.png").shape == (333, 501, 3)


MASKS = {
    "in the middle": (slice(100, 160), slice(120, 200)),
    "at the corner": (slice(0, 50), slice(0, 70)),
    "one pixel": (slice(77, 78), slice(33, 34)),
    "everything": (slice(None), slice(None)),
    "along the edge": (slice(200, None), slice(None)),
}


@pytest.mark.parametrize("where", MASKS)
@pytest.mark.parametrize("channels", [3, 4])
def test_fill_leaves_every_byte_outside_the_mask(flowbrush, write, noise, where, channels):
    picture, mask = noise(240, 320, channels), np.zeros((240, 320), np.uint8)
    mask[MASKS[where]] = 255
    write("photo.png", picture)
    write("m.png", mask)
    said = flowbrush("fill", "photo.png", "--mask", "m.png", "an apple", "--seed", 3, "-o", "out.png")
    assert said.code == 0, said.err
    result = pixels_of("out.png")
    assert result.shape == picture.shape
    assert np.array_equal(result[mask == 0], picture[mask == 0])
    assert (result[mask > 0] != picture[mask > 0]).any()


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_fill_keeps_the_mode_of_the_file(flowbrush, write, noise, mode):
    channels = len(mode) if mode != "LA" else 2
    picture = noise(90, 100, channels) if channels > 1 else noise(90, 100)
    mask = np.zeros((90, 100), np.uint8)
    mask[20:60, 30:70] = 255
    write("photo.png", picture)
    write("m.png", mask)
    assert flowbrush("fill", "photo.png", "--mask", "m.png", "x", "-o", "out.png").code == 0
    assert opened("out.png").mode == mode
    assert np.array_equal(pixels_of("out.png")[mask == 0], picture[mask == 0])


def test_fill_keeps_a_wide_colour_space(flowbrush, write, noise):
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    picture, mask = noise(90, 100, 3), np.zeros((90, 100), np.uint8)
    mask[20:60, 30:70] = 255
    write("photo.png", picture, icc=bytes(profile))
    write("m.png", mask)
    assert flowbrush("fill", "photo.png", "--mask", "m.png", "x", "-o", "out.png").code == 0
    assert opened("out.png").info["icc_profile"] == bytes(profile)
    assert np.array_equal(pixels_of("out.png")[mask == 0], picture[mask == 0])


def test_a_turned_photo_and_its_upright_mask_fit_together(flowbrush, write, noise, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(noise(60, 100, 3)).save(buffer, "PNG", exif=exif)
    (tmp_path / "photo.png").write_bytes(buffer.getvalue())
    mask = np.zeros((100, 60), np.uint8)
    mask[10:30, 10:30] = 255
    write("m.png", mask)
    assert flowbrush("fill", "photo.png", "--mask", "m.png", "x", "-o", "out.png").code == 0
    upright = codec.decode(buffer.getvalue())[..., :3]
    assert np.array_equal(pixels_of("out.png")[mask == 0], upright[mask == 0])


def test_outpainting_extends_and_keeps_the_picture(flowbrush, write, noise):
    picture = noise(90, 120, 3)
    write("photo.png", picture)
    said = flowbrush("fill", "photo.png", "--outpaint", "30,0,50,20", "a lake", "-o", "out.png")
    assert said.code == 0, said.err
    result = pixels_of("out.png")
    assert result.shape == (110, 200, 3)
    assert np.array_equal(result[:90, 30:150], picture)


def test_growing_the_mask_is_allowed_when_asked_for(flowbrush, write, noise):
    picture, mask = noise(90, 120, 3), np.zeros((90, 120), np.uint8)
    mask[40:50, 50:60] = 255
    write("photo.png", picture)
    write("m.png", mask)
    assert flowbrush("fill", "photo.png", "--mask", "m.png", "x", "--grow", 9, "-o", "out.png").code == 0
    changed = (pixels_of("out.png") != picture).any(axis=2)
    assert changed[mask == 0].any()
    assert not changed[:30].any()


def test_a_fill_says_that_a_model_had_a_part_in_it(flowbrush, write, noise, tmp_path):
    write("photo.png", noise(90, 120, 3))
    flowbrush("fill", "photo.png", "--outpaint", "30,0,0,0", "a lake", "-o", "out.png")
    data = (tmp_path / "out.png").read_bytes()
    assert b"compositeWithTrainedAlgorithmicMedia" in data
    assert metadata.read_request(data).task is Task.FILL


def test_a_size_beyond_what_the_model_was_made_for_is_said(flowbrush):
    said = flowbrush("generate", "x", "--size", "520x64", "-o", "large.png")
    assert said.code == 0
    assert "made for sides of up to 512 pixels" in said.err
    assert "made for" not in flowbrush("generate", "x", "--size", "256x64", "-o", "a.png").err
