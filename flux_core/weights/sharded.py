"""Several safetensors files that are one: an index says which tensor lies in which of them.

The index and the files are checked against each other before a tensor is read: no file outside the
index's own folder, every tensor in the file that the index names, nothing twice and nothing left over.

Source: the index files that transformers, diffusers and mflux write next to their shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from flux_core.errors import Corrupt
from flux_core.weights.header import MAX_METADATA, MAX_TENSORS
from flux_core.weights.json_cursor import JsonCursor, shown
from flux_core.weights.mapped import Content, open_mapped
from flux_core.weights.numbered import MAX_SHARDS
from flux_core.weights.safetensors_file import SafetensorsFile
from flux_core.weights.tensors import RawTensor, TensorInfo

MAX_INDEX_BYTES = 20_000_000


class ShardedSource:
    """A TensorSource over safetensors files of one folder.

    Args:
        shards: The files.
        metadata: What is known beside the files' own metadata, and wins over it.
        where: Tensor -> the file it must lie in; None takes whatever the files hold.
        name: What it is called in a message.

    Raises:
        ModelMissing: One of the files is not there.
        Corrupt: One of them is unsound, or they and the index contradict each other.
    """

    def __init__(
        self,
        shards: Iterable[Path],
        metadata: Mapping[str, str],
        where: Mapping[str, Path] | None,
        name: Path,
    ) -> None:
        self._home: dict[str, SafetensorsFile] = {}
        self._names: dict[str, TensorInfo] = {}
        self.metadata: dict[str, str] = {}
        for path in shards:
            shard = SafetensorsFile(path)
            self._add(shard, where, name)
            self.metadata |= shard.metadata
        self.metadata |= metadata
        for key, path in (where or {}).items():
            if key not in self._names:
                raise Corrupt(
                    f"{name} says that {path.name} holds the tensor {shown(key)}, which is not so.",
                    "Download the whole folder again.",
                )

    def names(self) -> Mapping[str, TensorInfo]:
        return self._names

    def read(self, name: str) -> RawTensor:
        return self._home[name].read(name)

    def _add(self, shard: SafetensorsFile, where: Mapping[str, Path] | None, index: Path) -> None:
        for key, info in shard.names().items():
            if key in self._home:
                fault = f"also lies in {self._home[key].path.name}"
            elif where is not None and where.get(key) != shard.path:
                fault = f"is not where {index.name} says" if key in where else f"is not in {index.name}"
            else:
                self._home[key] = shard
                self._names[key] = info
                continue
            raise Corrupt(
                f"{shard.path} holds the tensor {shown(key)}, which {fault}.",
                "Download the whole folder again.",
            )


def open_index(path: Path) -> ShardedSource:
    """Opens the files that an index names.

    Raises:
        ModelMissing: The index or one of its files is not there.
        Corrupt: The index is unsound, names files outside its folder, or does not fit its files.
    """
    (weight_map, metadata), _ = open_mapped(path, "index of weights", _parse)
    files = {name: path.parent / name for name in dict.fromkeys(weight_map.values())}
    return ShardedSource(
        files.values(), metadata, {key: files[name] for key, name in weight_map.items()}, path
    )


def _parse(content: Content) -> tuple[dict[str, str], dict[str, str]]:
    if len(content) > MAX_INDEX_BYTES:
        raise ValueError(f"it is longer than {MAX_INDEX_BYTES} bytes")
    try:
        text = content[:].decode()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    weight_map, metadata = _Index(text).read()
    files = set(map(_checked, weight_map.values()))
    if len(files) > MAX_SHARDS:
        raise ValueError(f"it names {len(files)} files, more than {MAX_SHARDS}")
    return weight_map, metadata


def _checked(name: str) -> str:
    """A file of the same folder; links may lead elsewhere, as in the cache of the Hugging Face hub."""
    is_plain = name.isprintable() and not any(char in name for char in "/\\:") and len(name) <= 255
    if not is_plain or not name.endswith(".safetensors"):
        raise ValueError(f"it names the file {shown(name)}, which is no safetensors file of its own folder")
    return name


class _Index(JsonCursor):
    """A cursor over an index."""

    def read(self) -> tuple[dict[str, str], dict[str, str]]:
        """(tensor -> file name, metadata)."""
        weight_map: dict[str, str] | None = None
        metadata: dict[str, str] | None = None
        for key in self.object_keys("the index"):
            if key == "weight_map" and weight_map is None:
                weight_map = self.texts("weight_map", MAX_TENSORS)
            elif key == "metadata" and metadata is None:
                metadata = self.texts("metadata", MAX_METADATA)
            else:
                raise ValueError(f"it has an unexpected or repeated entry {shown(key)}")
        self.end()
        if not weight_map:
            raise ValueError("it has no weight_map")
        return weight_map, metadata or {}

    def texts(self, where: str, limit: int) -> dict[str, str]:
        found: dict[str, str] = {}
        known: dict[str, str] = {}  # a file's name is kept once, however many tensors it holds
        for key in self.object_keys(where):
            if key in found or len(found) == limit:
                raise ValueError(f"its {where} repeats {shown(key)} or has over {limit} entries")
            if where == "weight_map" and self.peek() != '"':
                raise ValueError(f"its weight_map gives no file for {shown(key)}")
            value = self.scalar(where)
            found[key] = known.setdefault(value, value)
        return found
