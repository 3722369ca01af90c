"""`flowbrush bench cpu`: the bundled family on the processor, beside diffusers on the very same weights.

Steps and pictures are timed by a process of their own, because this one never imports torch; the start is
that of real commands at a real service, and ends with the first step that the service tells of.
"""

from __future__ import annotations

import contextlib
import json as json_text
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from desktop.commands import options
from desktop.commands.screen import Screen, StageWatcher

if TYPE_CHECKING:
    from backends.service.state_folder import Endpoint

_MODULE = "backends.torch_cuda.bench_cpu"
_PATIENCE_S = 120.0
_POLL_S = 0.01
_OURS, _THEIRS = "flowbrush", "diffusers"
_TIMES, _MEMORY = 0.75, 0.1  # shares of the whole measurement's time
_WARM_STARTS = 3
_PROMPT = "a green cup on a wooden table, start {}"


@dataclass(frozen=True, slots=True)
class Start:
    """From starting `flowbrush generate` to the end of its first step.

    Attributes:
        cold_s: No service runs: it and its engine are started, and the model is loaded.
        warm_s: The service has painted with the model before; the median of several commands.
    """

    cold_s: float
    warm_s: float
    warm_min_s: float
    warm_max_s: float


def cpu(
    model: Annotated[str, typer.Option(help="A bundled model that makes pictures from text.")] = "tiny",
    size: Annotated[
        list[int] | None, typer.Option(help="Side in pixels; may be repeated. 256 and 512 by default.")
    ] = None,
    steps: Annotated[
        list[int] | None,
        typer.Option(help="Of a picture; may be repeated. By default 4, and 20 at the first size."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, help="For each step and picture; three turns are taken in any case.")
    ] = 8.0,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Whether the start is measured.")] = True,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Time of a step, a picture and a command's start, and memory; ratios to diffusers in the same run.

    Takes a minute and a half on two cores that are idle, several minutes on busy ones. Ours and theirs take
    turns; a ratio is the median of neighbouring turns, and the middle half of them lies within the spread.
    """
    from desktop.commands.model_files import models_dirs

    screen = Screen(json)
    common = ["--model", model, *(word for folder in models_dirs() for word in ("--models", str(folder)))]
    sides, pictures = what_to_measure(size, steps)
    numbers = [word for side in sides for word in ("--side", str(side))]
    numbers += [word for picture in pictures for word in ("--picture", *map(str, picture))]
    has_peer = all(find_spec(name) is not None for name in ("diffusers", "transformers"))
    whom = (_OURS, _THEIRS) if has_peer else (_OURS,)
    began = None
    peaks: dict[str, int] = {}
    with screen.stage_progress() as watch:
        found = _measured(
            ["times", *common, *numbers, "--seconds", str(seconds), "--who", whom[-1]],
            lambda what, detail, done: watch(what, detail, _TIMES * done),
        )
        for who in whom:
            watch(f"Memory of {who}", "", _TIMES)
            only = ["--picture", *map(str, pictures[0]), "--who", who]
            peaks[who] = _measured(["memory", *common, *only])["peak_bytes"]
        if start:
            began = measure_start(model, sides[0], lambda what: watch(what, "", _TIMES + _MEMORY))
    _report(screen, found, peaks, began)


def what_to_measure(
    sizes: list[int] | None, steps: list[int] | None
) -> tuple[list[int], list[tuple[int, int]]]:
    """Sides in pixels of the steps; and side and number of steps of each picture, short ones first."""
    sides = sizes or [256, 512]
    if steps is None:
        return sides, [(sides[0], 4), (sides[0], 20), *((side, 4) for side in sides[1:])]
    return sides, [(side, count) for side in sides for count in sorted(steps)]


def measure_start(model: str, side_px: int, tell: Callable[[str], None] = lambda what: None) -> Start:
    """Starts of `flowbrush generate` at a service of its own, first without and then with one that runs."""
    with tempfile.TemporaryDirectory(prefix="flowbrush-bench-", ignore_cleanup_errors=True) as home:
        try:
            tell("Start without a service")
            cold_s = _first_step_s(Path(home), model, side_px, 0)
            tell("Start at a warm service")
            warm = [_first_step_s(Path(home), model, side_px, turn + 1) for turn in range(_WARM_STARTS)]
        finally:
            _end_service(Path(home))
    return Start(cold_s, statistics.median(warm), min(warm), max(warm))


def _first_step_s(home: Path, model: str, side_px: int, turn: int) -> float:
    """One command, from its start until somebody beside it hears that its first step is done."""
    from flux_core.errors import Internal

    picture = home / "start.png"
    arguments = ["generate", _PROMPT.format(turn), "--model", model, "--size", f"{side_px}x{side_px}"]
    command = [sys.executable, "-m", "desktop.commands", *arguments, "--steps", "4", "--output", str(picture)]
    stop = threading.Event()
    heard: list[float] = []
    watcher = threading.Thread(target=_watch, args=(home, stop, heard), daemon=True)
    watcher.start()
    if _endpoint(home) is not None:
        time.sleep(0.5)  # the watcher is listening by then
    started = time.monotonic()
    done = subprocess.run(
        command, env={**os.environ, "FLOWBRUSH_HOME": str(home)}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    stop.set()
    watcher.join(_PATIENCE_S)
    if done.returncode or not heard:
        last = (done.stderr.strip().splitlines() or ["no step was heard of"])[-1]
        raise Internal(f"The measured command did not paint: {last}", "Run it again, or flowbrush doctor.")
    return heard[0] - started


def _watch(home: Path, stop: threading.Event, heard: list[float]) -> None:
    """Notes when the service tells of the first step after this was called."""
    from backends.remote.client import ServiceClient
    from flux_core.messages import Stage

    while (endpoint := _endpoint(home)) is None:
        if stop.wait(_POLL_S):
            return
    with ServiceClient(endpoint) as client:
        since = max((record.seq for record in client.jobs()), default=0)
        for event in client.events(since, stop):
            progress = event.progress
            if progress is not None and progress.stage is Stage.DENOISING:
                heard.append(time.monotonic())
                return


def _endpoint(home: Path) -> Endpoint | None:
    from backends.remote.local import running_service

    return running_service(home)


def _end_service(home: Path) -> None:
    """Ends the service that the first command has started, and waits until it does not answer."""
    from backends.service.state_folder import StateFolder

    pid = StateFolder.under(home).read_pid()
    if pid is None or _endpoint(home) is None:
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE_S
    while _endpoint(home) is not None and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _measured(arguments: list[str], watch: StageWatcher = lambda what, detail, done: None) -> dict[str, Any]:
    """What a fresh process of the torch engine measured, set up as the service sets up its workers.

    Args:
        arguments: Of the program.
        watch: Told what the program says on the way.
    """
    from backends.service.worker import thread_settings
    from flux_core.errors import Internal

    command = [sys.executable, "-m", _MODULE, *arguments]
    found: dict[str, Any] = {}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env={**thread_settings(share=1), **os.environ}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        with process, _ended(process):
            assert process.stdout is not None
            for line in process.stdout:
                said = json_text.loads(line)
                if "found" in said:
                    found = said["found"]
                else:
                    watch(said["what"], said["detail"], said["done"])
        errors.seek(0)
        last = (errors.read().strip().splitlines() or ["no reason given"])[-1]
    if process.returncode:
        message = f"The measurement {arguments[0]!r} ended with {process.returncode}: {last}."
        raise Internal(message, "Run it again.")
    return found


@contextlib.contextmanager
def _ended(process: subprocess.Popen[str]) -> Generator[None]:
    """Ends the process where its output is not read to the end, because somebody interrupts."""
    try:
        yield
    except BaseException:
        process.kill()
        raise


def _report(screen: Screen, found: dict[str, Any], peaks: dict[str, int], began: Start | None) -> None:
    screen.say(f"{found['processor']}, {found['threads']} threads, torch {found['torch']}, float32")
    rows = [_row(pair) for pair in found["pairs"]]
    memory = {who: f"{peak / 1e6:,.0f} MB" for who, peak in peaks.items()}
    ratio = f"{peaks[_OURS] / peaks[_THEIRS]:.2f}" if _THEIRS in peaks else ""
    rows.append(("memory of a process", memory[_OURS], memory.get(_THEIRS, ""), ratio, *[""] * 4))
    if began is not None:
        rows.append(("start, no service yet", f"{began.cold_s:.2f} s", *[""] * 6))
        spread = f"{began.warm_min_s:.2f} to {began.warm_max_s:.2f} s"
        rows.append(("start, warm service", f"{began.warm_s:.2f} s", "", "", spread, *[""] * 3))
    screen.table(
        ("WHAT", "OURS", "DIFFUSERS", "RATIO", "SPREAD", "RATIO, CPU TIME", "TURNS", "LARGEST DIFFERENCE"),
        rows,
    )
    screen.result({**found, "peak_memory_bytes": peaks, "start": None if began is None else asdict(began)})


def _row(pair: dict[str, Any]) -> tuple[str, ...]:
    wall, cpu = pair["wall"], pair["cpu"]
    ours, theirs = wall["ours"], wall["theirs"]
    if theirs is None:
        spread = f"{1000 * ours['min_s']:.0f} to {1000 * ours['max_s']:.0f} ms"
        return pair["what"], f"{1000 * ours['median_s']:.0f} ms", "", "", spread, "", str(pair["turns"]), ""
    difference = pair["largest_difference"]
    return (
        pair["what"],
        f"{1000 * ours['median_s']:.0f} ms",
        f"{1000 * theirs['median_s']:.0f} ms",
        f"{wall['ratio']:.2f}",
        f"{wall['ratio_low']:.2f} to {wall['ratio_high']:.2f}",
        f"{cpu['ratio']:.2f}",
        str(pair["turns"]),
        "" if difference is None else f"{difference} of 255",
    )
