"""`flowbrush bench`: measurements that anybody can repeat, one sub-command each."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from desktop.commands import options
from desktop.commands.options import Backend
from desktop.commands.screen import Screen

if TYPE_CHECKING:
    from backends.remote.client import ServiceClient
    from desktop.commands.run_job import Outcome

_START_TIMEOUT_S = 120.0

app = typer.Typer(help="Measurements: first-picture.", no_args_is_help=True)


@dataclass(frozen=True, slots=True)
class FirstPicture:
    """What `bench first-picture` measured.

    Attributes:
        cold_s: From the start of the service's process to the first picture in hand.
        warm_s: The median of the pictures after it.
        step_s: Denoising seconds per step of a warm picture.
        peak_memory_bytes: Of the engine's process.
        same_seed_is_same_picture: Whether the warm pictures were equal to the first, byte for byte.
    """

    engine: str
    model: str
    size: str
    num_steps: int
    cold_s: float
    warm_s: float
    step_s: float
    peak_memory_bytes: int
    seconds: dict[str, float]
    same_seed_is_same_picture: bool


@app.callback()
def bench() -> None:
    """Measurements that anybody can repeat."""


@app.command("first-picture")
def first_picture(
    prompt: Annotated[str, typer.Option(help="What to paint.")] = "a red apple on a blue background",
    model: options.Model = "tiny",
    steps: options.Steps = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT; the model's best by default.")] = None,
    repeats: Annotated[int, typer.Option(min=1, max=100, help="Warm pictures to measure.")] = 3,
    backend: options.BackendOption = Backend.AUTO,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Time from nothing running to the first picture, then warm pictures, seconds per step, memory."""
    from desktop.commands.run_job import run_job
    from flux_core import catalog
    from flux_core.request import build_request

    screen = Screen(json)
    spec = catalog.find(model)
    width, height = options.parse_size(size) if size else (spec.working_side_px, spec.working_side_px)
    common = options.request_fields(spec, prompt, 7, steps, None, options.PrecisionName.AUTO)
    request = build_request(**common, width_px=width, height_px=height)
    with tempfile.TemporaryDirectory(prefix="flowbrush-bench-") as folder:
        started = time.monotonic()
        process = _start_service(Path(folder))
        try:
            with _wait_for_service(Path(folder), process) as client:
                first = run_job(client, request, screen, backend=backend)
                cold_s = time.monotonic() - started
                warm = [run_job(client, request, screen, backend=backend) for _ in range(repeats)]
        finally:
            process.terminate()
            process.wait()
    _report(screen, _measured(model, f"{width}x{height}", cold_s, first, warm))


def _measured(model: str, size: str, cold_s: float, first: Outcome, warm: list[Outcome]) -> FirstPicture:
    middle = sorted(warm, key=lambda outcome: outcome.wall_s)[len(warm) // 2]
    num_steps = first.request.num_steps or 1
    return FirstPicture(
        engine=middle.finished.engine,
        model=model,
        size=size,
        num_steps=num_steps,
        cold_s=cold_s,
        warm_s=middle.wall_s,
        step_s=middle.finished.seconds.get("denoising", 0.0) / num_steps,
        peak_memory_bytes=max(one.finished.peak_memory_bytes for one in (first, *warm)),
        seconds=middle.finished.seconds,
        same_seed_is_same_picture=all(one.pictures == first.pictures for one in warm),
    )


def _report(screen: Screen, found: FirstPicture) -> None:
    rows = [
        ("engine", found.engine),
        ("model", f"{found.model}, {found.size}, {found.num_steps} steps"),
        ("first picture", f"{found.cold_s:.2f} s from starting the service"),
        ("warm picture", f"{found.warm_s:.2f} s"),
        ("denoising", f"{found.step_s:.3f} s a step"),
        *((f"  {stage}", f"{seconds:.2f} s") for stage, seconds in found.seconds.items()),
        ("engine memory", f"{found.peak_memory_bytes / 1e6:,.0f} MB at most"),
        ("same seed", "same bytes" if found.same_seed_is_same_picture else "DIFFERENT bytes"),
    ]
    screen.table(("WHAT", "MEASURED"), rows)
    screen.result(asdict(found))


def _start_service(home: Path) -> subprocess.Popen[bytes]:
    """A service of its own, so that nothing is warm; models are found where they always are."""
    from backends.service.state_folder import default_home, default_models_dirs

    command = [sys.executable, "-m", "desktop.commands", "serve", "--home", str(home)]
    for folder in default_models_dirs(default_home(os.environ)):
        command += ["--models", str(folder)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _wait_for_service(home: Path, process: subprocess.Popen[bytes]) -> ServiceClient:
    from backends.remote.client import ServiceClient
    from backends.remote.local import running_service
    from flux_core.errors import ConnectionLost

    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        endpoint = running_service(home)
        if endpoint is not None:
            return ServiceClient(endpoint)
        time.sleep(0.02)
    raise ConnectionLost("The service to be measured did not start.", "Run flowbrush doctor.")
