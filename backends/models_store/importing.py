"""From files that are already on the disk to models that Flowbrush finds, without copying 24 GB.

Every find is looked at before anything is done: what it is, where it belongs, whether something is there
already. What cannot be taken is reported with its reason; what can is put in place at once.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from backends.models_store.linking import OnBytes, put_in_place
from backends.models_store.placing import NotPlaced, Placed, place, place_tokenizer
from backends.models_store.reading import Opened, open_any
from backends.models_store.scanning import Find, allowed_roots, problem_of, scan
from flux_core import catalog
from flux_core.catalog import ModelSpec
from flux_core.errors import FluxError, RequestInvalid
from flux_core.weights.detect import Detected, detect

_CHUNK_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Left:
    """A find that was not taken, and why."""

    path: Path
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did.

    Attributes:
        taken: Put in place.
        present: Was in place before.
        left: Not taken, with the reason.
    """

    taken: tuple[Placed, ...]
    present: tuple[Placed, ...]
    left: tuple[Left, ...]


def import_models(
    path: Path,
    models_dir: Path,
    as_model: str | None = None,
    is_copy: bool = False,
    on_bytes: OnBytes = lambda what, done, total: None,
) -> Imported:
    """Imports a file, or everything of use in a folder.

    Args:
        path: A file of weights, an index of shards, or any folder.
        models_dir: The person's folder of models.
        as_model: The row that it is, where tensors cannot tell.
        is_copy: Whether to copy instead of linking.
        on_bytes: Told how far hashing and copying are.

    Raises:
        FluxError: For a single file whatever stands in the way; for a folder only what stands in the way
            of everything.
    """
    if as_model is not None:
        catalog.find_row(as_model)
    look = _Look(models_dir, as_model, on_bytes)
    if path.is_dir():
        placed, left = look.into_folder(path)
    else:
        placed, left = [look.at_file(path)], list[Left]()
    fresh, present, more_left = _sort_out(placed, models_dir)
    if not path.is_dir() and more_left:
        raise RequestInvalid(more_left[0].reason, more_left[0].hint)
    places = [pair for each in fresh for pair in each.places]
    if places:
        put_in_place(places, models_dir, is_copy, on_bytes)
    return Imported(tuple(fresh), tuple(present), (*left, *more_left))


@dataclass(frozen=True, slots=True)
class _Look:
    """Looks at finds and says where they belong."""

    models_dir: Path
    as_model: str | None
    on_bytes: OnBytes

    def at_file(self, path: Path) -> Placed:
        opened, found = self._identify(path)
        if len(opened.files) > 1:  # the person named one file; where the others lead was not their choice
            roots = allowed_roots(path.parent)
            problem = next(filter(None, (problem_of(file, roots) for file in opened.files)), "")
            if problem:
                raise NotPlaced(f"{opened.path} was left: {problem}")
        return place(opened, found, self.as_model)

    def into_folder(self, folder: Path) -> tuple[list[Placed], list[Left]]:
        placed: list[Placed] = []
        left: list[Left] = []
        answered = False
        for find in scan(folder):
            try:
                placed.append(each := self._at_find(find))
                answered = answered or each.row == self.as_model
            except FluxError as err:
                left.append(Left(find.path, err.message, err.hint))
        if not placed and not left:
            raise RequestInvalid(
                f"{folder} holds no weights.", "Choose a file of weights or a folder of them."
            )
        if self.as_model is not None and not answered:
            title = catalog.find_row(self.as_model).title
            raise RequestInvalid(f"Nothing in {folder} can be {title}.", "Import it without --as to see why.")
        return placed, left

    def _at_find(self, find: Find) -> Placed:
        if find.problem:
            raise NotPlaced(f"{find.path.name} was left: {find.problem}")
        if find.tokenizer:
            return place_tokenizer(find.path, find.tokenizer)
        opened, found = self._identify(find.path)
        is_meant = self.as_model is not None and self.as_model in found.allowed
        return place(opened, found, self.as_model if is_meant else None)

    def _identify(self, path: Path) -> tuple[Opened, Detected]:
        opened = open_any(path)
        found = detect(opened.names, str(path), opened.metadata)
        if self.as_model is None and self._may_a_hash_answer(opened, found):
            sha256 = sha256_of(path, self.on_bytes)
            found = detect(opened.names, str(path), opened.metadata, sha256=sha256)
        return opened, found

    def _may_a_hash_answer(self, opened: Opened, found: Detected) -> bool:
        """Whether the file's hash is worth reading it: an open question, and one unchanged file."""
        rows = [catalog.find_row(model) for model in found.candidates]
        is_published = found.storage == "bfloat16" and found.naming in ("BFL", "BFL control")
        return (
            len(rows) > 1
            and len(opened.files) == 1
            and is_published
            and any(r.downloads[0].sha256 for r in rows)
        )


def sha256_of(path: Path, on_bytes: OnBytes = lambda what, done, total: None) -> str:
    """The sha256 of a file, lower-case hexadecimal."""
    digest = hashlib.sha256()
    total, done = path.stat().st_size, 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            on_bytes(path.name, done, total)
    return digest.hexdigest()


def _sort_out(placed: list[Placed], models_dir: Path) -> tuple[list[Placed], list[Placed], list[Left]]:
    """What is new, what is there already, and what would take another's place."""
    fresh: list[Placed] = []
    present: list[Placed] = []
    left: list[Left] = []
    taken: dict[str, Path] = {}
    for each in sorted(placed, key=lambda one: (one.rank, str(one.source))):
        if each.places and all(_is_same(source, models_dir / name) for source, name in each.places):
            present.append(each)
        elif other := taken.get(each.slot) or _occupant(each, models_dir):
            hint = (
                f"To change that: flowbrush models delete {each.row}, then import."
                if each.row
                else "Rename it."
            )
            left.append(Left(each.source, f"{each.source.name} was left: {other} is in its place.", hint))
            continue  # it holds no place that another could find taken
        else:
            todo = tuple(pair for pair in each.places if not _is_same(pair[0], models_dir / pair[1]))
            fresh.append(replace(each, places=todo))
        taken.setdefault(each.slot, each.source)
    return fresh, present, left


def _occupant(each: Placed, models_dir: Path) -> Path | None:
    """What lies where a find should go, in any layout."""
    for source, name in each.places:
        at = models_dir / name
        if os.path.lexists(at) and not _is_same(source, at):
            return at
    if not each.row or each.is_tokenizer:
        return None
    row = catalog.find_row(each.row)
    folder = catalog.row_folder(row, models_dir)
    part = "transformer" if isinstance(row, ModelSpec) else _weights_part(row.model)
    if part is None:
        return None
    name = getattr(row.files if isinstance(row, ModelSpec) else catalog.DEV.files, part)
    found = catalog.part_path(folder, part, name)
    return folder / found if found is not None and not _belongs(each, models_dir, folder / found) else None


def _weights_part(row: str) -> str | None:
    """The part that a shared row's weights are; None for rows that no model looks into."""
    parts = (part for part, shared in catalog.SHARED_ROWS.items() if shared == row)
    return next((part for part in parts if not part.endswith("tokenizer")), None)


def _belongs(each: Placed, models_dir: Path, at: Path) -> bool:
    """Whether what was found is this very find, half of which is there."""
    return any(models_dir / name == at or at in (models_dir / name).parents for _, name in each.places)


def _is_same(source: Path, at: Path) -> bool:
    try:
        return at.samefile(source)
    except OSError:
        return False
