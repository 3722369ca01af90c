"""The service of this machine: finds the one that runs, or starts one and waits until it answers.

The service is a process of its own that outlives whoever started it, so a crash of the window costs
nothing and a crash of an engine never reaches the window.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from backends.remote.client import ServiceClient
from backends.service.state_folder import (
    ALREADY_RUNNING_EXIT_CODE,
    Endpoint,
    StateFolder,
    default_models_dirs,
)
from flux_core.errors import ConnectionLost, FluxError, Internal

_POLL_S = 0.05
_LOG_TAIL_LINES = 8


def running_service(home: Path) -> Endpoint | None:
    """The endpoint of this home's service if one answers, else None.

    Raises:
        RequestInvalid: One answers but speaks another version of the protocol.
    """
    endpoint = StateFolder.under(home).read_endpoint()
    if endpoint is None:
        return None
    with ServiceClient(endpoint) as client:
        try:
            client.hello()
        except ConnectionLost:
            return None
        except Internal:
            if endpoint.url is None:
                raise
            return None  # a stranger, at the port of a service that was killed
    return endpoint


def ensure_service(
    home: Path,
    *,
    models_dirs: Sequence[Path] | None = None,
    engine: str = "auto",
    idle_exit_s: float | None = 600.0,
    timeout_s: float = 60.0,
    command: Sequence[str] | None = None,
) -> Endpoint:
    """Connects to this home's service, or starts one.

    Args:
        home: Flowbrush's home folder.
        models_dirs: Where a new service looks for models; None means the person's and the bundled ones.
        engine: Default engine of a new service.
        idle_exit_s: A new service ends after so long without jobs and clients; None means never.
        timeout_s: How long a new service may take until it answers.
        command: What starts a service, without options; None means this Python.

    Returns:
        The endpoint of a service that has answered.

    Raises:
        ConnectionLost: The service did not start; says why, from its log.
    """
    endpoint = running_service(home)
    if endpoint is not None:
        return endpoint
    folder = StateFolder.under(home)
    folder.make()
    options = ["--home", str(home), "--engine", engine]
    for models_dir in default_models_dirs(home) if models_dirs is None else models_dirs:
        options += ["--models", str(models_dir)]
    if idle_exit_s is not None:
        options += ["--idle-exit-s", str(idle_exit_s)]
    full_command = [*(command or (sys.executable, "-m", "backends.service")), *options]
    deadline = time.monotonic() + timeout_s
    process = _start(full_command, folder)
    while time.monotonic() < deadline:
        endpoint = running_service(home)
        if endpoint is not None:
            return endpoint
        code = process.poll()
        if code == ALREADY_RUNNING_EXIT_CODE:  # another one is starting, or has not quite ended
            time.sleep(_POLL_S)
            process = _start(full_command, folder)
        elif code is not None:
            raise _did_not_start(folder, f"it ended with code {code}")
        time.sleep(_POLL_S)
    process.terminate()
    raise _did_not_start(folder, f"it did not answer within {timeout_s:.0f} s")


def _start(command: Sequence[str], folder: StateFolder) -> subprocess.Popen[bytes]:
    detached: dict[str, object] = {"start_new_session": True}
    if sys.platform == "win32":
        detached = {"creationflags": subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP}
    try:
        with folder.start_log.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **detached,  # pyright: ignore[reportArgumentType, reportCallIssue]
            )
    except OSError as err:
        raise ConnectionLost(f"The service cannot be started: {err}.", "Install Flowbrush again.") from err
    # It outlives this program; until then somebody has to take note of its end.
    threading.Thread(target=process.wait, name="service-reaper", daemon=True).start()
    return process


def _did_not_start(folder: StateFolder, reason: str) -> FluxError:
    try:
        lines = folder.start_log.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    quoted = f" It said: {' / '.join(lines[-_LOG_TAIL_LINES:])}" if lines else ""
    return ConnectionLost(
        f"The service did not start: {reason}.{quoted}", f"The log is {folder.service_log}."
    )
