"""`flowbrush bench`: measurements that anybody can repeat, one sub-command each."""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from json import loads as decode_json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from desktop import notation
from desktop.commands import bench_cpu, bench_family, bench_h200, options
from desktop.commands.groups import Painting
from desktop.commands.options import Backend
from desktop.commands.screen import Screen

if TYPE_CHECKING:
    from backends.remote.client import ServiceClient
    from desktop.commands.run_job import Outcome

_START_TIMEOUT_S = 120.0
_DIFFUSERS = "diffusers from_pretrained"
_FIXED_GB = 1.49  # two double blocks and what stands before and after the blocks
_SINGLE_BLOCK_GB = 0.2833

app = typer.Typer(help="Measurements: first-picture, load, family, lora, cpu, h200.", no_args_is_help=True)
app.command("family")(bench_family.family)
app.command("cpu")(bench_cpu.cpu)
app.command("h200")(bench_h200.h200)


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
    width, height = notation.parse_size(size) if size else (spec.working_side_px, spec.working_side_px)
    painting = Painting(output=Path(), seed=7, steps=steps)
    request = build_request(**painting.fields(spec), prompt=prompt, width_px=width, height_px=height)
    with tempfile.TemporaryDirectory(prefix="flowbrush-bench-") as folder:
        started = time.monotonic()
        process = start_service(Path(folder))
        try:
            with wait_for_service(Path(folder), process) as client:
                first = run_job(client, request, screen, backend=backend)
                cold_s = time.monotonic() - started
                warm = [run_job(client, request, screen, backend=backend) for _ in range(repeats)]
        finally:
            process.terminate()
            process.wait()
    _report(screen, _measured(model, f"{width}x{height}", cold_s, first, warm))


@dataclass(frozen=True, slots=True)
class LoaderTimes:
    """What `bench load` measured of one loader, each number the median of its runs.

    Attributes:
        returned_s: Until it came back; a loader that maps the file has read nothing by then.
        ready_s: Until every weight had been read once, which is what a picture waits for.
        peak_memory_bytes: Resident memory of its process above what it had before.
        ready_ratio, memory_ratio: To diffusers; None where diffusers is not installed.
    """

    loader: str
    returned_s: float
    ready_s: float
    peak_memory_bytes: int
    ready_ratio: float | None
    memory_ratio: float | None


@app.command("load")
def load(
    gigabytes: Annotated[float, typer.Option(min=1.0, max=12.0, help="Size of the transformer.")] = 3.0,
    precision: options.PrecisionOption = options.PrecisionName.AUTO,
    repeats: Annotated[int, typer.Option(min=1, max=20, help="Runs of each loader, in turn.")] = 4,
    folder: Annotated[Path | None, typer.Option(help="Where the files are written for a while.")] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Time and memory to load a random transformer: ours, safetensors' load_file, diffusers."""
    screen = Screen(json)
    loaders = ["flowbrush", "flowbrush, diffusers folder", "safetensors load_file"]
    if importlib.util.find_spec("diffusers") is not None:
        loaders.append(_DIFFUSERS)
    blocks = [
        "--depth",
        "2",
        "--depth-single",
        str(max(1, round((gigabytes - _FIXED_GB) / _SINGLE_BLOCK_GB))),
    ]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in loaders}
    with tempfile.TemporaryDirectory(prefix="flowbrush-bench-", dir=folder) as base:
        written = _load_child("write", base, *blocks)
        for turn in range(repeats):
            first = turn % len(loaders)  # whoever follows a process that gave memory back may pay for it
            for name in loaders[first:] + loaders[:first]:
                found[name].append(_load_child(name, base, *blocks, "--precision", precision.value))
    where = found["flowbrush"][0]
    times = _loader_times(found)
    screen.table(
        ("LOADER", "RETURNS", "READY", "PEAK MEMORY", "READY / DIFFUSERS", "MEMORY / DIFFUSERS"),
        [
            (
                one.loader,
                f"{one.returned_s:.2f} s",
                f"{one.ready_s:.2f} s",
                f"{one.peak_memory_bytes / 1e9:.2f} GB",
                "" if one.ready_ratio is None else f"{one.ready_ratio:.2f}",
                "" if one.memory_ratio is None else f"{one.memory_ratio:.2f}",
            )
            for one in times
        ],
    )
    screen.result(
        {
            "weight_bytes": written["weight_bytes"],
            "device": where["device"],
            "precision": where["precision"],
            "loaders": [asdict(one) for one in times],
        }
    )


def _load_child(what: str, folder: str, *arguments: str) -> dict[str, Any]:
    """One fresh process that writes or loads, and says what it measured."""
    from flux_core.errors import Internal

    command = [sys.executable, "-m", "backends.torch_cuda.bench_load", what, folder, *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Internal(f"The measurement {what!r} ended with {done.returncode}: {last}.", "Run it again.")
    return decode_json(done.stdout.splitlines()[-1])


def _loader_times(found: dict[str, list[dict[str, Any]]]) -> list[LoaderTimes]:
    def middle(name: str, key: str) -> Any:
        return statistics.median(run[key] for run in found[name])

    def ratio(name: str, key: str) -> float | None:
        return middle(name, key) / middle(_DIFFUSERS, key) if _DIFFUSERS in found else None

    return [
        LoaderTimes(
            loader=name,
            returned_s=middle(name, "returned_s"),
            ready_s=middle(name, "ready_s"),
            peak_memory_bytes=int(middle(name, "peak_bytes")),
            ready_ratio=ratio(name, "ready_s"),
            memory_ratio=ratio(name, "peak_bytes"),
        )
        for name in found
    ]


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


def start_service(home: Path, models_dirs: tuple[Path, ...] = ()) -> subprocess.Popen[bytes]:
    """A service of its own, so that nothing is warm; by default models are found where they always are."""
    from backends.service.state_folder import default_home, default_models_dirs

    command = [sys.executable, "-m", "desktop.commands", "serve", "--home", str(home)]
    for folder in models_dirs or default_models_dirs(default_home(os.environ)):
        command += ["--models", str(folder)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def wait_for_service(home: Path, process: subprocess.Popen[bytes]) -> ServiceClient:
    """A client of the service once it listens.

    Raises:
        ConnectionLost: It ended, or took too long.
    """
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
