"""`flowbrush bench family`: what the bundled family can do, as figures, painted through a real service.

Two other processes compose the exercises and judge the pictures (backends/torch_cuda/training/bench); here
every exercise is run as the command line that it is.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator
from json import JSONDecodeError, dumps
from json import loads as decode_json
from pathlib import Path
from typing import Annotated, Any

import typer

from desktop.commands import options
from desktop.commands.options import Backend
from desktop.commands.screen import Screen
from flux_core.errors import Cancelled, Internal, ModelMissing, RequestInvalid

_MODULE = "backends.torch_cuda.training.bench"
_SECTIONS = (
    *("prompts", "two", "schnell", "fill", "kontext", "canny", "depth", "redux", "guidance", "sizes"),
    "autoencoder",
)
_JUDGE_HINT = (
    "Train one with `python -m backends.torch_cuda.training.run --stages judge --pack PACK --work WORK "
    "--out OUT`: it is WORK/judge.safetensors."
)
_MISSING = ModelMissing.code


def family(
    pack: Annotated[Path, typer.Option(help="The training pack; see backends/torch_cuda/training/README.")],
    into: Annotated[Path, typer.Option(help="Folder for exercises, pictures, sheets and figures.json.")],
    judge: Annotated[
        Path | None, typer.Option(help="Weights of the judge network; not needed for autoencoder alone.")
    ] = None,
    only: Annotated[str, typer.Option(help=f"Sections with commas: {', '.join(_SECTIONS)}.")] = "",
    count: Annotated[
        int, typer.Option(min=2, max=2000, help="Prompts; the other sections take a share of it.")
    ] = 40,
    backend: options.BackendOption = Backend.AUTO,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Prompts, holes, edits, maps and references that training did not see, judged by a network.

    Every picture is made by a command of this program through a service of its own; --count 40 takes about
    ten minutes of two processor cores.
    """
    from desktop.commands.model_files import models_dirs

    screen = Screen(json)
    sections = _chosen(only)
    painted = [name for name in sections if name != "autoencoder"]
    if painted and (judge is None or not judge.is_file()):
        raise RequestInvalid(
            "Pictures need a judge." if judge is None else f"There is no judge at {judge}.", _JUDGE_HINT
        )
    into.mkdir(parents=True, exist_ok=True)
    folders = models_dirs()
    common = ["--pack", str(pack.absolute()), "--folder", str(into.absolute()), "--count", str(count)]
    answers = _Answers()
    if painted and judge is not None:
        _child("compose", *common, "--only", ",".join(painted), "--judge", str(judge.absolute()))
        answers = _paint(into, screen, backend)
    wanted = [*common, "--only", ",".join(answers.sections)]
    wanted += ["--judge", str(judge.absolute())] if judge is not None else []
    if "autoencoder" in sections:
        for folder in folders:
            wanted += ["--models", str(folder)]
    figures: dict[str, dict[str, float]] = _child("measure", *wanted)
    figures["seconds"] = answers.medians()
    found = {"count": count, "figures": figures, "left_out": answers.left_out, "failed": answers.failed}
    (into / "figures.json").write_text(dumps(found, indent=1))
    screen.table(
        ("SECTION", "FIGURE", "MEASURED"),
        [(section, name, f"{value:g}") for section, row in figures.items() for name, value in row.items()],
    )
    for section, reason in answers.left_out.items():
        screen.say(f"{section} was left out: {reason}")
    for name, reason in answers.failed.items():
        screen.say(f"{name} failed: {reason}")
    screen.say(f"Sheets are in {into / 'sheets'}, the figures in {into / 'figures.json'}.")
    screen.result(found)


