"""Requests from outside: what is wrong is said briefly, whatever was sent."""

from __future__ import annotations

import json

import pytest

from flux_core.errors import RequestInvalid
from flux_core.messages import Finished
from flux_core.request import MAX_LORAS, build_request, parse_request


@pytest.mark.parametrize(
    "fields",
    [{"k" * 100_000: 1}, {"prompt": "secret" * 100_000}, {"model": "m" * 100_000}, {"seed": "9" * 5000}],
)
def test_what_is_wrong_is_said_briefly(fields: dict[str, object]) -> None:
    with pytest.raises(RequestInvalid) as caught:
        parse_request(json.dumps(fields))
    assert len(str(caught.value)) < 300


def test_a_number_too_long_to_be_written_is_refused_like_any_other() -> None:
    with pytest.raises(RequestInvalid, match="Seed cannot be a value of thousands of digits"):
        build_request(seed=10**5000)


@pytest.mark.parametrize("name", ["ink.safetensors", "ink", "Ölbild (v2)", "a..b", "水墨", "x" * 200])
def test_a_lora_is_named_by_a_file_name_and_survives_the_wire(name: str) -> None:
    request = build_request(loras=[{"name": name, "strength": -0.5}])
    assert parse_request(request.model_dump_json()) == request
    assert request.loras[0].name == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../ink", "/etc/passwd", "a/b", "a\\b", "C:ink", ".hidden", "a\x00b", "a\nb", "x" * 201],
)
def test_a_lora_whose_name_could_lead_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        build_request(loras=[{"name": name}])
    assert caught.value.message.startswith("The name of a LoRA cannot be ")
    assert caught.value.message.endswith(": it must be a file name without a folder, of 1 to 200 characters.")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"num_steps": 0}, "The number of steps cannot be 0: it must be a whole number from 1 to 200."),
        ({"seed": 2**63}, f"Seed cannot be {2**63}: it must be a whole number from 0 to {2**63 - 1}."),
        ({"guidance": float("nan")}, "Guidance cannot be nan: it must be a number from 0 to 100."),
        ({"strength": 0}, "Strength cannot be 0: it must be a number above 0 and up to 1."),
        ({"width_px": 63}, "The width cannot be 63: it must be a whole number from 64 to 4096."),
        (
            {"task": "dream"},
            "Task cannot be 'dream': it must be generate, transform, fill, edit, control, vary, upscale or "
            "look.",
        ),
        ({"image": "x"}, "The source picture cannot be 'x': it must be the sha256 of a picture."),
        ({"prompt": 3}, "Prompt cannot be 3: it must be text of at most 10,000 characters."),
        (
            {"loras": [{"name": "a", "strength": 5}]},
            "The strength of a LoRA cannot be 5: it must be a number from -4 to 4.",
        ),
        ({"loras": 7}, "Loras cannot be 7: it must be a list of at most 16."),
        ({"loras": [{}]}, "The name of a LoRA is missing."),
        ({"colour": "red"}, "Colour is not a part of a request."),
        (
            {"model": "../x"},
            "Model cannot be '../x': it must be the id of a model, as `flowbrush models list` shows it.",
        ),
    ],
)
def test_a_wrong_field_is_said_with_what_it_may_be(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        build_request(**fields)
    assert caught.value.message == sentence


def test_text_that_is_no_json_is_said_so() -> None:
    with pytest.raises(RequestInvalid, match=r"^The request is not JSON\."):
        parse_request("{")


@pytest.mark.parametrize(
    "loras",
    [
        [{"name": "a", "strength": 4.1}],
        [{"name": "a", "strength": -4.1}],
        [{"name": "a", "strength": float("nan")}],
        [{"name": "a"}, {"name": "b"}, {"name": "a"}],
        [{"name": f"a{i}"} for i in range(MAX_LORAS + 1)],
        [{"name": "a", "path": "b"}],
    ],
)
def test_too_much_of_a_lora_too_many_or_one_twice_is_refused(loras: list[dict[str, object]]) -> None:
    with pytest.raises(RequestInvalid) as caught:
        build_request(loras=loras)
    assert "lora" in caught.value.message.lower()


def test_what_was_written_before_there_were_loras_and_warnings_still_reads() -> None:
    assert parse_request('{"prompt": "a cat"}').loras == ()
    assert Finished.model_validate_json('{"kind": "finished", "images": []}').warnings == ()
