"""`flowbrush models`: which models there are and which are on this machine."""

from __future__ import annotations

import os

import typer

from desktop.commands import options, quantize
from desktop.commands.screen import Screen

app = typer.Typer(help="The models: list, quantize.", no_args_is_help=True)
app.command("quantize")(quantize.quantize)


@app.callback()
def models() -> None:
    """Which models there are."""


@app.command("list")
def list_models(json: options.Json = False, debug: options.Debug = False) -> None:
    """List all models that Flowbrush knows, and whether they are installed here."""
    from backends.service.state_folder import default_home, default_models_dirs
    from flux_core import catalog

    screen = Screen(json)
    infos = catalog.model_infos(default_models_dirs(default_home(os.environ)))
    rows = [
        (
            info.model,
            f"{info.bytes_on_disk / 1e6:,.0f} MB" if info.is_installed else "not here",
            ", ".join(info.tasks),
            info.licence,
            info.title,
        )
        for info in infos
    ]
    screen.table(("MODEL", "ON DISK", "TASKS", "LICENCE", "TITLE"), rows)
    screen.result([info.model_dump(mode="json") for info in infos])
