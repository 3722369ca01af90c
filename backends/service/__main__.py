"""`python -m backends.service`: the service as a program, for those who start it in the background.

The only place of the service that reads the environment and writes to the terminal.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from backends.service.server import AlreadyRunning, ServiceOptions, serve
from backends.service.state_folder import (
    ALREADY_RUNNING_EXIT_CODE,
    Endpoint,
    default_home,
    default_models_dirs,
)
from flux_core.errors import FluxError


def main() -> int:
    """Runs the service; 0 on an orderly end, 2 if it cannot start, 4 if one already runs."""
    parser = argparse.ArgumentParser(prog="flowbrush-service", description="Runs Flowbrush's job service.")
    parser.add_argument("--home", type=Path, default=None, help="default: FLOWBRUSH_HOME")
    parser.add_argument("--models", type=Path, action="append", help="a folder of models; may be repeated")
    parser.add_argument("--engine", default="auto", help="torch, mlx, auto or module:function")
    parser.add_argument("--tcp", metavar="HOST:PORT", help="listen on loopback instead of a Unix socket")
    parser.add_argument("--workers", type=int, help="engine processes; default one for each device")
    parser.add_argument("--gpus-per-engine", type=int, default=1, help="GPUs that compute a picture together")
    parser.add_argument("--idle-exit-s", type=float, help="end after so long without a job or a client")
    given = parser.parse_args()
    home = given.home or default_home(os.environ)
    options = ServiceOptions(
        home=home,
        models_dirs=tuple(given.models or default_models_dirs(home)),
        engine=given.engine,
        tcp=given.tcp,
        num_workers=given.workers,
        gpus_per_engine=given.gpus_per_engine,
        idle_exit_s=given.idle_exit_s,
    )
    try:
        serve(options, on_ready=_say_where)
    except FluxError as err:
        sys.stderr.write(f"{err}\n")
        return ALREADY_RUNNING_EXIT_CODE if isinstance(err, AlreadyRunning) else 2
    return 0


def _say_where(endpoint: Endpoint) -> None:
    sys.stdout.write(f"The service listens at {endpoint}.\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
