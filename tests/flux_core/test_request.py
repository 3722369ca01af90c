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
    with pytest.raises(RequestInvalid, match="seed cannot be a value of thousands of digits"):
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
    assert "loras.0.name" in caught.value.message


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