class _Answers:
    """What came of the exercises.

    Attributes:
        left_out: Section -> why nothing of it was painted.
        failed: File -> why it was not painted.
    """

    def __init__(self) -> None:
        self.left_out: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self._seconds: dict[str, list[float]] = {}

    @property
    def sections(self) -> list[str]:
        """Those of which pictures came."""
        return list(dict.fromkeys(key.partition("/")[0] for key in self._seconds))

    def add(self, section: str, group: str, said: dict[str, Any]) -> None:
        self._seconds.setdefault(f"{section}/{group}", []).append(float(said["wall_s"]))

    def medians(self) -> dict[str, float]:
        """Seconds of a whole job by section and group, the first of each left out: it loads the model."""
        return {
            name.removesuffix(f"/{name.partition('/')[0]}"): round(
                statistics.median(seconds[1:] or seconds), 2
            )
            for name, seconds in self._seconds.items()
        }


def _chosen(only: str) -> list[str]:
    names = [name.strip() for name in only.split(",") if name.strip()] or list(_SECTIONS)
    if unknown := [name for name in names if name not in _SECTIONS]:
        raise RequestInvalid(f"There is no section {unknown[0]!r}.", f"Choose of {', '.join(_SECTIONS)}.")
    return names


def _paint(into: Path, screen: Screen, backend: Backend) -> _Answers:
    """Runs every exercise; a section whose model is not here is left out as a whole."""
    exercises: list[dict[str, Any]] = decode_json((into / "exercises.json").read_text())
    answers, sees_depth = _Answers(), True
    if not exercises:
        return answers
    with _service(), screen.count_progress("Painting") as advance:
        for done, one in enumerate(exercises, 1):
            section, file = one["section"], into / one["file"]
            if section not in answers.left_out:
                said = _run(*one["arguments"], "--backend", backend.value, "-o", str(file.absolute()))
                error = said.get("error", {})
                if error.get("code") == _MISSING:
                    answers.left_out[section] = error["message"]
                elif error:
                    answers.failed[one["file"]] = error["message"]
                else:
                    answers.add(section, one["group"], said)
                    if one["looked"] and sees_depth:
                        seen = _run(
                            "depth", str(file.absolute()), "-o", str((into / one["looked"]).absolute())
                        )
                        sees_depth = "error" not in seen
            advance(done, len(exercises))
    return answers


def _run(*arguments: str) -> dict[str, Any]:
    """One command in this process; what it says to machines.

    Raises:
        Cancelled: Somebody stopped it.
        Internal: It said nothing that can be read.
    """
    from desktop.commands.main import CANCELLED_EXIT_CODE, run

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        code = run([*arguments, "--json"])
    if code == CANCELLED_EXIT_CODE:
        raise Cancelled("The measurement was stopped.")
    try:
        return decode_json(text.getvalue())
    except JSONDecodeError as err:
        raise Internal(f"flowbrush {arguments[0]} said {text.getvalue()[:80]!r}.", "Run it alone.") from err


@contextlib.contextmanager
def _service() -> Generator[None]:
    """A service of its own for the commands of this process."""
    from desktop.commands.bench import start_service, wait_for_service

    before = os.environ.get("FLOWBRUSH_HOME")
    with tempfile.TemporaryDirectory(prefix="flowbrush-bench-") as home:
        process = start_service(Path(home))
        try:
            wait_for_service(Path(home), process).close()
            os.environ["FLOWBRUSH_HOME"] = home
            yield
        finally:
            os.environ.pop("FLOWBRUSH_HOME", None)
            if before is not None:
                os.environ["FLOWBRUSH_HOME"] = before
            process.terminate()
            process.wait()


def _child(act: str, *arguments: str) -> dict[str, Any]:
    """One end of the measurement, in a process that may import torch."""
    command = [sys.executable, "-m", _MODULE, act, *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    try:
        found = decode_json(done.stdout.splitlines()[-1])
    except (IndexError, JSONDecodeError):
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Internal(f"{act} ended with {done.returncode}: {last}.", "Run it again with --debug.") from None
    if "error" in found:
        raise RequestInvalid(found["error"]["message"], found["error"]["hint"])
    return found
