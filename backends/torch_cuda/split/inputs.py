"""What an evaluation is given, and how a follower is told its structure; the arrays are broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backends.torch_cuda.recording import shape_of, with_arrays
from flux_core.models.transformer import ImagePrompt, Residuals


class Inputs(NamedTuple):
    """As `Transformer.modulated` takes it, whole, on every rank, for a batch of one.

    Attributes:
        img: [1, L_img, C].
        txt: [1, L_txt, D].
        rows: [1, M, D] modulations.
        pe: [L_txt + L_img, D/2, 2] float32.
    """

    img: Tensor
    txt: Tensor
    rows: Tensor
    pe: Tensor
    residuals: Sequence[Residuals] = ()
    image_prompts: Sequence[Sequence[ImagePrompt]] = ()
    bias: Tensor | None = None

    @property
    def arrays(self) -> list[Tensor]:
        """All of them, always in the same order."""
        found: list[Tensor] = []
        shape_of(self, found)
        return found

    def of(self, arrays: Sequence[Tensor]) -> Inputs:
        """The same structure of other arrays."""
        return with_arrays(self, iter(arrays))


_KNOWN: dict[str, Any] = {kind.__name__: kind for kind in (Inputs, Residuals, ImagePrompt)}


def described(value: Any) -> Any:
    """Inputs, or a part of them, as JSON can tell it: with shapes in place of arrays."""
    match value:
        case Tensor():
            return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        case tuple() if type(value).__name__ in _KNOWN:
            return {"kind": type(value).__name__, "fields": [described(each) for each in value]}
        case tuple() | list():
            return [described(each) for each in value]
        case _:
            return value


def built(description: Any, device: torch.device) -> Any:
    """What was described, with arrays whose values are still to come."""
    match description:
        case {"shape": shape, "dtype": dtype}:
            return torch.empty(shape, dtype=getattr(torch, dtype), device=device)
        case {"kind": kind, "fields": fields}:
            return _KNOWN[kind](*(built(each, device) for each in fields))
        case list():
            return tuple(built(each, device) for each in description)
        case _:
            return description
