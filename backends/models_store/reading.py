"""Opens whatever holds weights, for its names and shapes only, and says no to what must not be opened.

A single safetensors file, or shards that an index or their numbers bind together. Nothing of the weights
is read: headers only, and an index is a stranger's text like any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_core.errors import Corrupt, ModelMissing, RequestInvalid
from flux_core.weights import pickles
from flux_core.weights.numbered import INDEX_ENDING, index_of, lacking, numbered_sets, set_around
from flux_core.weights.open import open_container
from flux_core.weights.tensors import TensorInfo

WEIGHTS = frozenset({".safetensors", ".gguf"})
_MAX_INDEX_BYTES = 50_000_000


@dataclass(frozen=True, slots=True)
class Opened:
    """What a file or a folder of shards holds.

    Attributes:
        path: The file, or the folder.
        files: Every file that belongs to it, the index included.
        names: Tensors by name.
        metadata: The free text of the (first) header.
        size_bytes: Of all its files.
    """

    path: Path
    files: tuple[Path, ...]
    names: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    size_bytes: int


def open_any(path: Path) -> Opened:
    """Reads the headers of a file, of an index, or of a folder that holds one of either.

    Raises:
        ModelMissing: There is no such file.
        Corrupt: It is damaged, or an index and its shards do not agree.
        RequestInvalid: It is a pickle, or no kind of file that is read.
    """
    if path.is_dir():
        return open_any(_only_weights(path))
    refuse_pickle(path)
    files = _files_of(path)
    source = open_container(path)
    metadata: Mapping[str, str] = getattr(source, "metadata", {})
    size = sum(file.stat().st_size for file in files)
    return Opened(path if files == (path,) else path.parent, files, source.names(), metadata, size)


def _files_of(path: Path) -> tuple[Path, ...]:
    """Everything that belongs to what a path names: its shards and their index, or it alone."""
    index = index_of(path)
    if index is not None:
        return (*read_index(index), index)
    numbered = set_around(path)
    if numbered is None:
        return (path,)
    numbered.check(path.parent)
    return tuple(path.parent / name for name in numbered.present)


def refuse_pickle(path: Path) -> None:
    """Says why a pickle is not opened, and how its owner can convert it.

    Raises:
        RequestInvalid: The name is that of a pickle.
    """
    if path.suffix.lower() not in pickles.SUFFIXES:
        return
    raise RequestInvalid(*pickles.refusal(path))


def read_index(index: Path) -> tuple[Path, ...]:
    """The shards that an index names, each of them beside it.

    Raises:
        Corrupt: It is no index, or names a file that is missing or lies elsewhere.
    """
    names = _shard_names(index)
    for name in names:
        if Path(name).name != name or name in ("", ".", ".."):
            raise Corrupt(f"{index} names the shard {name[:80]!r}, which is not beside it.", "Get it again.")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise lacking(index.parent, missing, len(names))
    return tuple(index.parent / name for name in names)


def _shard_names(index: Path) -> list[str]:
    hint = "Get it again."
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            raise Corrupt(f"{index} is larger than any index.", hint)
        content: Any = json.loads(index.read_bytes())
        shards = {str(value) for value in content["weight_map"].values()}
    except OSError as err:
        raise ModelMissing(f"{index} cannot be read: {err.strerror or err}.", "Check its name.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Corrupt(f"{index} is not an index of shards.", hint) from None
    if not shards:
        raise Corrupt(f"{index} names no shards.", hint)
    return sorted(shards)


def _only_weights(folder: Path) -> Path:
    """The one index or weights file of a folder; of a numbered set any member that is there."""
    for pattern in (f"*{INDEX_ENDING}", "*.safetensors", "*.gguf"):
        found = sorted(folder.glob(pattern))
        sets = numbered_sets(path.name for path in found)
        if len(found) == 1 or (len(sets) == 1 and len(sets[0].present) == len(found)):
            return found[0]
        if found:
            raise RequestInvalid(f"{folder} holds {len(found)} files of weights.", "Name one of them.")
    raise RequestInvalid(f"{folder} holds no weights.", "Choose a .safetensors file or a folder of them.")
