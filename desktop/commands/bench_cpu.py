"""`flowbrush bench cpu`: the bundled family on the processor, beside diffusers on the very same weights.

Steps and pictures are timed by a process of their own, because this one never imports torch; the start is
that of real commands at a real service, and ends with the first step that the service tells of.
"""

from __future__ import annotations

import json as json_text
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from desktop.commands import options
from desktop.commands.screen import Screen

if TYPE_CHECKING:
    from backends.service.state_folder import Endpoint

_MODULE = "backends.torch_cuda.bench_cpu"
_PATIENCE_S = 120.0
_POLL_S = 0.01
_OURS, _THEIRS = "flowbrush", "diffusers"
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
        list[int] | None, typer.Option(help="Of a picture; may be repeated. 4 and 20 by default.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, max=50, help="Turns of a picture; of a step, 4 each.")] = 5,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Whether the start is measured.")] = True,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Time of a step, a picture and a command's start, and memory; ratios to diffusers in the same run."""
    from desktop.commands.model_files import models_dirs

    screen = Screen(json)
    sides, counts = size or [256, 512], steps or [4, 20]
    folders = [word for folder in models_dirs() for word in ("--models", str(folder))]
    common = ["--model", model, *folders]
    has_peer = all(find_spec(name) is not None for name in ("diffusers", "transformers"))
    numbers = [word for name, values in (("--side", sides), ("--steps", counts)) for value in values
               for word in (name, str(value))]  # fmt: skip
    with_whom = _THEIRS if has_peer else _OURS
    found = _measured(["times", *common, *numbers, "--repeats", str(repeats), "--who", with_whom])
    peaks = {
        who: _measured(["memory", *common, "--side", str(sides[0]), "--steps", str(counts[0]), "--who", who])[
            "peak_bytes"
        ]
        for who in ((_OURS, _THEIRS) if has_peer else (_OURS,))
    }
    began = measure_start(model, sides[0], repeats) if start else None
    _report(screen, found, peaks, began)


def measure_start(model: str, side_px: int, repeats: int) -> Start:
    """Starts of `flowbrush generate` at a service of its own, first without and then with one that runs."""
    with tempfile.TemporaryDirectory(prefix="flowbrush-bench-", ignore_cleanup_errors=True) as home:
        try:
            cold_s, *warm = (_first_step_s(Path(home), model, side_px, turn) for turn in range(repeats + 1))
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


def _measured(arguments: list[str]) -> dict[str, Any]:
    """What a fresh process of the torch engine measured, set up as the service sets up its workers."""
    from backends.service.worker import thread_settings
    from flux_core.errors import Internal

    done = subprocess.run(
        [sys.executable, "-m", _MODULE, *arguments], env={**thread_settings(share=1), **os.environ},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        message = f"The measurement {arguments[0]!r} ended with {done.returncode}: {last}."
        raise Internal(message, "Run it again.")
    return json_text.loads(done.stdout.splitlines()[-1])


def _report(screen: Screen, found: dict[str, Any], peaks: dict[str, int], began: Start | None) -> None:
    screen.say(f"{found['processor']}, {found['threads']} threads, torch {found['torch']}, float32")
    rows = [_row(pair) for pair in found["pairs"]]
    memory = {who: f"{peak / 1e6:,.0f} MB" for who, peak in peaks.items()}
    ratio = f"{peaks[_OURS] / peaks[_THEIRS]:.2f}" if _THEIRS in peaks else ""
    rows.append(("memory of a process", memory[_OURS], memory.get(_THEIRS, ""), ratio, "", ""))
    if began is not None:
        rows.append(("start, no service yet", f"{began.cold_s:.2f} s", "", "", "", ""))
        spread = f"{began.warm_min_s:.2f} to {began.warm_max_s:.2f} s"
        rows.append(("start, warm service", f"{began.warm_s:.2f} s", "", "", spread, ""))
    screen.table(("WHAT", "OURS", "DIFFUSERS", "RATIO", "SPREAD", "LARGEST DIFFERENCE"), rows)
    screen.result({**found, "peak_memory_bytes": peaks, "start": None if began is None else asdict(began)})


def _row(pair: dict[str, Any]) -> tuple[str, ...]:
    ours, theirs = pair["ours"], pair["theirs"]
    if theirs is None:
        spread = f"{1000 * ours['min_s']:.0f} to {1000 * ours['max_s']:.0f} ms"
        return pair["what"], f"{1000 * ours['median_s']:.0f} ms", "", "", spread, ""
    difference = pair["largest_difference"]
    return (
        pair["what"],
        f"{1000 * ours['median_s']:.0f} ms",
        f"{1000 * theirs['median_s']:.0f} ms",
        f"{pair['ratio']:.2f}",
        f"{pair['ratio_low']:.2f} to {pair['ratio_high']:.2f}",
        "" if difference is None else f"{difference} of 255",
    )
