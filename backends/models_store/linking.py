"""Puts files into the folder of models without copying them, all of an import or nothing of it.

Everything is first linked (or copied) into a folder beside the destination and then renamed into place;
a failure takes back what was renamed. A hard link costs no space and outlives the original's name; where
the disk cannot make one (another file system), a symbolic link stands in.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

import psutil

from flux_core.errors import RequestInvalid, StorageFull
from flux_core.storage import sync_folder

_STAGING = ".importing-"
_CHUNK_BYTES = 8 * 2**20
_MARGIN_BYTES = 100_000_000

OnBytes = Callable[[str, int, int], None]
"""(what, done, total) in bytes."""


def put_in_place(
    places: Iterable[tuple[Path, PurePosixPath]],
    models_dir: Path,
    is_copy: bool,
    on_bytes: OnBytes = lambda what, done, total: None,
) -> None:
    """Gives files their names in the folder of models.

    Args:
        places: (file, its name in the folder of models); no name may exist yet.
        models_dir: Made if it is not there.
        is_copy: Whether to copy instead of linking.
        on_bytes: Told how far copying is.

    Raises:
        StorageFull: The copies do not fit.
        RequestInvalid: The folder cannot be written, or a name is taken.
    """
    wanted = list(places)
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        _sweep(models_dir)
        if is_copy:
            check_space(models_dir, sum(source.stat().st_size for source, _ in wanted))
        staging = models_dir / f"{_STAGING}{os.getpid()}-{os.urandom(4).hex()}"
        staging.mkdir()
        try:
            for source, name in wanted:
                target = staging / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy(source, target, on_bytes) if is_copy else _link(source.resolve(strict=True), target)
            _publish(staging, models_dir, [name for _, name in wanted])
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as err:
        raise explain(err, models_dir) from err


def check_space(folder: Path, needed_bytes: int) -> None:
    """Raises StorageFull if a folder's disk has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + _MARGIN_BYTES:
        raise StorageFull(
            f"{needed_bytes / 1e9:,.1f} GB are needed in {folder}, and {free / 1e9:,.1f} GB are free.",
            "Free some space, or set FLOWBRUSH_HOME to a folder on a larger disk.",
        )


def explain(err: OSError, folder: Path) -> StorageFull | RequestInvalid:
    """An operating-system error as a sentence."""
    if err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageFull(f"The disk of {folder} is full.", "Free some space and run it again.")
    where = err.filename or folder
    return RequestInvalid(f"{where} cannot be used: {err.strerror or err}.", "Check its permissions.")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as err:
        if err.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES):
            raise
        try:
            os.symlink(source, target)
        except OSError as again:
            raise RequestInvalid(
                f"{source} can be linked neither hard nor symbolically ({again.strerror or again}).",
                "Add --copy.",
            ) from again


def _copy(source: Path, target: Path, on_bytes: OnBytes) -> None:
    total, done = source.stat().st_size, 0
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            done += len(chunk)
            on_bytes(source.name, done, total)
        writer.flush()
        os.fsync(writer.fileno())


def _publish(staging: Path, models_dir: Path, names: list[PurePosixPath]) -> None:
    """Renames into place; whole folders where none is there yet, so that shards come together."""
    done: list[tuple[Path, Path]] = []
    try:
        for staged, final in list(_moves(staging, models_dir, names)):
            if os.path.lexists(final):
                raise RequestInvalid(f"{final} is there already.", "Delete it first, or leave it.")
            final.parent.mkdir(parents=True, exist_ok=True)
            os.rename(staged, final)
            done.append((staged, final))
            sync_folder(final.parent)
    except BaseException:
        for staged, final in reversed(done):
            with contextlib.suppress(OSError):
                os.rename(final, staged)
        raise


def _moves(staging: Path, models_dir: Path, names: list[PurePosixPath]) -> Iterator[tuple[Path, Path]]:
    seen: set[Path] = set()
    for name in names:
        at = PurePosixPath()
        for part in name.parts:
            at = at / part
            if not (models_dir / at).is_dir() or at == name:
                break
        if staging / at not in seen:
            seen.add(staging / at)
            yield staging / at, models_dir / at


def _sweep(models_dir: Path) -> None:
    """Removes what imports that were killed have left."""
    for left in models_dir.glob(f"{_STAGING}*"):
        pid = left.name.removeprefix(_STAGING).split("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
