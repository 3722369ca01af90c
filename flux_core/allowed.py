"""What a field of a request may be, in words: told from the model's own JSON schema.

So a bound is written once. pydantic's own messages are for programmers: they show regular expressions, and
one bound at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a group of fields",
}


def allowed(model: type[BaseModel], location: Sequence[int | str], forms: Mapping[str, str]) -> str:
    """What a field may be: "a whole number from 1 to 200"; "" where the schema does not say.

    Args:
        model: The whole.
        location: Names and numbers that lead to the field.
        forms: Regular expression -> the form that it stands for, in words.
    """
    schema = model.model_json_schema()
    found: dict[str, Any] = schema
    for step in location:
        found = _resolved(found, schema)
        inside: Any = (
            found.get("items", {}) if isinstance(step, int) else found.get("properties", {}).get(step)
        )
        if not inside:
            return ""
        found = inside
    return _words(_resolved(found, schema), forms)


def _resolved(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A part of a schema without its reference, and without the null that a missing value is."""
    for one in part.get("anyOf", ()):
        if one.get("type") != "null":
            return _resolved({**part, "anyOf": (), **one}, schema)
    reference = part.get("$ref") or next((one["$ref"] for one in part.get("allOf", ()) if "$ref" in one), "")
    return schema["$defs"][reference.rpartition("/")[2]] if reference else part


def _words(part: dict[str, Any], forms: Mapping[str, str]) -> str:
    if "enum" in part:
        *most, last = map(str, part["enum"])
        return f"{', '.join(most)} or {last}" if most else last
    if "const" in part:
        return str(part["const"])
    if part.get("pattern") in forms:
        return forms[part["pattern"]]
    kind = _KINDS.get(part.get("type", ""), "")
    return f"{kind} {_range(part)}".strip() if kind else ""


def _range(part: dict[str, Any]) -> str:
    """The bounds of a number, a text or a list; "" where there are none."""
    if part.get("type") in ("string", "array"):
        unit = " characters" if part["type"] == "string" else ""
        fewest, most = part.get("minLength", 0), part.get("maxLength", part.get("maxItems"))
        low = f"of at least {fewest}{unit}" if fewest and most is None else f"of {fewest}" if fewest else ""
        high = f"{'to' if fewest else 'of at most'} {most:,}{unit}" if most is not None else ""
        return f"{low} {high}".strip()
    low, high = part.get("minimum"), part.get("maximum")
    above, below = part.get("exclusiveMinimum"), part.get("exclusiveMaximum")
    if part.get("type") == "integer":
        low = above + 1 if above is not None else low
        high = below - 1 if below is not None else high
        above = below = None
    if low is not None and high is not None:
        return f"from {_number(low)} to {_number(high)}"
    lower = f"above {_number(above)}" if above is not None else "" if low is None else f"from {_number(low)}"
    upper = (
        f"below {_number(below)}" if below is not None else "" if high is None else f"up to {_number(high)}"
    )
    return " and ".join(filter(None, (lower, upper)))


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
