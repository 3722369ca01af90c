"""Requests from outside: what is wrong is said briefly, whatever was sent."""

from __future__ import annotations

import json

import pytest

from flux_core.errors import RequestInvalid
from flux_core.request import parse_request


@pytest.mark.parametrize(
    "fields",
    [{"k" * 100_000: 1}, {"prompt": "secret" * 100_000}, {"model": "m" * 100_000}, {"seed": "9" * 5000}],
)
def test_what_is_wrong_is_said_briefly(fields: dict[str, object]) -> None:
    with pytest.raises(RequestInvalid) as caught:
        parse_request(json.dumps(fields))
    assert len(str(caught.value)) < 300
