"""The T5 v1.1 encoder, once for every backend: the prompt's words as a sequence of states.

FLUX.1 passes no attention mask: padding attends and is attended, so the padded length is part of
the meaning. There is no 1/sqrt(d) scaling, no position embedding and no bias in any linear layer.

Source: Raffel et al. 2020; Shazeer 2020 (gated GELU); transformers modeling_t5.py (key names).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.catalog import T5Config
from flux_core.ops import LeafFactory, Ops

RMS_EPS = 1e-6


class T5Encoder:
    """Token ids to states."""

    def __init__(self, ops: Ops, make: LeafFactory, config: T5Config, name: str = "") -> None:
        self.ops = ops
        self.shared = make.embedding(f"{name}shared", config.vocab_size, config.d_model)
        self.position_bias = make.embedding(
            f"{name}encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
            config.num_buckets,
            config.num_heads,
        )
        self.blocks = [
            T5Block(ops, make, f"{name}encoder.block.{i}", config) for i in range(config.num_layers)
        ]
        self.final_layer_norm = make.rms_norm(f"{name}encoder.final_layer_norm", config.d_model, RMS_EPS)

    def __call__(self, ids: Any, buckets: Any) -> Any:
        """Encodes.

        Args:
            ids: [B, L] token ids, padded.
            buckets: [L, L] integers from `relative_buckets`.

        Returns:
            [B, L, d_model] states after the final norm, padding included.
        """
        bias = self.ops.transpose(self.position_bias(buckets), (2, 0, 1))[None]  # [1, H, L, L]
        x = self.shared(ids)  # [B, L, d_model]
        for block in self.blocks:
            x = block(x, bias)
        return self.final_layer_norm(x)


class T5Block:
    """Pre-norm attention and pre-norm gated feed-forward."""

    def __init__(self, ops: Ops, make: LeafFactory, name: str, config: T5Config) -> None:
        inner = config.num_heads * config.d_kv
        attention, feed_forward = f"{name}.layer.0", f"{name}.layer.1"
        self.ops = ops
        self.num_heads = config.num_heads
        self.d_kv = config.d_kv
        self.norm1 = make.rms_norm(f"{attention}.layer_norm", config.d_model, RMS_EPS)
        self.q = make.linear(f"{attention}.SelfAttention.q", config.d_model, inner, bias=False)
        self.k = make.linear(f"{attention}.SelfAttention.k", config.d_model, inner, bias=False)
        self.v = make.linear(f"{attention}.SelfAttention.v", config.d_model, inner, bias=False)
        self.o = make.linear(f"{attention}.SelfAttention.o", inner, config.d_model, bias=False)
        self.norm2 = make.rms_norm(f"{feed_forward}.layer_norm", config.d_model, RMS_EPS)
        self.wi_0 = make.linear(
            f"{feed_forward}.DenseReluDense.wi_0", config.d_model, config.d_ff, bias=False
        )
        self.wi_1 = make.linear(
            f"{feed_forward}.DenseReluDense.wi_1", config.d_model, config.d_ff, bias=False
        )
        self.wo = make.linear(f"{feed_forward}.DenseReluDense.wo", config.d_ff, config.d_model, bias=False)

    def __call__(self, x: Any, bias: Any) -> Any:
        """x [B, L, d_model], bias [1, H, L, L] -> x, updated."""
        ops = self.ops
        h = self.norm1(x)
        batch, length, _ = h.shape
        q, k, v = (
            ops.transpose(f(h).reshape(batch, length, self.num_heads, self.d_kv), (0, 2, 1, 3))
            for f in (self.q, self.k, self.v)
        )
        x = x + self.o(ops.attention(q, k, v, scale=1.0, bias=bias))
        h = self.norm2(x)
        return x + self.wo(ops.gelu_gate(self.wi_0(h), self.wi_1(h)))


def relative_buckets(length: int, config: T5Config) -> NDArray[np.int32]:
    """Bucket of every (query, key) distance: half for each direction, exact when near, log-spaced when far.

    Returns:
        [length, length] integers in [0, num_buckets).

    Source: Raffel et al. 2020, transformers T5Attention._relative_position_bucket.
    """
    half = config.num_buckets // 2
    exact = half // 2
    relative = np.arange(1 - length, length)  # key - query, every one that there is
    distance = np.abs(relative)
    far = exact + (
        np.log(np.maximum(distance, 1) / exact) / np.log(config.max_distance / exact) * (half - exact)
    ).astype(np.int64)
    bucket = np.where(distance < exact, distance, np.minimum(far, half - 1))
    line = (bucket + np.where(relative > 0, half, 0)).astype(np.int32)
    return np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(line, length)[::-1])
