"""Finds the weights in a folder: ComfyUI's models, a diffusers folder, a Hugging Face cache, or any other.

Shards that an index or their numbers bind together are one find. Links are followed only as far as they
stay inside the folder (or inside the cache repository they belong to), so that nobody's folder can point
the program at a file elsewhere on the disk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backends.models_store.reading import WEIGHTS, read_index
from flux_core.errors import FluxError, RequestInvalid
from flux_core.weights import pickles
from flux_core.weights.numbered import INDEX_ENDING, lacking, numbered_sets

MAX_FILES = 100_000
_CLIP_TOKENIZER = frozenset({"vocab.json", "merges.txt"})
_T5_TOKENIZER = frozenset({"tokenizer.json", "spiece.model"})
_TOKENIZER_FILES = _CLIP_TOKENIZER | _T5_TOKENIZER | {"tokenizer_config.json", "special_tokens_map.json"}


@dataclass(frozen=True, slots=True)
class Find:
    """Something in a folder that may be imported.

    Attributes:
        path: A file of weights, an index of shards, or a tokenizer's folder.
        tokenizer: "clip" or "t5" for a tokenizer, else "".
        problem: Why it is left alone, "" if it is not.
    """

    path: Path
    tokenizer: str = ""
    problem: str = ""


def scan(folder: Path) -> Iterator[Find]:
    """Everything in a folder and below that looks like weights or a tokenizer, in a stable order.

    Raises:
        RequestInvalid: It cannot be read, or holds too many files to be a folder of models.
    """
    if not folder.is_dir():
        raise RequestInvalid(f"There is no folder {folder}.", "Check its name.")
    roots = allowed_roots(folder)
    seen: set[Path] = set()
    count = 0
    unread: list[OSError] = []
    for where, folders, files in os.walk(folder, onerror=unread.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        count += len(files)
        if count > MAX_FILES:
            raise RequestInvalid(f"{folder} holds more than {MAX_FILES} files.", "Name a folder of models.")
        here = Path(where)
        yield from _linked_folders(here, folders)
        yield from _tokenizers(here, files)
        yield from _weights(here, sorted(files), roots, seen)
    for err in unread:
        yield Find(Path(err.filename), problem=f"It cannot be read: {err.strerror or err}.")


def allowed_roots(path: Path) -> tuple[Path, ...]:
    """Where a link inside `path` may lead: the folder itself, and the cache repository around it."""
    real = path.resolve()
    around = [parent for parent in (real, *real.parents) if parent.name.startswith("models--")]
    return real, *around[:1]


def problem_of(file: Path, roots: tuple[Path, ...]) -> str:
    """Why a file of a scanned folder must be left alone; "" if it need not."""
    try:
        real = file.resolve(strict=True)
        if not stat.S_ISREG(real.stat().st_mode):
            return "It is not a plain file."
    except (OSError, RuntimeError):
        return "It is a link that leads nowhere."
    if not any(real.is_relative_to(root) for root in roots):
        return "It is a link that leads out of the folder; name it directly to import it."
    return ""


def _weights(here: Path, files: list[str], roots: tuple[Path, ...], seen: set[Path]) -> Iterator[Find]:
    shards: set[Path] = set()
    for name in files:
        if name.endswith(INDEX_ENDING):
            index = here / name
            members, problem = _members(index)
            shards.update(members)
            problem = problem or next(
                filter(None, (problem_of(file, roots) for file in (index, *members))), ""
            )
            if problem or _is_new(index, seen):
                yield Find(index, problem=problem)
    for each in numbered_sets(files):
        members = [here / name for name in each.present]
        is_known = f"{each.whole}.index.json" in files  # what is wrong with it was said about its index
        if not is_known and not shards.intersection(members):
            problem = lacking(here, each.missing, each.count).message if each.missing else ""
            problem = problem or next(filter(None, (problem_of(file, roots) for file in members)), "")
            if problem or _is_new(members[0], seen):
                yield Find(members[0], problem=problem)
        shards.update(members)
    for name in files:
        path = here / name
        ending = path.suffix.lower()
        if path in shards or ending not in WEIGHTS | pickles.SUFFIXES:
            continue
        if ending in pickles.SUFFIXES and not _is_big(path):
            continue  # .bin and .pt are also names of small settings
        problem = problem_of(path, roots)
        if problem or _is_new(path, seen):
            yield Find(path, problem=problem)


def _members(index: Path) -> tuple[tuple[Path, ...], str]:
    try:
        return read_index(index), ""
    except FluxError as err:
        return (), err.message


def _is_new(path: Path, seen: set[Path]) -> bool:
    """Whether the file was not met under another name; snapshots of a cache share their files."""
    real = path.resolve()
    is_new = real not in seen
    seen.add(real)
    return is_new


def _is_big(path: Path) -> bool:
    try:
        return path.stat().st_size > 1_000_000
    except OSError:
        return False


def _tokenizers(here: Path, files: list[str]) -> Iterator[Find]:
    if "tokenizer" not in here.name.lower():
        return
    if set(files) >= _CLIP_TOKENIZER:
        yield Find(here, tokenizer="clip")
    elif "tokenizer.json" in files:
        yield Find(here, tokenizer="t5")


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """The files of a tokenizer's folder that matter."""
    return tuple(sorted(path for path in folder.iterdir() if path.name in _TOKENIZER_FILES))


def _linked_folders(here: Path, folders: list[str]) -> Iterator[Find]:
    for name in folders:
        if (here / name).is_symlink():
            yield Find(
                here / name, problem="It is a link to a folder; name that folder directly to import it."
            )
