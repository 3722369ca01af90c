"""`flowbrush doctor`: is everything here that Flowbrush needs, and if not, what to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from desktop.commands import options, qt_libraries
from desktop.commands.screen import Screen
from flux_core.errors import FluxError

_PACKAGES = ("torch", "numpy", "pillow", "pydantic", "fastapi", "httpx", "PySide6-Essentials")
_OPTIONAL = {
    "mlx": "a second engine, the fast one on Apple silicon",
    "transformers": "scores, captions, masks and depth maps of pictures",
    "diffusers": "the comparison of flowbrush bench load",
}
"""Package -> what it would give."""
_LOW_DISK_BYTES = 2 * 10**9
_QT_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What was looked at.
        is_fine: Whether it may stay as it is.
        detail: What was found.
        hint: What to do, if it is not fine.
        is_left_out: Whether it is something optional that is not there.
    """

    name: str
    is_fine: bool
    detail: str
    hint: str = ""
    is_left_out: bool = False


def not_installed(name: str, gives: str, hint: str = "") -> Finding:
    """Something optional that is not there, and what it would give."""
    return Finding(name, True, f"not installed (optional); it gives {gives}", hint, is_left_out=True)


def doctor(json: options.Json = False, debug: options.Debug = False) -> None:
    """Check this machine: Python, libraries, devices, models, the service, disk space."""
    from backends.service.state_folder import default_home

    home = default_home(os.environ)
    screen = Screen(json)
    findings: list[Finding] = []
    checks: tuple[Callable[[Path], list[Finding]], ...] = (_python, _packages, _qt, _home, _models, _service)
    for check in checks:
        for finding in check(home):
            findings.append(finding)
            mark = "FIX " if not finding.is_fine else "-   " if finding.is_left_out else "ok  "
            screen.say(f"{mark}{finding.name}: {finding.detail}")
            if finding.hint:
                screen.say(f"    {finding.hint}")
    screen.result([asdict(finding) for finding in findings])
    if not all(finding.is_fine for finding in findings):
        raise typer.Exit(1)


def _python(home: Path) -> list[Finding]:
    detail = f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores"
    return [Finding("Python", sys.version_info >= (3, 11), detail, "")]


def _packages(home: Path) -> list[Finding]:
    versions = {package: _version(package) for package in (*_PACKAGES, *_OPTIONAL)}
    lacking = [package for package in _PACKAGES if not versions[package]]
    found = ", ".join(f"{package} {version}" for package, version in versions.items() if version)
    packages = Finding("Packages", True, found)
    if lacking:
        packages = Finding("Packages", False, f"missing: {', '.join(lacking)}", "Install Flowbrush again.")
    left_out = [not_installed(name, gives) for name, gives in _OPTIONAL.items() if not versions[name]]
    return [packages, *left_out]


def _version(package: str) -> str:
    """Of an installed package; "" for one that is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _qt(home: Path) -> list[Finding]:
    code = "import PySide6.QtGui, PySide6.QtWidgets, PySide6.QtSvg"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_QT_TIMEOUT_S, check=False
        )
        problem = done.stderr.strip().splitlines()[-1:] if done.returncode else []
    except subprocess.TimeoutExpired:
        problem = [f"it did not load within {_QT_TIMEOUT_S} s"]
    findings = [Finding("Qt", True, "drawing works")]
    if problem:
        lacking = qt_libraries.missing(qt_libraries.DRAWING)
        hint = qt_libraries.advice(lacking) if lacking else "Install Flowbrush again."
        findings = [Finding("Qt", False, problem[0], hint)]
    for_window = qt_libraries.missing(qt_libraries.WINDOW)
    if for_window:
        libraries = ", ".join(for_window)
        findings.append(not_installed(libraries, "a window on X11", qt_libraries.advice(for_window)))
    return findings


def _home(home: Path) -> list[Finding]:
    place = next((folder for folder in (home, *home.parents) if folder.exists()), Path("/"))
    free_bytes = shutil.disk_usage(place).free
    is_writable = os.access(place, os.W_OK)
    space = f"{free_bytes / 1e9:.1f} GB free"
    findings = [
        Finding(
            "Home folder",
            is_writable,
            f"{home}{'' if is_writable else ' may not be written'}",
            "" if is_writable else "Set FLOWBRUSH_HOME to a folder of your own.",
        )
    ]
    is_roomy = free_bytes >= _LOW_DISK_BYTES
    findings.append(Finding("Disk space", is_roomy, space, "" if is_roomy else "Free at least 2 GB."))
    return findings


def _models(home: Path) -> list[Finding]:
    from backends.service.state_folder import default_models_dirs
    from flux_core import catalog

    folders = default_models_dirs(home)
    installed = [info.model for info in catalog.model_infos(folders) if info.is_installed]
    helpers = [
        part.model
        for part in catalog.PARTS.values()
        if part.kind is catalog.Kind.VISION and catalog.part_folder(part, folders)
    ]
    if installed:
        found = [Finding("Models", True, ", ".join(installed))]
        return [*found, Finding("Helpers", True, ", ".join(helpers))] if helpers else found
    looked = " or ".join(map(str, folders))
    hint = f"Run flowbrush models get or import, or put one into {looked}."
    return [Finding("Models", False, "none is installed", hint)]


def _service(home: Path) -> list[Finding]:
    from desktop.commands.run_job import connect

    try:
        with connect() as client:
            hello = client.hello()
            place = str(client.endpoint)
    except FluxError as err:
        return [Finding("Service", False, err.message, err.hint)]
    is_fine = hello.state != "engine_died"
    detail = f"version {hello.version}, {hello.state}, at {place}"
    findings = [Finding("Service", is_fine, detail, hello.engine_detail)]
    for engine in hello.engines:
        name = f"Engine {engine.name}"
        if engine.is_available:
            findings.append(Finding(name, True, "available"))
        else:
            detail = f"not available (optional): {engine.reason}" if engine.reason else "not available"
            findings.append(Finding(name, True, detail, is_left_out=True))
    for device in hello.devices:
        total, free = device.memory_total_bytes / 1e9, device.memory_free_bytes / 1e9
        findings.append(
            Finding("Device", True, f"{device.name} ({device.kind}), {free:.1f} of {total:.1f} GB free")
        )
    return findings
