"""Options that several commands share, each declared once, and the checks of the files they name.

Which of them go together is in groups.py; how their values are written is in notation.py.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flux_core.errors import RequestInvalid

MAX_INPUT_BYTES = 2**30


class Backend(StrEnum):
    """Engines by the name that the service knows them by."""

    AUTO = "auto"
    TORCH = "torch"
    MLX = "mlx"


# As the enums of flux_core.request, which is too heavy to import for --help; a test compares them.


class PrecisionName(StrEnum):
    """As Precision."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP8 = "fp8"


class SolverName(StrEnum):
    """As Solver."""

    EULER = "euler"
    HEUN = "heun"
    DPMPP_2M = "dpmpp_2m"
    UNIPC = "unipc"


class StepCacheName(StrEnum):
    """As StepCache."""

    OFF = "off"
    CAREFUL = "careful"
    FAST = "fast"


class DecoderName(StrEnum):
    """As Decoder."""

    FULL = "full"
    FAST = "fast"


class ControlKindName(StrEnum):
    """As ControlKind."""

    CANNY = "canny"
    DEPTH = "depth"
    TILE = "tile"
    BLUR = "blur"
    POSE = "pose"
    GREY = "grey"
    LOW_QUALITY = "low_quality"
    SOFT_EDGE = "soft_edge"


class IntentName(StrEnum):
    """As flux_core.imaging.intents.Intent."""

    FILL = "fill"
    EXPAND = "expand"
    ADD = "add"
    REMOVE = "remove"
    REPLACE_BACKGROUND = "replace-background"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The file to write: .png, .jpg or .webp.")]
Size = Annotated[str | None, typer.Option(help="WIDTHxHEIGHT; the model's best by default.")]
Model = Annotated[str, typer.Option(help="Which model; see flowbrush models list.")]
ModelChoice = Annotated[
    str | None,
    typer.Option("--model", help="Which model; by default the best for it on this machine."),
]
Quick = Annotated[
    bool, typer.Option("--quick", help="Take a model that needs four steps, in place of --model.")
]
Seed = Annotated[int | None, typer.Option(help="Noise seed; the same seed is the same picture.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps; the model's own number by default.")]
Guidance = Annotated[float | None, typer.Option(help="How strictly to follow the text.")]
Strength = Annotated[float, typer.Option(help="How much may change, above 0 and up to 1.")]
Count = Annotated[int, typer.Option(help="Pictures to make, with seeds in a row: OUT-1.png, OUT-2.png ...")]
Lora = Annotated[
    list[str] | None,
    typer.Option("--lora", help="NAME or NAME:STRENGTH, a file in the folder loras; may be given again."),
]
PrecisionOption = Annotated[PrecisionName, typer.Option("--precision", help="Number format of the weights.")]
BackendOption = Annotated[Backend, typer.Option("--backend", help="Which engine computes.")]
SolverOption = Annotated[SolverName, typer.Option("--solver", help="How the denoising steps are taken.")]
StepCacheOption = Annotated[
    StepCacheName, typer.Option("--step-cache", help="Let steps that change little take over the last one.")
]
DecoderOption = Annotated[
    DecoderName, typer.Option("--decoder", help="fast is TAEF1: quicker, with softer detail.")
]
Negative = Annotated[
    str, typer.Option("--negative", help="What should not be there; needs --true-guidance above 1.")
]
TrueGuidance = Annotated[
    float, typer.Option(help="Weight of the text against --negative, 1 to 20; above 1 takes twice the time.")
]
ClipPrompt = Annotated[str | None, typer.Option(help="What CLIP reads instead of the prompt.")]
Tokens = Annotated[
    int | None, typer.Option("--tokens", help="Length of the prompt for T5: 256 or 512; the model's own.")
]
ClipOnly = Annotated[
    bool, typer.Option("--clip-only", help="Leave T5 out: quicker, and the text is followed roughly.")
]
Like = Annotated[
    list[str] | None,
    typer.Option("--like", help="IMAGE or IMAGE:STRENGTH to be like, by Redux; may be given again."),
]
IpAdapter = Annotated[
    list[str] | None,
    typer.Option("--ip-adapter", help="NAME=IMAGE or NAME=IMAGE:STRENGTH; may be given again."),
]
ControlNet = Annotated[
    list[str] | None,
    typer.Option(
        "--controlnet", help="KIND=MAP, KIND=MAP:NAME or KIND=MAP:NAME:STRENGTH; may be given again."
    ),
]
RegionOption = Annotated[
    list[str] | None,
    typer.Option("--region", help="MASK:PROMPT, words for where a grey mask is white; may be given again."),
]
RegionBase = Annotated[
    float, typer.Option(help="How much the prompt counts inside the regions, from 0 to 1.")
]
StyleOption = Annotated[
    str | None, typer.Option("--style", help="A style by name; an unknown one is answered with the list.")
]


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
    "num_images": "--count",
    "negative_prompt": "--negative",
    "true_guidance": "--true-guidance",
    "clip_prompt": "--clip-prompt",
    "t5_tokens": "--tokens",
    "region_base": "--region-base",
    "upscaler": "--upscaler",
    "name": "--output",
    "rank": "--rank",
    "repeats": "--repeats",
    "learning_rate": "--lr",
    "size_px": "--size",
    "batch_size": "--batch",
    "samples": "--sample",
    "sample_every": "--sample-every",
    "save_every": "--save-every",
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
    if message.startswith("The request does not fit together: "):  # it names several fields
        for field, option in FIELD_OPTIONS.items():
            message = message.replace(field, option) if "_" in field else message
    return message
