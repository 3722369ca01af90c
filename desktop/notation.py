r"""How sizes, strengths, pictures and places are written, on the command line and in the window.

Each function reads one notation into the fields of a request; whether a value is allowed is for the request
to say. A colon in a Windows path ("C:\\photo.png") is part of the path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from flux_core.errors import RequestInvalid

_DRIVE = r"(?:[A-Za-z]:(?=[\\/]))?"


@dataclass(frozen=True, slots=True)
class Likeness:
    """A picture to be like.

    Attributes:
        adapter: Who reads it; "" is the model's own Redux.
        strength: None where none was written.
    """

    image: Path
    adapter: str = ""
    strength: float | None = None


@dataclass(frozen=True, slots=True)
class MapUse:
    """A map to follow; `model` is "" where the model follows it itself."""

    kind: str
    image: Path
    model: str = ""
    strength: float | None = None


def parse_size(text: str) -> tuple[int, int]:
    """Reads "WxH"; raises RequestInvalid unless both are whole numbers."""
    match = re.fullmatch(r"(\d{1,9})[xX](\d{1,9})", text.strip())
    if match is None:
        raise RequestInvalid(
            f"{text[:40]!r} is not a size.", "Write it as WIDTHxHEIGHT, for example 256x256."
        )
    return int(match[1]), int(match[2])


def parse_sides(text: str) -> tuple[int, int, int, int]:
    """Reads "L,T,R,B" in pixels."""
    match = re.fullmatch(r"\s*(\d{1,6})\s*,\s*(\d{1,6})\s*,\s*(\d{1,6})\s*,\s*(\d{1,6})\s*", text)
    if match is None:
        raise RequestInvalid(
            f"{text[:40]!r} does not say how far to extend the picture.",
            "Write left,top,right,bottom in pixels, for example 0,0,256,0.",
        )
    return int(match[1]), int(match[2]), int(match[3]), int(match[4])


def parse_loras(texts: list[str] | None) -> list[dict[str, object]]:
    """Reads "NAME" or "NAME:STRENGTH" each."""
    found: list[dict[str, object]] = []
    for text in texts or ():
        name, colon, number = text.rpartition(":")
        if not colon:
            found.append({"name": text})
            continue
        found.append({"name": name, "strength": _number(number, "the strength of a LoRA", "NAME:0.8")})
    return found


def parse_likeness(text: str) -> Likeness:
    """Reads "IMAGE" or "IMAGE:STRENGTH"."""
    path, strength = _with_strength(text)
    return Likeness(Path(path), strength=strength)


def parse_ip_adapter(text: str) -> Likeness:
    """Reads "NAME=IMAGE" or "NAME=IMAGE:STRENGTH"."""
    name, sign, rest = text.partition("=")
    if not (name and sign and rest):
        raise RequestInvalid(
            f"{text[:40]!r} does not name an IP-Adapter and a picture.", "Write it as NAME=IMAGE:0.8."
        )
    path, strength = _with_strength(rest)
    return Likeness(Path(path), name, strength)


def parse_controlnet(text: str) -> MapUse:
    """Reads "KIND=MAP", "KIND=MAP:NAME" or "KIND=MAP:NAME:STRENGTH"."""
    match = re.fullmatch(rf"([^=:]+)=({_DRIVE}[^:]+)(?::([^:]*))?(?::([^:]*))?", text)
    if match is None:
        raise RequestInvalid(
            f"{text[:40]!r} does not name a map.",
            "Write it as KIND=MAP:NAME:0.7, for example canny=edges.png.",
        )
    strength = _number(match[4], "the strength of a ControlNet", "KIND=MAP:NAME:0.7") if match[4] else None
    return MapUse(match[1], Path(match[2]), match[3] or "", strength)


def parse_region(text: str) -> tuple[Path, str]:
    """Reads "MASK:PROMPT"."""
    match = re.fullmatch(rf"({_DRIVE}[^:]+):(.*\S.*)", text, re.DOTALL)
    if match is None:
        raise RequestInvalid(
            f"{text[:40]!r} is not a region.", "Write it as MASK:PROMPT, for example sky.png:a pink sky."
        )
    return Path(match[1]), match[2].strip()


def numbered(path: Path, index: int, count: int) -> Path:
    """Where picture `index` of `count` goes: OUT.png alone, else OUT-1.png, OUT-2.png ..."""
    return path if count == 1 else path.with_name(f"{path.stem}-{index + 1}{path.suffix}")


def _with_strength(text: str) -> tuple[str, float | None]:
    """Splits "IMAGE:0.8"; what follows the last colon and is no number belongs to the name."""
    path, colon, number = text.rpartition(":")
    try:
        return (path, float(number)) if colon and path else (text, None)
    except ValueError:
        return text, None


def _number(text: str, what: str, example: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RequestInvalid(f"{text[:40]!r} is not {what}.", f"Write it as {example}.") from None
