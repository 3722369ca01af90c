"""`flowbrush serve`: the job service, in the foreground, until it is told to end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from desktop.commands import options
from desktop.commands.screen import Screen


def serve(
    home: Annotated[Path | None, typer.Option(help="Flowbrush's home folder.")] = None,
    models: Annotated[list[Path] | None, typer.Option(help="A folder of models; may be repeated.")] = None,
    engine: Annotated[str, typer.Option(help="For jobs that name none: auto, torch or mlx.")] = "auto",
    tcp: Annotated[str | None, typer.Option(help="HOST:PORT on loopback, instead of a socket.")] = None,
    workers: Annotated[int | None, typer.Option(help="Engine processes; one for each device.")] = None,
    gpus_per_engine: Annotated[int, typer.Option(help="GPUs that compute each picture together.")] = 1,
    idle_exit_s: Annotated[float | None, typer.Option(help="End after so many idle seconds.")] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Run the job service that the window and the other commands use."""
    from backends.service.server import ServiceOptions
    from backends.service.server import serve as run_service
    from backends.service.state_folder import Endpoint, default_home, default_models_dirs

    screen = Screen(json)
    chosen_home = home or default_home(os.environ)

    def say_where(endpoint: Endpoint) -> None:
        screen.say(f"The service listens at {endpoint}. Ctrl-C ends it; its jobs wait for the next one.")
        screen.result({"endpoint": str(endpoint), "pid": os.getpid()})

    run_service(
        ServiceOptions(
            home=chosen_home,
            models_dirs=tuple(models or default_models_dirs(chosen_home)),
            engine=engine,
            tcp=tcp,
            num_workers=workers,
            gpus_per_engine=gpus_per_engine,
            idle_exit_s=idle_exit_s,
        ),
        on_ready=say_where,
    )
