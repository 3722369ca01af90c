"""`flowbrush bench h200`: FLUX.1's own sizes on this machine's GPU, beside diffusers in the same run.

The measuring is done by the torch engine's own program, because this one never imports torch.
"""

from __future__ import annotations

import json as json_text
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from desktop.commands import options
from desktop.commands.screen import Screen

NO_DEVICE = 3
"""What the program that measures ends with where there is no CUDA device."""
PIECES = (
    "floor", "step", "profile", "vae", "t5", "dev", "cached", "schnell", "kontext", "resolution", "memory",
    "lora", "offload", "cold", "two", "quality", "family", "family-cache",
)  # fmt: skip
_NAMES = ", ".join(PIECES)
PEERS = ("none", "diffusers")
PRECISIONS = ("fp32", "bf16", "fp8")


def h200(
    only: Annotated[
        list[str] | None, typer.Option(help=f"A piece to measure, may be given several times: {_NAMES}.")
    ] = None,
    peer: Annotated[str, typer.Option(help="Whom to measure beside it: diffusers or none.")] = "none",
    compile: Annotated[bool, typer.Option("--compile", help="The peer also compiled.")] = False,
    precision: Annotated[list[str] | None, typer.Option(help="bf16, fp8; both by default.")] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Sizes so small that a processor will do; figures mean nothing.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Where a whole model (34 GB) is written once and used again.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for figures.json and figures.svg.")] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Steps, whole pictures, parts, memory and first picture at FLUX.1's sizes, with random weights."""
    from flux_core.errors import RequestInvalid

    screen = Screen(json)
    named = [(name, PIECES) for name in only or []] + [(name, PRECISIONS) for name in precision or []]
    for word, known in [(peer, PEERS), *named]:
        if word not in known:
            raise RequestInvalid(f"The benchmark knows no {word!r}.", f"Choose one of: {', '.join(known)}.")
    command = [sys.executable, "-m", "backends.torch_cuda.bench", *(only or []), "--peer", peer]
    command += ["--compile"] * compile + ["--tiny"] * tiny
    command += [word for name in precision or [] for word in ("--precision", name)]
    for name, value in (("--folder", folder), ("--output", output)):
        command += [name, str(value)] if value is not None else []
    found = measured(command, is_silent=json)
    table = found.pop("table")
    screen.say(", ".join(f"{key} {value}" for key, value in found["machine"].items() if value))
    screen.table(tuple(name.upper() for name in table["columns"]), [tuple(row) for row in table["rows"]])
    screen.result(found)


def measured(command: list[str], is_silent: bool) -> dict[str, Any]:
    """What the program found; what it says on the way goes to stderr, for people only.

    Raises:
        RequestInvalid: There is no CUDA device.
        Internal: It failed.
    """
    from flux_core.errors import Internal, RequestInvalid

    errors = subprocess.DEVNULL if is_silent else None
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, check=False
    )
    if done.returncode == NO_DEVICE:
        raise RequestInvalid(
            "There is no CUDA device on this machine.",
            "Run it on a machine with one, or add --tiny for sizes that a processor can do.",
        )
    if done.returncode:
        raise Internal(
            f"The benchmark ended with {done.returncode}.", "Run it again without --json to see why."
        )
    return json_text.loads(done.stdout.splitlines()[-1])
