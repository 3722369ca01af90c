"""Says what files are, without loading a tensor: one file, a folder of shards, or everything in a folder."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.models_store.reading import Opened, open_any
from backends.models_store.scanning import scan
from flux_core.errors import FluxError, RequestInvalid
from flux_core.weights.detect import Detected, describe, detect, num_parameters


@dataclass(frozen=True, slots=True)
class Inspection:
    """What one file or folder of shards is.

    Attributes:
        path: The file, or the folder of the shards.
        found: What it is; None if it was refused.
        problem: Why it was refused.
        hint: What to do about that.
        dtypes: Tensors by dtype, the most frequent first.
    """

    path: Path
    found: Detected | None = None
    problem: str = ""
    hint: str = ""
    size_bytes: int = 0
    num_tensors: int = 0
    num_parameters: int = 0
    dtypes: dict[str, int] = field(default_factory=dict[str, int])

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        found = self.found
        facts: dict[str, Any] = {"path": str(self.path), "size_bytes": self.size_bytes}
        if found is None:
            return {**facts, "problem": self.problem, "hint": self.hint}
        return {
            **facts,
            "kind": found.kind.value,
            "title": found.title,
            "naming": found.naming,
            "storage": found.storage,
            "parts": [part.value for part in found.parts],
            "double_blocks": found.num_double,
            "single_blocks": found.num_single,
            "candidates": list(found.candidates),
            "settled_by": found.settled_by,
            "question": found.question,
            "notes": list(found.notes),
            "tensors": self.num_tensors,
            "parameters": self.num_parameters,
            "dtypes": self.dtypes,
        }

    def lines(self) -> list[str]:
        """For people."""
        if self.found is None:
            return [str(self.path), f"  {self.problem} {self.hint}".rstrip()]
        dtypes = ", ".join(f"{count} {dtype}" for dtype, count in self.dtypes.items())
        numbers = f"{self.num_tensors} tensors ({dtypes}), {self.num_parameters:,} parameters"
        sentences = [f"  {sentence}" for sentence in describe(self.found)]
        return [str(self.path), *sentences, f"  {numbers}, {self.size_bytes / 1e6:,.1f} MB."]


def inspect(path: Path, sha256: str = "") -> Inspection:
    """What a file, an index or a folder of shards is.

    Args:
        path: Where it lies.
        sha256: Of the file, if known; it may answer what tensors cannot.

    Raises:
        ModelMissing: There is no such file.
        Corrupt: It is damaged.
        RequestInvalid: It is a pickle, another family's, or nothing that is known.
    """
    opened = open_any(path)
    return inspection_of(opened, detect(opened.names, str(path), opened.metadata, sha256=sha256))


def inspection_of(opened: Opened, found: Detected) -> Inspection:
    """The numbers of an opened file beside what it was found to be."""
    dtypes = Counter(info.dtype for info in opened.names.values())
    return Inspection(
        opened.path,
        found,
        size_bytes=opened.size_bytes,
        num_tensors=len(opened.names),
        num_parameters=num_parameters(opened.names),
        dtypes=dict(dtypes.most_common()),
    )


def inspect_all(path: Path) -> list[Inspection]:
    """What a file is, or everything in a folder; in a folder a refusal is a find like any other.

    Raises:
        FluxError: As `inspect`, for a file; for a folder RequestInvalid if it holds no weights at all.
    """
    if not path.is_dir():
        return [inspect(path)]
    found = [_inspect_quietly(find.path, find.problem) for find in scan(path) if not find.tokenizer]
    if not found:
        raise RequestInvalid(f"{path} holds no weights.", "Choose a .safetensors file or a folder of them.")
    return found


def _inspect_quietly(path: Path, problem: str) -> Inspection:
    if problem:
        return Inspection(path, problem=problem)
    try:
        return inspect(path)
    except FluxError as err:
        return Inspection(path, problem=err.message, hint=err.hint)
