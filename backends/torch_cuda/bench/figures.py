"""What a measurement is, how it is taken, and the file it ends up in.

A figure stands beside the peer's figure of the same run, never beside one from elsewhere. The file is
written anew after every figure, so that a run that is cut short keeps what it had.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from backends.torch_cuda.bench import plot


@dataclass(frozen=True, slots=True)
class Figure:
    """One number, and what it is to be compared with.

    Attributes:
        piece: The part of the benchmark that it belongs to.
        what: What was measured, with precision and steps.
        unit: "ms", "s", "GB" or "TFLOP/s"; of all its numbers.
        value: Ours; None where it could not be measured, and `note` says why.
        peer: The peer's in the same run; None without one.
        peer_name: Who the peer is.
        floor: What the fastest library kernels need for it in the same run; None where nobody measured it.
        reach: What was asked for; None where nothing was.
        note: What is included, or what went wrong.
    """

    piece: str
    what: str
    unit: str
    value: float | None
    peer: float | None = None
    peer_name: str = ""
    floor: float | None = None
    reach: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the peer's; below 1 is better but for TFLOP/s."""
        if self.value is None or not self.peer:
            return None
        return self.value / self.peer


@dataclass
class Results:
    """All figures of a run.

    Args:
        folder: Where figures.json and figures.svg are kept up to date; None keeps them nowhere.
        command: That was run.
    """

    folder: Path | None
    command: str
    machine: dict[str, Any] = field(default_factory=dict[str, Any])
    figures: list[Figure] = field(default_factory=list[Figure])

    def add(self, figure: Figure) -> None:
        """Keeps a figure, and tells of it on stderr at once."""
        self.figures.append(figure)
        sys.stderr.write(f"{figure.piece}: {line(figure)}\n")
        sys.stderr.flush()
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "figures.json").write_text(json.dumps(self.as_json(), indent=1) + "\n")
            (self.folder / "figures.svg").write_text(plot.svg(self.as_json()))

    def as_json(self) -> dict[str, Any]:
        figures = [asdict(figure) | {"ratio": figure.ratio} for figure in self.figures]
        return {"command": self.command, "machine": self.machine, "figures": figures}


def line(figure: Figure) -> str:
    """A figure in one line."""
    if figure.value is None:
        return f"{figure.what}: {figure.note}"
    parts = [f"{figure.what}: {figure.value:.4g} {figure.unit}"]
    if figure.ratio is not None:
        parts.append(f"{figure.peer_name} {figure.peer:.4g}, ratio {figure.ratio:.2f}")
    if figure.floor is not None:
        parts.append(f"floor {figure.floor:.4g}")
    if figure.reach is not None:
        parts.append(f"asked for {figure.reach:g}")
    if figure.note:
        parts.append(figure.note)
    return "; ".join(parts)


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    found: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": platform.processor() or platform.machine(),
    }
    if device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(device)
        found["cuda"] = str(torch.version.cuda)
        found["cudnn"] = torch.backends.cudnn.version()
        found |= _driver()
    for name in ("triton", "diffusers", "transformers"):
        found[name] = _version(name)
    return found


def timed(device: torch.device, call: Callable[[], object], repeats: int = 10, warmups: int = 3) -> float:
    """Median seconds of a call that runs alone: the device is waited for before and after each."""
    for _ in range(warmups):
        call()
    seconds: list[float] = []
    for _ in range(repeats):
        wait(device)
        started = time.perf_counter()
        call()
        wait(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def sustained(device: torch.device, call: Callable[[], object], repeats: int, warmups: int = 3) -> float:
    """Mean seconds of a call that is queued many times behind itself, as a step's operations are."""
    for _ in range(warmups):
        call()
    wait(device)
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    wait(device)
    return (time.perf_counter() - started) / repeats


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def give_back(device: torch.device) -> None:
    """Memory of what nobody holds any more goes back to the device."""
    import gc

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _driver() -> dict[str, str]:
    """The driver's version and the power limit, as the vendor's tool tells them."""
    query = ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return {}
    driver, power, clock = (part.strip() for part in done.stdout.splitlines()[0].split(","))
    return {"driver": driver, "power_limit": power, "max_clock": clock}
