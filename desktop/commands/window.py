"""`flowbrush [FILE...]`: opens the window, or says plainly why none can be opened here."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from desktop.commands import options
from flux_core.errors import FluxError, RequestInvalid


class NoDisplay(FluxError):
    """This machine shows no windows."""

    code = "no_display"


def open_window(
    files: Annotated[list[Path] | None, typer.Argument(help="Pictures and projects to open.")] = None,
    debug: options.Debug = False,
) -> None:
    """Open the window; the word open may be left out."""
    from desktop.commands.qt_libraries import explained

    chosen = files or []
    for file in chosen:
        if not file.is_file():
            raise RequestInvalid(f"There is no file {file}.", "Check its name, or see flowbrush --help.")
    check_display(sys.platform, os.environ)
    with explained():
        from desktop.app import main
    raise typer.Exit(main(chosen))


def check_display(platform: str, environ: Mapping[str, str]) -> None:
    """Raises NoDisplay where a window would only crash."""
    if platform in ("win32", "darwin"):
        return
    if not any(environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")):
        raise NoDisplay(
            "There is no display here, so no window can be opened.",
            "Run flowbrush demo for the same job without a window, or see flowbrush --help.",
        )
