"""Options that several commands share, declared once, and how their values are read."""

from __future__ import annotations

import random
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux_core.errors import RequestInvalid

if TYPE_CHECKING:
    from flux_core.catalog import ModelSpec

MAX_INPUT_BYTES = 2**30


class Backend(StrEnum):
    """Engines by the name that the service knows them by."""

    AUTO = "auto"
    TORCH = "torch"
    MLX = "mlx"


class PrecisionName(StrEnum):
    """As flux_core.request.Precision, which is too heavy to import for --help."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The file to write: .png, .jpg or .webp.")]
Model = Annotated[str, typer.Option(help="Which model; see flowbrush models list.")]
Seed = Annotated[int | None, typer.Option(help="Noise seed; the same seed is the same picture.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps; the model's own number by default.")]
Guidance = Annotated[float | None, typer.Option(help="How strictly to follow the text.")]
Strength = Annotated[float, typer.Option(help="How much may change, above 0 and up to 1.")]
Lora = Annotated[
    list[str] | None,
    typer.Option("--lora", help="NAME or NAME:STRENGTH, a file in the folder loras; may be given again."),
]
PrecisionOption = Annotated[PrecisionName, typer.Option("--precision", help="Number format of the weights.")]
BackendOption = Annotated[Backend, typer.Option("--backend", help="Which engine computes.")]


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
    """Reads "NAME" or "NAME:STRENGTH" each; whether a name may be so is for the request to say."""
    found: list[dict[str, object]] = []
    for text in texts or ():
        name, colon, number = text.rpartition(":")
        try:
            found.append({"name": name, "strength": float(number)} if colon else {"name": text})
        except ValueError:
            raise RequestInvalid(
                f"{number[:40]!r} is not the strength of a LoRA.", "Write it as NAME:0.8, or only NAME."
            ) from None
    return found


def request_fields(
    spec: ModelSpec,
    prompt: str,
    seed: int | None,
    steps: int | None,
    guidance: float | None,
    precision: PrecisionName,
    lora: list[str] | None = None,
) -> dict[str, Any]:
    """What every request has: nothing is left open, so that the file's recipe says all."""
    return {
        "model": spec.model,
        "prompt": prompt,
        "seed": random.randrange(2**31) if seed is None else seed,
        "num_steps": spec.num_steps if steps is None else steps,
        "guidance": spec.guidance if guidance is None else guidance,
        "precision": precision.value,
        "loras": parse_loras(lora),
    }


def read_input(path: Path) -> bytes:
    """The bytes of a file that a person named.

    Raises:
        RequestInvalid: It does not exist, may not be read, or is larger than any picture.
    """
    try:
        if path.is_file() and path.stat().st_size > MAX_INPUT_BYTES:
            raise RequestInvalid(f"{path} is larger than 1 GB.", "Use a smaller file.")
        return path.read_bytes()
    except OSError as err:
        reason = (err.strerror or str(err)).lower()
        raise RequestInvalid(f"{path} cannot be read: {reason}.", "Check the name of the file.") from err


def check_output(path: Path) -> None:
    """Raises RequestInvalid before any work is done for a file that cannot be written."""
    from flux_core.imaging.codec import format_of

    format_of(path.name)
    check_folder(path)


def check_folder(path: Path) -> None:
    """Raises RequestInvalid if the folder for a file is missing, or the name is a folder's."""
    if path.is_dir():
        raise RequestInvalid(f"{path} is a folder.", "Name the file to write.")
    if not path.parent.is_dir():
        raise RequestInvalid(f"There is no folder {path.parent}.", "Make it first, or choose another.")


FIELD_OPTIONS = {
    "seed": "--seed",
    "num_steps": "--steps",
    "guidance": "--guidance",
    "strength": "--strength",
    "model": "--model",
    "precision": "--precision",
    "loras": "--lora",
}
"""Field of a request -> the option that sets it."""


def in_options(message: str, arguments: list[str]) -> str:
    """A sentence about a field of a request, about the option instead where the person gave that."""
    from flux_core.request import field_name

    given = {argument.partition("=")[0] for argument in arguments}
    for field, option in FIELD_OPTIONS.items():
        beginning = f"{field_name((field,))} cannot be "
        if option in given and message.startswith(beginning):
            return f"{option} cannot be {message.removeprefix(beginning)}"
    return message
