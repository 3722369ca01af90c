"""The families of helpers, by the model_type that their config.json says.

A family is one module with `load`; its module is imported when a helper of it is asked for. Another
checkpoint of a family needs a row of the catalog only, another family a file here and a row below.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from backends.torch_cuda.vision.pictures import Pixels
from flux_core.catalog.helpers import words
from flux_core.errors import RequestInvalid
from flux_core.looking import Finding, Look, LookKind


class Looked(NamedTuple):
    """What a look gave.

    Attributes:
        findings: In the pictures' order.
        pictures: Masks and depth maps, [H, W] uint8 each, which findings name by their place.
    """

    findings: tuple[Finding, ...]
    pictures: tuple[Pixels, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """What a helper is loaded from.

    Attributes:
        model: Its id, which its findings carry.
        title: For people.
        folder: Of its files.
        config: Its config.json.
        device: That computes.
    """

    model: str
    title: str
    folder: Path
    config: dict[str, Any]
    device: torch.device


class Helper(Protocol):
    """A loaded helper."""

    def look(self, look: Look, images: Sequence[Pixels], on_progress: Callable[[float], None]) -> Looked:
        """Answers a look of a kind that the family does.

        Args:
            look: What is asked.
            images: [H, W, 4] straight RGBA each, as many as the look takes.
            on_progress: Told which part of the work, in [0, 1], is done; raises Cancelled to stop it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Family:
    """A row.

    Attributes:
        model_types: As config.json says.
        module: That has `load(source: Source) -> Helper`.
        kinds: What its helpers can do.
    """

    model_types: tuple[str, ...]
    module: str
    kinds: tuple[LookKind, ...]

    def load(self, source: Source) -> Helper:
        """Reads the helper into memory."""
        helper: Helper = importlib.import_module(self.module).load(source)
        return helper


_HERE = "backends.torch_cuda.vision"
FAMILIES = (
    Family(
        ("florence2",),
        f"{_HERE}.florence2",
        (LookKind.CAPTION, LookKind.GROUND, LookKind.SEGMENT_PHRASE),
    ),
    Family(("llava",), f"{_HERE}.llava", (LookKind.DESCRIBE,)),
    Family(("phi4_multimodal",), f"{_HERE}.phi4", (LookKind.DESCRIBE,)),
    Family(("clip",), f"{_HERE}.clip", (LookKind.SCORE, LookKind.EMBED)),
    Family(("sam2", "sam2_video"), f"{_HERE}.sam2", (LookKind.SEGMENT_POINTS,)),
    Family(("depth_anything",), f"{_HERE}.depth_anything", (LookKind.DEPTH,)),
    Family(("depth_pro",), f"{_HERE}.depth_pro", (LookKind.DEPTH,)),
)


def family_of(title: str, model_type: object, kind: LookKind) -> Family:
    """The family of a model that config.json names.

    Raises:
        RequestInvalid: It is no helper known here, or does not do this kind of look.
    """
    family = next((row for row in FAMILIES if model_type in row.model_types), None)
    if family is None:
        known = ", ".join(name for row in FAMILIES for name in row.model_types)
        raise RequestInvalid(
            f"{title} is a model of the type {str(model_type)[:40]!r}, which is no helper known here.",
            f"Known types: {known}.",
        )
    if kind not in family.kinds:
        can = ", ".join(map(words, family.kinds))
        raise RequestInvalid(f"{title} cannot do {words(kind)}.", f"It can do {can}.")
    return family
