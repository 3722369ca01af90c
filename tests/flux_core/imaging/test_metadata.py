"""A picture says how it was made, in every format, and can be asked."""

from __future__ import annotations

import io
import xml.dom.minidom

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flux_core.imaging import codec, metadata
from flux_core.imaging.metadata import Recipe
from flux_core.request import GenerationRequest, Task

PIXELS = np.full((6, 8, 3), 90, np.uint8)
FORMATS = ["png", "jpeg", "webp"]
REQUEST = GenerationRequest(
    prompt='ein "roter" Apfel & <Birne>, 红苹果\nzweite Zeile', seed=7, num_steps=20, guidance=3.5
)

prompts = st.text(st.characters(exclude_categories=("Cs",)), max_size=300)


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=40, deadline=None)
@given(prompts, st.integers(0, 2**63 - 1))
def test_every_prompt_comes_back_from_every_format(format, prompt, seed):
    request = GenerationRequest(prompt=prompt, seed=seed)
    assert metadata.read_request(metadata.encode(PIXELS, format, Recipe.of(request))) == request


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("letter", ["&", '"', "\x01", "苹", "🍎", "<"])
def test_the_longest_prompt_fits_into_every_format(format, letter):
    request = GenerationRequest(prompt=letter * 10_000)
    assert metadata.read_request(metadata.encode(PIXELS, format, Recipe.of(request))) == request


def test_a_png_has_the_text_that_other_tools_read():
    texts = Image.open(io.BytesIO(metadata.encode(PIXELS, "png", Recipe.of(REQUEST)))).text
    assert list(texts)[:2] == ["parameters", "flowbrush"]
    assert texts["parameters"] == (
        f"{REQUEST.prompt}\n"
        "Steps: 20, Sampler: Euler, Distilled CFG Scale: 3.5, CFG scale: 1, "
        "Seed: 7, Size: 256x256, Model: tiny"
    )


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_exif_has_the_same_text(format):
    exif = Image.open(io.BytesIO(metadata.encode(PIXELS, format, Recipe.of(REQUEST)))).getexif()
    comment = exif.get_ifd(0x8769)[0x9286]
    assert comment.removeprefix(b"UNICODE\0").decode("utf-16-be") == metadata.parameters(REQUEST)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("is_composite", "kind"), [(False, "/trained"), (True, "/compositeWithTrained")])
def test_every_format_says_that_a_model_had_a_hand_in_it(format, is_composite, kind):
    data = metadata.encode(PIXELS, format, Recipe(None, is_composite))
    info = codec.read_info(data)
    packet = info.get("xmp") or info.get("XML:com.adobe.xmp")
    text = packet.decode() if isinstance(packet, bytes) else str(packet)
    xml.dom.minidom.parseString(text.encode())
    assert f"{kind}AlgorithmicMedia" in text


def test_an_edit_is_a_composite_and_a_text_to_image_is_not():
    assert not Recipe.of(REQUEST).is_composite
    assert Recipe.of(GenerationRequest(task=Task.TRANSFORM, image="0" * 64)).is_composite


@pytest.mark.parametrize("format", FORMATS)
def test_stripping_leaves_nothing_but_pixels(format):
    data = metadata.encode(PIXELS, format, None)
    assert metadata.read_request(data) is None
    assert b"lowbrush" not in data
    assert b"xmp" not in data.lower()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"prompt": 5}', '{"version": 99}', '{"prompt":"x","evil":1}', "x" * 2_000_000],
)
def test_what_is_not_a_request_counts_as_none(text):
    assert metadata.read_request(codec.encode_png(PIXELS, {"flowbrush": text})) is None


@pytest.mark.parametrize("data", [b"", b"hello", codec.encode_png(PIXELS)[:40]])
def test_a_file_that_cannot_be_read_has_no_recipe(data):
    assert metadata.read_request(data) is None


EVERYTHING = GenerationRequest(
    task=Task.GENERATE,
    prompt="a barn",
    clip_prompt="barn",
    negative_prompt="fog",
    t5_tokens=256,
    is_clip_only=True,
    true_guidance=2.5,
    num_steps=9,
    solver="dpmpp_2m",
    step_cache="fast",
    decoder="fast",
    pictures=({"image": "a" * 64, "adapter": "face", "strength": 0.7, "start": 0.1, "end": 0.9},),
    controls=({"kind": "depth", "image": "b" * 64, "model": "net", "strength": 0.8, "end": 0.5},),
    regions=({"prompt": "a lake", "mask": "c" * 64, "strength": 1.5},),
    region_base=0.2,
    num_images=3,
    loras=({"name": "ink", "strength": 0.75},),
)


@pytest.mark.parametrize("format", FORMATS)
def test_every_field_comes_back_from_every_format(format):
    edit = GenerationRequest(task=Task.EDIT, prompt="x", image="a" * 64, references=("b" * 64, "c" * 64))
    larger = GenerationRequest(task=Task.UPSCALE, image="a" * 64, strength=0.3, upscaler="net")
    for request in (EVERYTHING, edit, larger):
        assert metadata.read_request(metadata.encode(PIXELS, format, Recipe.of(request))) == request


def test_other_tools_read_what_is_unwanted_and_how_the_steps_were_taken():
    first, unwanted, line = metadata.parameters(EVERYTHING).split("\n")
    assert first == "a barn <lora:ink:0.75>"
    assert unwanted == "Negative prompt: fog"
    for words in (
        "Sampler: DPM++ 2M",
        "CFG scale: 2.5",
        "Control 0: depth net 0.8",
        "Picture 0: face 0.7",
        "Regions: 1",
        "VAE: TAEF1",
        "Step cache: fast",
    ):
        assert f", {words}" in line


def test_a_jpeg_without_room_for_the_recipe_still_says_that_a_model_had_a_hand_in_it():
    regions = tuple({"prompt": f"{n}" * 9000, "mask": f"{n:064x}"} for n in range(9))
    request = GenerationRequest(prompt="x", regions=regions)
    data = metadata.encode(PIXELS, "jpeg", Recipe.of(request))
    assert metadata.read_request(data) is None
    assert b"digitalsourcetype/trainedAlgorithmicMedia" in data
    assert metadata.read_request(metadata.encode(PIXELS, "png", Recipe.of(request))) == request


@pytest.mark.parametrize(
    ("fields", "is_composite"),
    [
        ({"task": Task.CONTROL, "controls": ({"kind": "canny", "image": "a" * 64},)}, False),
        ({"task": Task.VARY, "pictures": ({"image": "a" * 64},)}, False),
        ({"task": Task.EDIT, "image": "a" * 64}, True),
        ({"task": Task.UPSCALE, "image": "a" * 64}, True),
    ],
)
def test_a_picture_that_was_only_followed_makes_no_composite(fields, is_composite):
    assert Recipe.of(GenerationRequest(**fields)).is_composite == is_composite
