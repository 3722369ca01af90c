"""Blocks that leave their sums to the next block give what blocks give that add them up themselves."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from flux_core.catalog import TransformerConfig
from flux_core.conditioning.packing import position_ids, rotary_table
from flux_core.models.transformer import ImagePrompt, Residuals, Transformer
from flux_core.ops import Sum
from flux_core.weights.expected import Recorder
from tests.support.numerics import ArraySource, random_weights
from tests.support.oracle import OracleLeaves, OracleOps

CONFIG = TransformerConfig(
    hidden_size=32, num_heads=2, depth=3, depth_single=3, mlp_hidden=48, context_in_dim=20, vec_in_dim=12,
    axes_dim=(4, 6, 6), has_guidance=False,
)  # fmt: skip


class LateOps(OracleOps):
    """Adds late, and knows how often a sum was added up by nobody's norm."""

    def __init__(self) -> None:
        self.num_sums = 0
        self.num_late = 0

    @property
    def adds_late(self) -> bool:
        return True

    def gated_add(self, x: Any, gate: Any, y: Any) -> Any:
        self.num_sums += 1
        return super().gated_add(x, gate, y)

    def gated_parallel_mlp(self, *args: Any, **kwargs: Any) -> Any:
        self.num_late += 1
        return super().gated_parallel_mlp(*args, **kwargs)

    def modulated_linears(self, streams: Any, eps: float) -> Any:
        self.num_late += sum(isinstance(each.x, Sum) and each.x.y is not None for each in streams)
        return super().modulated_linears(streams, eps)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def velocity(ops: OracleOps, told: dict[str, Any], is_wrapped: bool = False) -> np.ndarray:
    recorder = Recorder()
    Transformer(ops, recorder, CONFIG)
    model = Transformer(ops, OracleLeaves(ArraySource(random_weights(recorder.shapes))), CONFIG)
    if is_wrapped:  # as training wraps them
        for kind in ("double_blocks", "single_blocks"):
            setattr(
                model,
                kind,
                [functools.partial(type(block).__call__, block) for block in getattr(model, kind)],
            )
    pe = rotary_table(position_ids(3, 4, 6), CONFIG.axes_dim, CONFIG.theta)
    inputs = normal(2, 6, 64), normal(2, 3, 20), normal(2, 12), np.array([1.0, 0.3]), None, pe
    return model(*inputs, **told)


TOLD: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a ControlNet": {
        "residuals": [Residuals([normal(2, 4, 32)], [normal(2, 6, 32, seed=1), normal(2, 6, 32, seed=2)])]
    },
    "pictures": {
        "image_prompts": [
            [ImagePrompt(normal(2, 2, 5, 16, seed=i), normal(2, 2, 5, 16, seed=9 + i), 0.7) for i in range(3)]
        ]
        * 2
    },
}


@pytest.mark.parametrize("told", list(TOLD.values()), ids=list(TOLD))
@pytest.mark.parametrize("is_wrapped", [False, True], ids=["", "wrapped"])
def test_late_sums_are_the_same_sums(told: dict[str, Any], is_wrapped: bool) -> None:
    assert np.array_equal(velocity(LateOps(), told, is_wrapped), velocity(OracleOps(), told))


def test_a_block_adds_up_what_the_one_before_left() -> None:
    ops = LateOps()
    velocity(ops, {})
    # Both streams of the last of three double blocks and two of three single blocks: the first double block
    # adds up for the step cache, and between the kinds both streams are joined.
    assert ops.num_late == 2 + 2
