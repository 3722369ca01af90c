"""Where a found file belongs in the folder of models: the row it is, and its name there.

A name in a row's folder says which part the file plays, so an all-in-one file simply gets several names.
What is no row of the catalog but of use (anybody's LoRA, any ControlNet) keeps its own name in a folder
of its kind.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from backends.models_store.reading import Opened
from backends.models_store.scanning import tokenizer_files
from flux_core import catalog
from flux_core.catalog import ClipTextConfig, Kind, ModelSpec, PartSpec, T5Config
from flux_core.errors import RequestInvalid
from flux_core.weights.detect import Detected, FileKind

LIBRARY_FOLDERS = {
    FileKind.LORA: "loras",
    FileKind.CONTROLNET: "controlnets",
    FileKind.IP_ADAPTER: "ip_adapters",
}
"""Folders of files that are not rows of the catalog."""

_KINDS = {
    FileKind.LORA: Kind.LORA,
    FileKind.CONTROLNET: Kind.CONTROLNET,
    FileKind.IP_ADAPTER: Kind.IP_ADAPTER,
}
_SHARED_PARTS = {FileKind.T5: "t5", FileKind.CLIP: "clip", FileKind.AUTOENCODER: "autoencoder"}
_SHARD_FOLDERS = {
    FileKind.TRANSFORMER: "transformer",
    FileKind.AUTOENCODER: "vae",
    FileKind.T5: "text_encoder_2",
    FileKind.CLIP: "text_encoder",
    FileKind.SIGLIP: "image_encoder",
    FileKind.CLIP_VISION: "image_encoder",
}
_STORAGE_RANKS = {"bfloat16": 0, "float16": 0, "float32": 0, "fp8": 1, "ComfyUI": 2}

_VOCABULARIES = {
    "clip": (ClipTextConfig().vocab_size, ClipTextConfig().vocab_size),
    "t5": (32_000, T5Config().vocab_size),  # SentencePiece's own, and with the extra ids and padding
}
_MAX_TOKENIZER_BYTES = 50_000_000


@dataclass(frozen=True, slots=True)
class Placed:
    """A find with its places.

    Attributes:
        source: What the person sees: the file, or the folder of shards or of a tokenizer.
        title: What it is.
        row: Its row of the catalog, "" for the folders of a kind.
        places: (file, where it goes in the folder of models).
        slot: What only one find can be: a part of a row, whatever its file's ending.
        rank: Lower is better where two finds want the same slot.
    """

    source: Path
    title: str
    row: str
    places: tuple[tuple[Path, PurePosixPath], ...]
    slot: str
    rank: int = 0

    @property
    def is_tokenizer(self) -> bool:
        return self.slot != self.row and bool(self.row)


class NotPlaced(RequestInvalid):
    """It is known what the file is, but not where it should go."""


def place(opened: Opened, found: Detected, as_model: str | None) -> Placed:
    """Where a file or a folder of shards goes.

    Args:
        opened: Its files.
        found: What it is.
        as_model: The row that the person says it is, if they said so.

    Raises:
        NotPlaced: The question of what it is is open, or it fits no row.
    """
    row = _row(opened, found, as_model)
    if row is None:
        target = PurePosixPath(LIBRARY_FOLDERS[found.kind])
        names = [(file, target / file.name) for file in opened.files]
        if len(names) > 1:
            names = [(file, target / opened.path.name / file.name) for file in opened.files]
        return Placed(opened.path, found.title, "", tuple(names), slot=str(names[0][1]))
    places = _places(opened, found, catalog.find_row(row))
    return Placed(opened.path, found.title, row, tuple(places), slot=row, rank=_rank(opened, found))


def place_tokenizer(folder: Path, kind: str) -> Placed:
    """Where a tokenizer's folder goes.

    Raises:
        NotPlaced: It is damaged, or has the vocabulary of another model: its words would mean other things.
    """
    count = _num_tokens(folder, kind)
    fewest, most = _VOCABULARIES[kind]
    if not fewest <= count <= most:
        raise NotPlaced(
            f"{folder} is the tokenizer of another model: it knows {count} tokens and not {most}.",
            "Use the tokenizer of FLUX.1.",
        )
    row, name = ("clip-l", "tokenizer") if kind == "clip" else ("t5-xxl", "tokenizer_2")
    places = ((file, PurePosixPath(row, name, file.name)) for file in tokenizer_files(folder))
    return Placed(folder, f"{kind.upper()} tokenizer", row, tuple(places), slot=f"{row}/{name}")


def _num_tokens(folder: Path, kind: str) -> int:
    """Entries of a tokenizer's vocabulary."""
    file = folder / ("vocab.json" if kind == "clip" else "tokenizer.json")
    try:
        if file.stat().st_size > _MAX_TOKENIZER_BYTES:
            raise ValueError("too large")
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        return len(content if kind == "clip" else content["model"]["vocab"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise NotPlaced(f"{file} holds no vocabulary.", "Get the tokenizer again.") from None


def _row(opened: Opened, found: Detected, as_model: str | None) -> str | None:
    """The row; None for what goes to the folder of its kind."""
    name = opened.path.name
    if as_model is not None:
        _check_fits(name, found, as_model)
        return as_model
    if found.row is not None and not found.is_guess:
        return found.row
    if found.kind in LIBRARY_FOLDERS and (found.is_guess or not found.candidates):
        return None
    if found.question is not None:
        answers = " or ".join(f"--as {model}" for model in found.candidates)
        raise NotPlaced(f"{name}: {found.question}", f"Say which: flowbrush models import ... {answers}.")
    raise NotPlaced(
        f"{name} fits no model of the catalog. {' '.join(found.notes)}".strip(), "Use another file."
    )


def _check_fits(name: str, found: Detected, as_model: str) -> None:
    row = catalog.find_row(as_model)
    fits = as_model in found.allowed
    if not found.allowed or found.is_guess:
        fits = fits or _KINDS.get(found.kind) is row.kind
    if not fits:
        notes = f" {' '.join(found.notes)}" if found.notes else ""
        may = ", ".join(found.allowed)
        hint = f"It may be: {may}." if may else "Import it without --as."
        raise NotPlaced(f"{name} is not {row.title}, but: {found.title}.{notes}", hint)


def _places(opened: Opened, found: Detected, row: catalog.Row) -> list[tuple[Path, PurePosixPath]]:
    own = PurePosixPath(row.model)
    if len(opened.files) > 1:
        inside = own / _SHARD_FOLDERS.get(found.kind, ".")
        return [(file, inside / file.name) for file in opened.files]
    file = next(iter(opened.files))
    return [(file, own / _with_ending(name, file)) for name in _names(found, row)]


def _names(found: Detected, row: catalog.Row) -> list[str]:
    """The names that a single file gets in its row's folder, one for each part it plays."""
    if isinstance(row, ModelSpec):
        names = [row.files.transformer]
        names += [getattr(row.files, part) for kind, part in _SHARED_PARTS.items() if kind in found.parts]
        return names
    if found.kind in (FileKind.T5, FileKind.CLIP, FileKind.AUTOENCODER):
        return [getattr(catalog.DEV.files, _SHARED_PARTS[found.kind])]
    assert isinstance(row, PartSpec)
    return [row.weights]


def _with_ending(name: str, file: Path) -> str:
    return str(PurePosixPath(name).with_suffix(file.suffix.lower()))


def _rank(opened: Opened, found: Detected) -> int:
    """Plain numbers before quantised ones, the published spelling before others, one file before many."""
    word = found.storage.split(" ")[0].rstrip(",")
    storage = _STORAGE_RANKS.get(word, len(_STORAGE_RANKS))
    is_converted = found.naming.startswith(("diffusers", "MLX"))
    return 4 * storage + 2 * is_converted + (len(opened.files) > 1)
