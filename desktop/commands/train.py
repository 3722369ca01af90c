"""`flowbrush train lora`: a folder of pictures with captions becomes a LoRA of a style or a subject.

The training runs in a process of its own, which saves and ends when this one does, however that happens. The
first Ctrl-C stops it after the step it is in; `--resume` goes on.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from desktop.commands import options
from desktop.commands.screen import Screen, StageWatcher

if TYPE_CHECKING:
    from flux_core.lora_training import Advance, Ended, LoraTraining

_STOPPED_EXIT_CODE = 130
_TRAINER = "backends.torch_cuda.training.lora"

app = typer.Typer(help="Train on your own pictures: lora.", no_args_is_help=True)


class DecayName(StrEnum):
    """As flux_core.lora_training.Decay."""

    COSINE = "cosine"
    FLAT = "flat"


@app.callback()
def train() -> None:
    """Train on your own pictures."""


@app.command("lora")
def lora(
    folder: Annotated[Path, typer.Argument(help="Pictures (.png .jpg .webp), words for a.png in a.txt.")],
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Name of the LoRA; the folder's by default.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="tiny, flux1-dev ..., a transformer's file or a diffusers folder.")
    ] = None,
    trigger: Annotated[
        str | None, typer.Option(help="Words for pictures without a caption, put before the others.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="How much it can learn; 16.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Updates; by default --repeats times the pictures.")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(help="How often each picture is learned from without --steps; 100.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; 1e-4 for FLUX.1, 1.2e-3 for tiny.")] = None,
    decay: Annotated[
        DecayName | None, typer.Option(help="How the rate goes on; it falls along a cosine by default.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="256, 512, 768 or 1024: pictures get this square's area; 512, tiny 256."),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Pictures of one update; 1, tiny 4.")] = None,
    sample: Annotated[
        list[str] | None, typer.Option("--sample", help="A prompt to paint on the way; may be given again.")
    ] = None,
    sample_every: Annotated[int | None, typer.Option(help="Steps between paintings; a tenth of all.")] = None,
    save_every: Annotated[
        int | None, typer.Option(help="Steps between saves, all a kill can cost; 100.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training of this name.")] = False,
    seed: Annotated[int | None, typer.Option(help="The same seed is the same training; 0.")] = None,
    precision: Annotated[
        options.PrecisionName | None,
        typer.Option("--precision", "--dtype", help="Of the model; the LoRA itself learns in float32."),
    ] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Train a LoRA on a folder of pictures, for --lora NAME.

    Pictures may be of any proportions, which they keep. Samples are painted beside the LoRA. A training that
    was stopped or killed goes on with the same command and --resume.
    """
    from flux_core.lora_training import build_training

    screen = Screen(json)
    given: dict[str, Any] = {
        "model": _absolute(model),
        "trigger": trigger,
        "rank": rank,
        "num_steps": steps,
        "repeats": repeats,
        "learning_rate": lr,
        "decay": decay.value if decay else None,
        "size_px": size,
        "batch_size": batch,
        "samples": tuple(sample) if sample else None,
        "sample_every": sample_every,
        "save_every": save_every,
        "seed": seed,
        "precision": precision.value if precision else None,
        "is_resumed": resume or None,
    }
    training = build_training(
        folder=str(folder.absolute()),
        name=_name_of(folder) if output is None else output.removesuffix(".safetensors"),
        **{name: value for name, value in given.items() if value is not None},
    )
    ended = run_training(training, screen)
    if ended.is_done:
        screen.say(
            f"Wrote {ended.path} after {ended.num_steps} steps in {_minutes(ended.train_s)}; "
            f"paint with it: flowbrush generate ... --lora {ended.training.name}:0.8"
        )
    else:
        screen.say(
            f"Stopped after step {ended.step} of {ended.num_steps}; {ended.path} is what was learned. "
            f"Go on with: flowbrush train lora {folder} -o {ended.training.name} --resume"
        )
    screen.result(ended.model_dump(mode="json") | {"is_done": ended.is_done})
    if not ended.is_done:
        raise typer.Exit(_STOPPED_EXIT_CODE)


def run_training(training: LoraTraining, screen: Screen, home: Path | None = None) -> Ended:
    """Trains in a process of its own and shows how it goes.

    Args:
        training: What is asked for.
        screen: Where it is shown.
        home: Under which it writes; the person's own by default.

    Raises:
        FluxError: Why it could not, as the process says.
    """
    from backends.service.state_folder import default_home, default_models_dirs
    from desktop.commands.run_job import on_interrupt
    from flux_core.errors import Internal
    from flux_core.lora_training import SAID, Advance, Note, Wrote
    from flux_core.messages import Failed

    home = home or default_home(os.environ)
    models_dirs = default_models_dirs(home)
    command = [sys.executable, "-m", _TRAINER]
    command += ["--output", str(models_dirs[0] / "loras" / f"{training.name}.safetensors")]
    command += ["--work", str(home / "training" / training.name)]
    for models_dir in models_dirs:
        command += ["--models", str(models_dir)]
    request = training.model_dump_json(exclude_unset=True).encode()
    outcome: Ended | Failed | None = None
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process,
        screen.stage_progress() as watch,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended; what it said is read below
                process.stdin.write(request + b"\n")
            with on_interrupt(process.stdin.close):
                for line in process.stdout:
                    said = SAID.validate_json(line)
                    match said:
                        case Advance():
                            _show(watch, said)
                        case Wrote():
                            if said.what == "sample":
                                screen.note(f"Painted {said.path}")
                        case Note():
                            screen.note(said.text)
                        case _:
                            outcome = said
        except BaseException:
            process.kill()
            raise
    if isinstance(outcome, Failed):
        raise outcome.as_error()
    if outcome is None:
        raise Internal(
            f"The training ended without a word (exit code {process.returncode}).",
            "Go on with --resume from what it saved; a smaller --size needs less memory.",
        )
    return outcome


def _show(watch: StageWatcher, now: Advance) -> None:
    detail = f"{now.done}/{now.total}"
    if now.loss is not None:
        detail += f", loss {now.loss:.4f}"
    if now.steps_per_s is not None and now.left_s is not None:
        detail += f", {now.steps_per_s:.2f} steps/s, {_minutes(now.left_s)} left"
    watch(now.stage, detail, now.done / max(now.total, 1))


def _minutes(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _name_of(folder: Path) -> str:
    """A folder's name as a file name."""
    return re.sub(r"[/\\:\x00-\x1f\x7f]", "-", folder.absolute().name).lstrip(".")


def _absolute(model: str | None) -> str | None:
    """A path from here stays right in another process; a row's id stays an id."""
    if model is None or not Path(model).exists():
        return model
    from flux_core.catalog import MODELS

    return model if model in MODELS else str(Path(model).absolute())
