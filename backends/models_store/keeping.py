"""Verifies and deletes what lies in the folder of models, and lists what is no row of the catalog.

Deleting removes names: an original that was linked keeps its own, and what is bundled is never touched.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backends.models_store import hub
from backends.models_store.importing import sha256_of
from backends.models_store.linking import OnBytes, explain
from backends.models_store.placing import LIBRARY_FOLDERS
from backends.models_store.reading import Opened, open_any
from backends.models_store.scanning import scan
from flux_core import catalog
from flux_core.catalog import Kind, RemoteFile, Row
from flux_core.errors import FluxError, ModelMissing, RequestInvalid
from flux_core.weights.detect import detect


@dataclass(frozen=True, slots=True)
class Check:
    """What verifying one file gave.

    Attributes:
        is_sound: Whether it may stay as it is.
        detail: What was checked, or what is wrong.
    """

    row: str
    path: Path
    is_sound: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Deletion:
    """What deleting a row would do.

    Attributes:
        folder: Or the file, for a file of a library folder.
        num_files: In it.
        freed_bytes: Of the files that have no other name anywhere.
        num_linked: Files whose originals stay.
        unfinished: What broken downloads have left, which goes, too.
    """

    folder: Path
    num_files: int
    freed_bytes: int
    num_linked: int
    unfinished: tuple[Path, ...] = ()


def verify(
    row: Row, models_dirs: tuple[Path, ...], on_bytes: OnBytes = lambda what, done, total: None
) -> Iterator[Check]:
    """Checks the files that a row has on this machine: headers, kind, and size and hash where known."""
    for models_dir in models_dirs:
        folder = catalog.row_folder(row, models_dir)
        if not folder.is_dir():
            continue
        for find in scan(folder):
            if not find.tokenizer:
                yield _check(row, folder, find.path, on_bytes)


def library_files(models_dirs: tuple[Path, ...]) -> list[Path]:
    """LoRAs, ControlNets and adapters that are no rows of the catalog."""
    folders = [base / name for base in models_dirs for name in LIBRARY_FOLDERS.values()]
    return [find.path for folder in folders if folder.is_dir() for find in scan(folder) if not find.problem]


def plan_deletion(name: str, models_dir: Path) -> Deletion:
    """What `delete` would remove.

    Args:
        name: A row of the catalog, or a file of a library folder: "loras/ink.safetensors".
        models_dir: The person's folder of models; nothing outside it is ever deleted.

    Raises:
        RequestInvalid: There is no such row, or it is a bundled one.
        ModelMissing: It is not in the folder.
    """
    where = _place_of(name, models_dir)
    row = catalog.MODELS.get(name) or catalog.PARTS.get(name)
    unfinished = tuple(hub.unfinished(row, models_dir)) if row else ()
    if not os.path.lexists(where) and not unfinished:
        if row is not None and row.is_bundled:
            raise RequestInvalid(f"{row.title} comes with Flowbrush and stays.", "Choose another.")
        raise ModelMissing(f"{where} is not there.", "`flowbrush models list` shows what is.")
    files = [*_files_in(where), *unfinished]
    freed = {
        (status.st_dev, status.st_ino): status.st_size
        for status in (file.lstat() for file in files if not file.is_symlink())
        if status.st_nlink == _names_inside(status.st_ino, files)
    }
    linked = sum(file.is_symlink() or file.lstat().st_nlink > 1 for file in files)
    return Deletion(where, len(files), sum(freed.values()), linked, unfinished)


def delete(deletion: Deletion) -> None:
    """Removes what was planned; links go, what they point to stays.

    Raises:
        RequestInvalid: The folder cannot be written.
    """
    where = deletion.folder
    try:
        for path in deletion.unfinished:
            path.unlink(missing_ok=True)
        if where.is_symlink() or where.is_file():
            where.unlink()
        if not where.is_dir():
            return
        doomed = where.with_name(f".deleting-{where.name}-{os.urandom(4).hex()}")
        os.rename(where, doomed)
        shutil.rmtree(doomed)
    except OSError as err:
        raise explain(err, where) from err


def _place_of(name: str, models_dir: Path) -> Path:
    folder, slash, file = name.partition("/")
    if (
        slash
        and folder in LIBRARY_FOLDERS.values()
        and Path(file).name == file
        and file not in ("", ".", "..")
    ):
        return models_dir / folder / file
    return catalog.row_folder(catalog.find_row(name), models_dir)


def _files_in(where: Path) -> Iterator[Path]:
    if where.is_symlink() or where.is_file():
        yield where
        return
    for folder, _, names in os.walk(where):
        yield from (Path(folder, name) for name in names)


def _names_inside(inode: int, files: list[Path]) -> int:
    """How many of a file's names lie in what is deleted."""
    return sum(file.lstat().st_ino == inode for file in files)


def _check(row: Row, folder: Path, path: Path, on_bytes: OnBytes) -> Check:
    try:
        opened = open_any(path)
        published = next((file for file in row.downloads if folder / file.name == path), None)
        if row.kind is Kind.VISION:  # no part of FLUX.1; the library that loads it checks its tensors
            return _compare(row, opened, published, "safetensors", on_bytes)
        found = detect(opened.names, str(path), opened.metadata, repository=row.repository)
    except FluxError as err:
        return Check(row.model, path, False, err.message)
    if found.allowed and row.model not in found.allowed:
        return Check(row.model, path, False, f"It is not {row.title}, but: {found.title}.")
    return _compare(row, opened, published, found.storage, on_bytes)


def _compare(
    row: Row, opened: Opened, published: RemoteFile | None, storage: str, on_bytes: OnBytes
) -> Check:
    """Against the published file, as far as that is known."""
    if published is None or not (published.sha256 or published.size_bytes):
        return Check(row.model, opened.path, True, f"its header is sound ({storage}); no hash is known")
    is_same_size = published.size_bytes in (None, opened.size_bytes)
    if is_same_size and not published.sha256:
        return Check(row.model, opened.path, True, "its size is the published one; no hash is known")
    if is_same_size and sha256_of(opened.path, on_bytes) == published.sha256:
        return Check(row.model, opened.path, True, "it is the published file, byte for byte")
    if is_same_size and published.size_bytes is not None:
        return Check(row.model, opened.path, False, "It has the published file's size and other content.")
    return Check(
        row.model, opened.path, True, f"its header is sound; it is not the published file ({storage})"
    )
