"""Which tensors a model asks for, found by building it with a factory that only takes notes.

No framework and no weights are needed, so a file can be checked before a byte of it is loaded, and
everything that is missing, unexpected or of the wrong shape comes in one error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from flux_core.errors import Corrupt
from flux_core.ops import LeafFactory, Padding
from flux_core.weights.json_cursor import shown
from flux_core.weights.tensors import TensorInfo

_SHOWN = 8

Shape = tuple[int, ...]
Build = Callable[[Any, LeafFactory], Any]
"""(ops, make) -> a model."""


def expected_shapes(*builds: Build) -> dict[str, Shape]:
    """Every tensor that the models ask for, with its shape, in order."""
    recorder = Recorder()
    for build in builds:
        build(None, recorder)
    return recorder.shapes


class Recorder:
    """A LeafFactory whose leaves are None.

    Attributes:
        shapes: Checkpoint name -> shape of everything asked for.
    """

    def __init__(self) -> None:
        self.shapes: dict[str, Shape] = {}

    def linear(self, name: str, in_dim: int, out_dim: int, bias: bool = True) -> None:
        self.shapes[f"{name}.weight"] = (out_dim, in_dim)
        if bias:
            self.shapes[f"{name}.bias"] = (out_dim,)

    def conv2d(
        self,
        name: str,
        in_dim: int,
        out_dim: int,
        kernel: int,
        stride: int = 1,
        padding: Padding = (0, 0),
        bias: bool = True,
    ) -> None:
        self.shapes[f"{name}.weight"] = (out_dim, in_dim, kernel, kernel)
        if bias:
            self.shapes[f"{name}.bias"] = (out_dim,)

    def rms_norm(self, name: str, dim: int, eps: float, key: str = "weight") -> None:
        self.shapes[f"{name}.{key}"] = (dim,)

    def layer_norm(self, name: str, dim: int, eps: float) -> None:
        self.shapes[f"{name}.weight"] = (dim,)
        self.shapes[f"{name}.bias"] = (dim,)

    def group_norm(self, name: str, groups: int, dim: int, eps: float) -> None:
        self.layer_norm(name, dim, eps)

    def embedding(self, name: str, rows: int, dim: int) -> None:
        self.shapes[f"{name}.weight"] = (rows, dim)

    def parameter(self, name: str, shape: Shape) -> None:
        self.shapes[name] = shape


def check_strict(expected: Mapping[str, Shape], found: Mapping[str, TensorInfo], what: str | Path) -> None:
    """Makes sure that a file holds exactly what a model asks for.

    Args:
        expected: From `expected_shapes`.
        found: `names()` of a source.
        what: The file, for the message.

    Raises:
        Corrupt: Lists the missing, unexpected and wrong-shaped tensors, the first few of each by name.
    """
    missing = [shown(name) for name in expected if name not in found]
    unexpected = [shown(name) for name in found if name not in expected]
    misshapen = [
        f"{shown(name)} is {list(found[name].shape)} and should be {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    faults = [
        f"{len(items)} {label} ({_listed(items)})"
        for label, items in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of the wrong shape", misshapen),
        )
        if items
    ]
    if faults:
        raise Corrupt(
            f"{what} does not fit this model: of {len(expected)} tensors, {'; '.join(faults)}.",
            "Choose the file of this very model, or the model of this file.",
        )


def _listed(items: Iterable[str]) -> str:
    shown_items = list(items)
    rest = len(shown_items) - _SHOWN
    return ", ".join(shown_items[:_SHOWN]) + (f", and {rest} more" if rest > 0 else "")
