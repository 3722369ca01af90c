"""From a path to a source of tensors, whatever kind of file or folder it is.

The kind is decided by what is inside, because artists rename files and download pages save themselves
under a model's name. Pickles are refused whatever they are called: opening one runs what it says.
"""

from __future__ import annotations

from pathlib import Path

from flux_core.errors import Corrupt, ModelMissing
from flux_core.weights import pickles
from flux_core.weights.formats.registry import unpacked
from flux_core.weights.gguf_file import GgufFile
from flux_core.weights.gguf_header import MAGIC as GGUF_MAGIC
from flux_core.weights.mapped import unreadable
from flux_core.weights.numbered import INDEX_ENDING, NumberedSet, index_of, numbered_sets, set_around
from flux_core.weights.safetensors_file import MAX_HEADER_BYTES, SafetensorsFile
from flux_core.weights.sharded import ShardedSource, open_index
from flux_core.weights.tensors import TensorSource

_USUAL_STEMS = ("diffusion_pytorch_model", "model")
_ZIP_MAGIC = b"PK\x03\x04"
_GET_AGAIN = "Download it again."


def open_source(path: Path) -> TensorSource:
    """Opens weights; nothing is loaded.

    Args:
        path: A safetensors or GGUF file, an index of shards, or a folder that holds one of these. Where
            `model.safetensors` is not there but its index is, the index is meant; one shard of a numbered
            set means the set.

    Raises:
        ModelMissing: There is nothing there, or it may not be read.
        Corrupt: It is damaged, or of a kind that is not read; the message says which.
    """
    return unpacked(open_container(path))


def open_container(path: Path) -> TensorSource:
    """As open_source, with the tensors as the container names them."""
    index = index_of(path)
    around = set_around(path) if index is None else None
    if around is not None:
        return _open_set(path.parent, around)
    path = index or path
    try:
        if path.is_dir():
            return _open_folder(path)
        with path.open("rb") as file:
            start = file.read(512)
            size = path.stat().st_size
    except OSError as err:
        raise unreadable(path, err) from None
    if start.startswith(GGUF_MAGIC):
        return GgufFile(path)
    if _is_safetensors(start, size):
        return SafetensorsFile(path)
    if _is_pickle(start, path.suffix.lower()):
        raise Corrupt(*pickles.refusal(path))
    if path.name.endswith(".index.json"):
        return open_index(path)
    if path.suffix.lower() == ".safetensors" and not _is_text(start):
        return SafetensorsFile(path)  # which says what is wrong with it
    raise _unknown(path, start)


def _open_folder(folder: Path) -> TensorSource:
    files = {entry.name: entry for entry in sorted(folder.iterdir()) if entry.is_file()}
    indexes = [name for name in files if name.endswith(INDEX_ENDING)]
    tensors = [name for name in files if name.endswith(".safetensors")]
    for name in (f"{stem}{suffix}" for stem in _USUAL_STEMS for suffix in (INDEX_ENDING, ".safetensors")):
        if name in files:
            return open_container(files[name])
    if len(indexes) == 1:
        return open_index(files[indexes[0]])
    sets = {each.title: each for each in numbered_sets(tensors)}
    members = {name for each in sets.values() for name in each.present}
    sources = [*sets, *(name for name in tensors if name not in members)]
    candidates = indexes or sources or [name for name in files if name.lower().endswith(".gguf")]
    if len(candidates) == 1:
        only = candidates[0]
        return _open_set(folder, sets[only]) if only in sets else open_container(files[only])
    if candidates:
        listed = ", ".join(candidates[:5]) + (" and more" if len(candidates) > 5 else "")
        raise Corrupt(f"{folder} holds several sets of weights: {listed}.", "Choose one of them.")
    frozen = [name for name in files if Path(name).suffix.lower() in pickles.SUFFIXES]
    if frozen:
        raise Corrupt(*pickles.refusal(files[frozen[0]]))
    hint = "Choose the file, or the folder of one part of a model (transformer, vae, text_encoder)."
    raise ModelMissing(f"{folder} holds no weights: no safetensors and no GGUF file.", hint)


def _open_set(folder: Path, numbered: NumberedSet) -> TensorSource:
    numbered.check(folder)
    return ShardedSource([folder / name for name in numbered.present], {}, None, folder)


def _is_safetensors(start: bytes, size: int) -> bool:
    """A plausible length, then JSON: no pickle, archive or GGUF file begins so."""
    header_bytes = int.from_bytes(start[:8], "little")
    return 2 <= header_bytes <= min(MAX_HEADER_BYTES, size - 8) and start[8:9] == b"{"


def _is_pickle(start: bytes, suffix: str) -> bool:
    """torch.save writes an archive or, before 2020, bare pickles; protocol 0 and 1 have no mark."""
    has_protocol = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return start.startswith(_ZIP_MAGIC) or has_protocol or suffix in pickles.SUFFIXES


def _is_text(start: bytes) -> bool:
    head = start.lstrip().lower()
    return head.startswith((b"<", b"version https://git-lfs"))


def _unknown(path: Path, start: bytes) -> Corrupt:
    head = start.lstrip().lower()
    if not start:
        return Corrupt(f"{path} is empty.", _GET_AGAIN)
    if head.startswith(b"version https://git-lfs"):
        return Corrupt(
            f"{path} is not the weights but a note of Git LFS that says where they are.",
            "Fetch the weights with `git lfs pull`, or download the file from its page.",
        )
    if head.startswith(b"<"):
        return Corrupt(
            f"{path} is a web page that was saved under this name, not weights.",
            "Download it again; the page may ask to log in or to accept a licence first.",
        )
    return Corrupt(
        f"{path} is neither a safetensors nor a GGUF file, nor an index of shards.",
        "Choose the weights of a FLUX.1 model in one of these forms.",
    )
