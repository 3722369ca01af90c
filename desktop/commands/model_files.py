"""`flowbrush models list`, `inspect`, `verify` and `delete`: what is on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from desktop.commands import options
from desktop.commands.screen import Screen

if TYPE_CHECKING:
    from flux_core.catalog import PartSpec, Row
    from flux_core.messages import ModelInfo

Name = Annotated[str, typer.Argument(help="Its id; see flowbrush models list.")]


def models_dirs() -> tuple[Path, ...]:
    """Where models are looked for; the first is the person's own."""
    from backends.service.state_folder import default_home, default_models_dirs

    return default_models_dirs(default_home(os.environ))


def list_models(json: options.Json = False, debug: options.Debug = False) -> None:
    """List everything that Flowbrush knows, and what of it is on this machine."""
    from backends.models_store import keeping
    from flux_core import catalog

    screen = Screen(json)
    folders = models_dirs()
    infos = catalog.model_infos(folders)
    parts = [(part, catalog.part_folder(part, folders)) for part in catalog.PARTS.values()]
    models = [
        (info.model, _on_disk(info, folders), ", ".join(info.tasks), info.licence, info.title)
        for info in infos
    ]
    screen.table(("MODEL", "ON DISK", "TASKS", "LICENCE", "TITLE"), models)
    screen.say("")
    screen.table(("PART", "ON DISK", "KIND", "LICENCE", "TITLE"), [_part_row(*pair) for pair in parts])
    others = keeping.library_files(folders)
    if others:
        screen.say("")
        screen.table(
            ("OTHER FILE", "ON DISK"),
            [(f"{path.parent.name}/{path.name}", _size(path.stat().st_size)) for path in others],
        )
    screen.result([_model_json(info) for info in infos] + [_part_json(*pair) for pair in parts])


def inspect(
    path: Annotated[Path, typer.Argument(help="A file of weights, or a folder.")],
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Say what a file or everything in a folder is, without loading it."""
    from backends.models_store.inspecting import inspect_all

    screen = Screen(json)
    found = inspect_all(path)
    for each in found:
        for line in each.lines():
            screen.say(line)
    screen.result([each.as_json() for each in found])


def verify(
    model: Annotated[str | None, typer.Argument(help="Its id; everything by default.")] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Check the files that are here: headers, and size and sha256 where they are known."""
    from backends.models_store import keeping
    from flux_core import catalog
    from flux_core.errors import ModelMissing

    screen = Screen(json)
    folders = models_dirs()
    rows = catalog.rows() if model is None else (catalog.find_row(model),)
    with screen.byte_progress() as watch:
        checks = [check for row in rows for check in keeping.verify(row, folders, watch)]
    if not checks and model is not None:
        raise ModelMissing(f"{rows[0].title} is not on this machine.", f"flowbrush models get {model}.")
    for check in checks:
        screen.say(f"{'ok  ' if check.is_sound else 'FIX '}{check.path}: {check.detail}")
    if not checks:
        screen.say("No models are here yet; `flowbrush models get` downloads, `import` takes what you have.")
    screen.result(
        [{"model": c.row, "path": str(c.path), "is_sound": c.is_sound, "detail": c.detail} for c in checks]
    )
    if not all(check.is_sound for check in checks):
        raise typer.Exit(1)


def delete(
    model: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Remove a model from Flowbrush; files that were linked keep their originals."""
    from backends.models_store import keeping
    from flux_core import catalog

    screen = Screen(json)
    planned = keeping.plan_deletion(model, models_dirs()[0])
    keep = "keeps its original" if planned.num_linked == 1 else "keep their originals"
    linked = f"; {planned.num_linked} of them {keep} elsewhere" if planned.num_linked else ""
    files = "file" if planned.num_files == 1 else "files"
    screen.say(
        f"{planned.folder} holds {planned.num_files} {files}{linked}. "
        f"Deleting it frees {_size(planned.freed_bytes)}."
    )
    users = [row.title for row in catalog.rows() if model in row.needs]
    if users:
        screen.say(f"It is used by {', '.join(users)}.")
    if not yes:
        typer.confirm("Delete it?", abort=True, err=True)
    keeping.delete(planned)
    screen.say("Deleted.")
    screen.result(
        {"model": model, "files": planned.num_files, "freed_bytes": planned.freed_bytes, "is_deleted": True}
    )


def lacking(missing: set[str]) -> str:
    """Missing parts in a person's words: the rows they come from, or their tokenizers alone."""
    from flux_core import catalog

    weights = {catalog.SHARED_ROWS.get(part, part) for part in missing if not part.endswith("tokenizer")}
    tokenizers = {catalog.SHARED_ROWS[part] for part in missing if part.endswith("tokenizer")} - weights
    return ", ".join([*sorted(weights), *(f"{row} tokenizer" for row in sorted(tokenizers))])


def _size(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def _on_disk(info: ModelInfo, folders: tuple[Path, ...]) -> str:
    from flux_core import catalog

    if info.is_installed:
        return _size(info.bytes_on_disk)
    spec = catalog.find(info.model)
    missing = catalog.missing_parts(spec, folders)
    if "transformer" in missing:
        return "not here"
    return f"lacks {lacking(missing)}"


def _part_row(part: PartSpec, folder: Path | None) -> tuple[str, ...]:
    from flux_core import catalog

    on_disk = _size(catalog.bytes_in(folder)) if folder else "not here"
    return part.model, on_disk, part.kind.value.replace("_", " "), part.licence, part.title


def _model_json(info: ModelInfo) -> dict[str, Any]:
    from flux_core import catalog

    return {**info.model_dump(mode="json"), **_row_json(catalog.find(info.model))}


def _part_json(part: PartSpec, folder: Path | None) -> dict[str, Any]:
    from flux_core import catalog

    return {
        "model": part.model,
        "title": part.title,
        "licence": part.licence,
        "tasks": [],
        "is_installed": folder is not None,
        "bytes_on_disk": catalog.bytes_in(folder) if folder else 0,
        **_row_json(part),
        "works_with": list(part.works_with),
        "meant_for": list(part.meant_for),
    }


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "kind": row.kind.value,
        "repository": row.repository,
        "is_gated": row.is_gated,
        "needs": list(row.needs),
    }
