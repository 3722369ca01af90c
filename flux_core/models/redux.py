"""The Redux adapter, once for every backend: a picture's states become text tokens.

What it makes is appended to the T5 states, so that the transformer reads the picture as if it had been
described. Key names are the published file's.

Source: black-forest-labs/flux modules/image_embedders.py; diffusers ReduxImageEncoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flux_core.catalog import ReduxConfig
from flux_core.ops import LeafFactory, Ops
from flux_core.weights.tensors import TensorInfo


class Redux:
    """Two linears with a SiLU between."""

    def __init__(self, ops: Ops, make: LeafFactory, config: ReduxConfig, name: str = "") -> None:
        hidden = 3 * config.context_in_dim
        self.ops = ops
        self.redux_up = make.linear(f"{name}redux_up", config.image_dim, hidden)
        self.redux_down = make.linear(f"{name}redux_down", hidden, config.context_in_dim)

    def __call__(self, states: Any) -> Any:
        """SigLIP states [B, N, image_dim] -> text tokens [B, N, context_in_dim]."""
        return self.redux_down(self.ops.silu(self.redux_up(states)))


def redux_config(names: Mapping[str, TensorInfo]) -> ReduxConfig:
    """The configuration that a file's shapes tell.

    Raises:
        KeyError: A tensor that every Redux has is missing.
    """
    return ReduxConfig(
        image_dim=names["redux_up.weight"].shape[1], context_in_dim=names["redux_down.weight"].shape[0]
    )
