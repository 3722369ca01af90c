"""`flowbrush models get` and `import`: from a hub, or from what is on the disk already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from desktop.commands import options
from desktop.commands.model_files import Name, lacking, models_dirs
from desktop.commands.screen import Screen

if TYPE_CHECKING:
    from backends.models_store.importing import Imported
    from backends.models_store.placing import Placed

_MAX_REASONS = 20


def get(model: Name, json: options.Json = False, debug: options.Debug = False) -> None:
    """Download a model or a part, and what it needs; goes on where it stopped."""
    from backends.models_store import hub
    from flux_core import catalog
    from flux_core.errors import RequestInvalid

    screen = Screen(json)
    row = catalog.find_row(model)
    if row.is_bundled:
        raise RequestInvalid(f"{row.title} comes with Flowbrush and is published nowhere.", "Choose another.")
    folders = models_dirs()
    wanted = hub.wanted_files(row, folders[0], folders)
    for each in dict.fromkeys(one.row for one in wanted):
        screen.note(f"{each.title}: {each.licence}")
    for one in wanted:
        screen.note(f"  {one.repository}/{one.file.path}")
    with screen.byte_progress() as watch:
        paths = hub.get(wanted, folders[0], watch)
    for path in paths:
        screen.say(f"Wrote {path} ({path.stat().st_size / 1e6:,.1f} MB).")
    if not paths:
        screen.say(f"{row.title} is here already.")
    screen.result({"model": model, "files": [str(path) for path in paths]})


def import_models(
    path: Annotated[Path, typer.Argument(help="A file of weights, or a folder of models.")],
    as_model: Annotated[
        str | None, typer.Option("--as", help="What it is, where the file does not say.")
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy instead of linking.")] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Take models that are on this disk already: files, ComfyUI or diffusers folders, Hugging Face caches.

    Files are linked, not copied; nothing of the original folder is changed.
    """
    from backends.models_store.importing import import_models as run_import
    from flux_core.errors import RequestInvalid

    screen = Screen(json)
    models_dir = models_dirs()[0]
    with screen.byte_progress() as watch:
        done = run_import(path.absolute(), models_dir, as_model, copy, watch)
    for each in done.taken:
        screen.say(f"{'Copied' if copy else 'Linked'} {each.source} as {_name(each)}: {each.title}.")
    for each in done.present:
        screen.say(f"{each.source} is here already as {_name(each)}.")
    _report_left(screen, done)
    _report_missing(screen, done)
    screen.result(
        {
            "taken": [_as_json(each) for each in done.taken],
            "present": [_as_json(each) for each in done.present],
            "left": [{"path": str(o.path), "reason": o.reason, "hint": o.hint} for o in done.left],
        }
    )
    if not done.taken and not done.present:
        if json:
            raise typer.Exit(2)
        raise RequestInvalid(f"Nothing in {path} could be imported.", "The reasons stand above.")


def _name(each: Placed) -> str:
    return each.row or str(each.places[0][1])


def _as_json(each: Placed) -> dict[str, object]:
    names = [str(name) for _, name in each.places]
    return {"path": str(each.source), "title": each.title, "model": each.row, "places": names}


def _report_left(screen: Screen, done: Imported) -> None:
    for left in done.left[:_MAX_REASONS]:
        screen.note(f"{left.reason} {left.hint}".strip())
    if len(done.left) > _MAX_REASONS:
        screen.note(f"{len(done.left) - _MAX_REASONS} more files were left; --json lists them all.")


def _report_missing(screen: Screen, done: Imported) -> None:
    """What a model that was taken still lacks."""
    from flux_core import catalog

    for model in dict.fromkeys(each.row for each in done.taken):
        spec = catalog.MODELS.get(model)
        missing = catalog.missing_parts(spec, models_dirs()) if spec else set[str]()
        if spec and missing:
            screen.note(f"{spec.title} still lacks {lacking(missing)}: flowbrush models get {model}.")
