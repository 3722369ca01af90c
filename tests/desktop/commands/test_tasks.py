"""Editing, control, variation and enlargement from the command line, through a real service."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from backends.service.journal import Entry
from backends.service.retention import blobs_of
from flux_core.errors import RequestInvalid
from flux_core.imaging import codec, metadata
from flux_core.messages import JobRecord, JobState, Lane
from flux_core.request import ControlKind, GenerationRequest, Task

KONTEXT = ["--model", "flux1-kontext-dev"]
DEV = ["--model", "flux1-dev"]
TINY = ["--model", "tiny"]


def pixels_of(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def request_in(path):
    return metadata.read_request(path.read_bytes())


@pytest.fixture
def photo(write, noise):
    return write("photo.png", noise(90, 120, 3))


def test_an_edit_has_the_source_s_size_and_says_what_was_asked(flowbrush, photo, write, noise, tmp_path):
    write("other.png", noise(30, 30, 3, seed=1))
    said = flowbrush("edit", "photo.png", "make it night", "--ref", "other.png", *KONTEXT, "-o", "a.png")
    assert said.code == 0, said.err
    assert pixels_of("a.png").shape == (90, 120, 3)
    request = request_in(tmp_path / "a.png")
    assert (request.task, request.prompt, len(request.references)) == (Task.EDIT, "make it night", 1)
    assert abs(request.width_px / request.height_px - 120 / 90) < 0.02
    assert b"compositeWithTrainedAlgorithmicMedia" in (tmp_path / "a.png").read_bytes()


def test_a_style_is_an_instruction_for_an_edit_and_a_prompt_for_a_variation(flowbrush, photo, tmp_path):
    assert flowbrush("edit", "photo.png", "--style", "ink", *KONTEXT, "-o", "a.png").code == 0
    said = flowbrush("vary", "photo.png", "a barn", "--style", "ink", *DEV, "-o", "b.png")
    assert said.code == 0, said.err
    edit, vary = request_in(tmp_path / "a.png"), request_in(tmp_path / "b.png")
    assert edit.prompt.startswith("Redraw this picture with black pen")
    assert vary.prompt == "a pen and ink drawing of a barn, black lines on white paper, fine hatching"
    said = flowbrush("edit", "photo.png", "--style", "nonesuch", *KONTEXT, "-o", "a.png")
    assert said.code == 2
    assert "watercolour" in said.err


def test_control_follows_a_picture_in_its_proportions(flowbrush, photo, tmp_path):
    said = flowbrush(
        "control", "photo.png", "a barn", "--kind", "canny", "--model", "flux1-canny-dev", "-o", "a.png"
    )
    assert said.code == 0, said.err
    request = request_in(tmp_path / "a.png")
    (use,) = request.controls
    assert (request.task, use.kind, use.is_map, use.model) == (Task.CONTROL, ControlKind.CANNY, False, "")
    assert pixels_of("a.png").shape == (request.height_px, request.width_px, 3)
    assert abs(request.width_px / request.height_px - 120 / 90) < 0.01


def test_a_controlnet_has_a_strength_and_a_part_of_the_steps(flowbrush, photo, tmp_path):
    options = ["--controlnet", "instantx-canny", "--strength", 0.6, "--start", 0.1, "--end", 0.8, "--map"]
    said = flowbrush(
        "control", "photo.png", "x", "--kind", "canny", *options, *DEV, "--size", "96x64", "-o", "a.png"
    )
    assert said.code == 0, said.err
    (use,) = request_in(tmp_path / "a.png").controls
    assert (use.model, use.strength, use.start, use.end, use.is_map) == (
        "instantx-canny",
        0.6,
        0.1,
        0.8,
        True,
    )
    assert pixels_of("a.png").shape == (64, 96, 3)


def test_several_pictures_are_varied_by_a_strength_each(flowbrush, photo, write, noise, tmp_path):
    write("second.png", noise(50, 50, 3, seed=2))
    said = flowbrush(
        "vary", "photo.png", "second.png", "in the rain", "--strength", 0.5, "--strength", 1.5, *DEV,
        "-o", "a.png",
    )  # fmt: skip
    assert said.code == 0, said.err
    request = request_in(tmp_path / "a.png")
    assert (request.task, request.prompt) == (Task.VARY, "in the rain")
    assert [use.strength for use in request.pictures] == [0.5, 1.5]
    assert len({use.image for use in request.pictures}) == 2
    assert b"compositeWith" not in (tmp_path / "a.png").read_bytes()  # no pixel of the source is in it


def test_an_adapter_may_read_a_single_picture_without_words(flowbrush, photo, tmp_path):
    said = flowbrush("vary", "photo.png", "--adapter", "xlabs-ip-adapter", *DEV, "-o", "a.png")
    assert said.code == 0, said.err
    (use,) = request_in(tmp_path / "a.png").pictures
    assert (use.adapter, use.strength) == ("xlabs-ip-adapter", 1.0)


def test_several_pictures_are_numbered_and_each_says_its_own_seed(flowbrush, tmp_path):
    said = flowbrush("generate", "x", "--count", 3, "--seed", 5, "--size", "64x64", "-o", "a.png", "--json")
    assert said.code == 0, said.err
    assert said.json["files"] == [{"file": f"a-{k}.png", "seed": 4 + k} for k in (1, 2, 3)]
    assert [request_in(tmp_path / f"a-{k}.png").seed for k in (1, 2, 3)] == [5, 6, 7]
    flowbrush("generate", "x", "--seed", 6, "--size", "64x64", "-o", "alone.png")
    again = request_in(tmp_path / "alone.png")
    assert again == request_in(tmp_path / "a-2.png"), "each file can be made again alone"


SHARED = [
    "--negative", "fog", "--true-guidance", "2.5", "--clip-prompt", "barn", "--tokens", "256", "--clip-only",
    "--solver", "dpmpp_2m", "--step-cache", "careful", "--decoder", "fast",
]  # fmt: skip
LIKES = ["--like", "photo.png:0.4", "--ip-adapter", "face=photo.png:0.7"]
MAPS = ["--controlnet", "depth=photo.png:net:0.8"]
PLACES = ["--region", "half.png:a lake", "--region-base", "0.2"]
INPUTS = {
    "generate": ["x", "--size", "120x90", *LIKES, *MAPS, *PLACES],
    "transform": ["photo.png", "x", *LIKES, *MAPS, *PLACES],
    "fill": ["photo.png", "x", "--mask", "half.png", *LIKES, *MAPS, *PLACES],
    "edit": ["photo.png", "x", *LIKES, *PLACES],
    "control": ["photo.png", "x", "--kind", "canny", "--also", MAPS[1], *LIKES, *PLACES],
    "vary": ["photo.png", "x", *MAPS, *PLACES],
    "upscale": ["photo.png", "x"],
}


@pytest.mark.parametrize("command", INPUTS)
def test_every_command_has_the_shared_options_and_its_file_says_them(
    flowbrush, photo, write, tmp_path, command
):
    half = np.zeros((90, 120), np.uint8)
    half[:, :60] = 255
    write("half.png", half)
    given = INPUTS[command]
    said = flowbrush(command, *given, *SHARED, "-o", "a.png")
    assert said.code == 0, said.err
    request = request_in(tmp_path / "a.png")
    assert request.task == command
    assert (request.negative_prompt, request.true_guidance, request.clip_prompt) == ("fog", 2.5, "barn")
    assert (request.t5_tokens, request.is_clip_only) == (256, True)
    assert (request.solver, request.step_cache, request.decoder) == ("dpmpp_2m", "careful", "fast")
    if "--like" in given:
        assert [(use.adapter, use.strength) for use in request.pictures] == [("", 0.4), ("face", 0.7)]
    if MAPS[1] in given:
        control = request.controls[-1]
        assert (control.kind, control.model, control.strength) == (ControlKind.DEPTH, "net", 0.8)
    if "--region" in given:
        assert [region.prompt for region in request.regions] == ["a lake"]
        assert request.region_base == 0.2


@pytest.mark.parametrize("command", ["transform", "edit"])
def test_a_region_lies_where_it_was_painted_on_the_picture(
    flowbrush, photo, write, client, tmp_path, command
):
    half = np.zeros((90, 120), np.uint8)
    half[:, :60] = 255
    write("half.png", half)
    flowbrush(command, "photo.png", "x", "--region", "half.png:a lake", "-o", "a.png")
    request = request_in(tmp_path / "a.png")
    mask = codec.decode_grey(client.get_blob(request.regions[0].mask))
    assert mask.shape == (request.height_px, request.width_px)
    assert mask[:, : request.width_px // 2 - 8].min() > 200
    assert mask[:, request.width_px // 2 + 8 :].max() < 50


def test_a_grey_mask_says_where_a_transform_may_change(flowbrush, photo, write, tmp_path):
    ramp = np.repeat(np.linspace(0, 255, 120).astype(np.uint8)[None], 90, axis=0)
    write("ramp.png", ramp)
    said = flowbrush("transform", "photo.png", "x", "--mask", "ramp.png", "-o", "a.png")
    assert said.code == 0, said.err
    assert request_in(tmp_path / "a.png").mask is not None
    before, after = pixels_of("photo.png"), pixels_of("a.png")
    assert np.array_equal(after[ramp == 0], before[ramp == 0])
    assert (after[ramp > 0] != before[ramp > 0]).any()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["edit", "photo.png", *KONTEXT], "what to change"),
        (["edit", "none.png", "x", *KONTEXT], "none.png"),
        (["edit", "photo.png", "x", "--ref", "broken.png", *KONTEXT], "broken.png"),
        (["edit", "photo.png", "--style", "film", *KONTEXT], "not for editing"),
        (["control", "photo.png", "x"], "kind"),
        (["control", "photo.png", "x", "--kind", "smell"], "smell"),
        (["control", "photo.png", "x", "--kind", "pose"], "--controlnet"),
        (["control", "photo.png", "x", "--kind", "canny", *DEV, "--strength", "nan"], "strength"),
        (["control", "photo.png", "x", "--kind", "canny", *DEV, "--start", "0.5", "--end", "0.5"], "start"),
        (["vary", "x", *DEV], "x cannot be read"),
        (["vary", "photo.png", "--style", "restore", *DEV], "only for editing"),
        (["vary", "photo.png", "a", "--strength", "1", "--strength", "2", *DEV], "2 strengths"),
        (["generate", "x", "--count", "17"], "--count cannot be 17"),
        (["generate", "x", "--tokens", "100"], "--tokens cannot be 100"),
        (["generate", "x", "--solver", "rk4"], "rk4"),
        (["generate", "x", "--negative", "fog"], "--true-guidance"),
        (["generate", "x", "--true-guidance", "nan"], "--true-guidance cannot be nan"),
        (["generate", "x", "--like", "photo.png:9"], "strength"),
        (["generate", "x", "--ip-adapter", "photo.png"], "IP-Adapter"),
        (["generate", "x", "--controlnet", "photo.png"], "KIND=MAP"),
        (["generate", "x", "--controlnet", "canny=photo.png:net:strong"], "strong"),
        (["generate", "x", "--controlnet", "smell=photo.png:net"], "kind"),
        (["generate", "x", "--region", "photo.png"], "MASK:PROMPT"),
        (["generate", "x", "--region", "black.png:a lake"], "empty"),
        (["edit", "photo.png", "x", "--region", "small.png:a lake"], "Make them the same size"),
        (["generate", "x", "--region", "photo.png:a", "--region", "photo.png:b"], "same mask"),
        (["transform", "photo.png", "x", "--region", "small.png:a lake"], "5 x 5"),
        (["transform", "photo.png", "x", "--mask", "small.png"], "5 x 5"),
        (["transform", "photo.png", "x", "--controlnet", "canny=small.png:net"], "5 x 5"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_writes_nothing(
    flowbrush, photo, write, tmp_path, arguments, word
):
    write("small.png", np.full((5, 5), 255, np.uint8))
    write("black.png", np.zeros((90, 120), np.uint8))
    (tmp_path / "broken.png").write_bytes(b"no picture at all")
    said = flowbrush(*arguments, "-o", "a.png")
    assert said.code == 2
    assert said.out == ""
    assert word in said.err
    assert said.err.count("\n") == 1
    assert len(said.err) < 400
    assert list(tmp_path.glob("a*")) == []
    assert (
        json.loads(flowbrush(*arguments, "-o", "a.png", "--json").out)["error"]["code"] == "request_invalid"
    )


def test_without_a_model_the_one_that_is_here_and_can_do_it_is_taken(flowbrush, photo, tmp_path):
    for arguments, model in (
        (["generate", "x"], "tiny"),
        (["edit", "photo.png", "x"], "tiny-kontext"),
        (["control", "photo.png", "x", "--kind", "depth"], "tiny"),
        (["control", "photo.png", "x", "--kind", "pose", "--controlnet", "net"], "tiny"),
    ):
        assert flowbrush(*arguments, "-o", "a.png").code == 0
        assert request_in(tmp_path / "a.png").model == model


def test_a_quick_picture_needs_no_name_of_a_model(flowbrush, tmp_path):
    said = flowbrush("generate", "x", "--quick", *TINY, "-o", "a.png")
    assert said.code == 2
    assert "--quick" in said.err
    assert flowbrush("generate", "x", "--quick", "-o", "a.png").code == 0
    assert request_in(tmp_path / "a.png").num_steps == 4


def test_an_edit_that_changes_nothing_leaves_every_byte(flowbrush, write, tmp_path):
    y, x = np.mgrid[0:150, 0:211]
    texture = np.dstack([128 + 90 * np.sin(x / (7 + k)) * np.cos(y / (9 - k)) for k in range(3)])
    write("photo.png", texture.astype(np.uint8))
    assert flowbrush("edit", "photo.png", "echo", "-o", "a.png").code == 0
    assert np.array_equal(pixels_of("a.png"), pixels_of("photo.png"))
    assert flowbrush("edit", "photo.png", "echo", "--keep-all", "-o", "b.png").code == 0
    difference = np.abs(pixels_of("b.png").astype(int) - pixels_of("photo.png"))
    assert 0 < difference.mean() < 3, "the model's own picture, scaled there and back"


@pytest.mark.parametrize(("arguments", "shown"), [([], "its source"), (["--no-register"], "where it fell")])
def test_an_edit_that_came_back_shifted_is_laid_onto_its_source(flowbrush, write, noise, arguments, shown):
    small = Image.fromarray(noise(40, 40, 3)).resize((256, 256), Image.Resampling.BICUBIC)
    write("photo.png", np.array(small))
    done = flowbrush("edit", "photo.png", "echo shift=3", *TINY, "--keep-all", *arguments, "-o", "a.png")
    assert done.code == 0, done.err
    inner = (slice(16, -16), slice(16, -16))
    difference = np.abs(pixels_of("a.png").astype(int) - pixels_of("photo.png"))[inner].mean()
    assert (difference < 3) == (shown == "its source")


def test_an_enlargement_goes_in_stages_and_keeps_mode_and_transparency(flowbrush, write, noise, tmp_path):
    picture = noise(40, 56, 4)
    picture[..., 3] = 255
    picture[:, :28, 3] = 0
    write("photo.png", picture)
    said = flowbrush("upscale", "photo.png", "--scale", 4, "--upscaler", "net", "-o", "a.png", "--json")
    assert said.code == 0, said.err
    assert (said.json["stages"], said.json["width_px"], said.json["height_px"]) == (2, 224, 160)
    result = pixels_of("a.png")
    assert result.shape == (160, 224, 4)
    assert result[80, 20, 3] == 0
    assert result[80, 200, 3] == 255
    request = request_in(tmp_path / "a.png")
    assert (request.task, request.upscaler) == (Task.UPSCALE, "net")
    assert request.strength < 0.3, "the second stage invents less"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--scale", "3"], "3 times"),
        (["--scale", "4", "--count", "2"], "--count 1"),
        (["--strength", "0"], "strength"),
        (["--strength", "nan"], "strength"),
    ],
)
def test_an_impossible_enlargement_is_one_sentence(flowbrush, photo, tmp_path, arguments, word):
    said = flowbrush("upscale", "photo.png", *arguments, "-o", "a.png")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert word in said.err


def test_an_intent_sets_words_strength_and_reach(flowbrush, write, noise, tmp_path):
    picture, mask = noise(90, 120, 3), np.zeros((90, 120), np.uint8)
    mask[30:60, 40:80] = 255
    write("photo.png", picture)
    write("m.png", mask)
    said = flowbrush(
        "fill", "photo.png", "--mask", "m.png", "--intent", "remove", "--model", "tiny", "-o", "a.png"
    )
    assert said.code == 0, said.err
    request = request_in(tmp_path / "a.png")
    assert "background" in request.prompt
    assert request.strength == 0.9
    result = pixels_of("a.png")
    assert (result[mask > 0] != picture[mask > 0]).any()
    assert np.array_equal(result[:20], picture[:20])


def test_replacing_the_background_keeps_what_the_mask_marks(flowbrush, write, noise):
    picture, mask = noise(90, 120, 3), np.zeros((90, 120), np.uint8)
    mask[20:70, 30:90] = 255
    write("photo.png", picture)
    write("m.png", mask)
    options = ["--mask", "m.png", "--intent", "replace-background"]
    assert flowbrush("fill", "photo.png", "a beach", *options, "-o", "a.png").code == 0
    result = pixels_of("a.png")
    assert np.array_equal(result[24:66, 34:86], picture[24:66, 34:86])
    assert (result[:16] != picture[:16]).any()


def test_expanding_needs_no_words(flowbrush, photo, tmp_path):
    said = flowbrush(
        "fill", "photo.png", "--outpaint", "0,0,40,0", "--intent", "expand", "-o", "a.png"
    )  # fmt: skip
    assert said.code == 0, said.err
    assert "beyond the frame" in request_in(tmp_path / "a.png").prompt
    assert pixels_of("a.png").shape == (90, 160, 3)


@pytest.mark.parametrize("kind", ["image", "references", "pictures", "controls", "regions"])
def test_the_service_wants_every_picture_that_a_request_names(client, noise, kind):
    here = client.put_blob(codec.encode_png(noise(64, 64, 3, seed=9)))
    used = {
        "image": {"task": "edit", "image": here},
        "references": {"task": "edit", "image": here, "references": (here,)},
        "pictures": {"task": "vary", "pictures": ({"image": here},)},
        "controls": {"task": "control", "controls": ({"kind": "canny", "image": here},)},
        "regions": {"regions": ({"prompt": "a lake", "mask": here},)},
    }[kind]
    job = client.submit(GenerationRequest(prompt="x", width_px=64, height_px=64, **used))
    assert client.wait(job.job_id, lambda _: None, lambda: False).finished is not None
    missing = json.loads(json.dumps(used).replace(here, "f" * 64))
    with pytest.raises(RequestInvalid, match="was not sent"):
        client.submit(GenerationRequest(prompt="x", width_px=64, height_px=64, **missing))


def test_every_picture_of_a_job_is_kept_as_long_as_the_job():
    request = GenerationRequest(
        task=Task.EDIT,
        image="1" * 64,
        references=("2" * 64,),
        pictures=({"image": "3" * 64},),
        controls=({"kind": "canny", "image": "4" * 64, "model": "net"},),
        regions=({"prompt": "x", "mask": "5" * 64},),
    )
    record = JobRecord(
        job_id="j", seq=1, state=JobState.DONE, lane=Lane.INTERACTIVE, request=request, created_at=0.0
    )
    entry = Entry(record=record, fingerprint="", acknowledged_at=1.0)
    assert blobs_of(entry) == {digit * 64 for digit in "12345"}


def test_a_region_may_be_painted_before_or_after_the_picture_was_extended(
    flowbrush, photo, write, client, tmp_path
):
    before, after = np.zeros((90, 120), np.uint8), np.zeros((90, 160), np.uint8)
    before[20:60, 20:60] = 255
    after[:, 40:] = before
    write("before.png", before)
    write("after.png", after)
    masks = []
    for name in ("before.png", "after.png"):
        said = flowbrush(
            "fill", "photo.png", "x", "--outpaint", "40,0,0,0", "--region", f"{name}:a lake", "-o", "a.png"
        )
        assert said.code == 0, said.err
        masks.append(client.get_blob(request_in(tmp_path / "a.png").regions[0].mask))
    assert masks[0] == masks[1]


def test_fine_detail_that_a_small_working_size_loses_is_no_change(flowbrush, write, noise):
    picture = noise(500, 700, 3)
    write("photo.png", picture)
    assert flowbrush("edit", "photo.png", "echo", *TINY, "-o", "a.png").code == 0
    assert np.array_equal(pixels_of("a.png"), picture)
