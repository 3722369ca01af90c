"""The operations on MLX arrays, for Metal and, with the same code, MLX's CPU device.

Every function follows flux_core.ops to the letter; MLX's fused kernels are used where they mean
exactly the same. MLX is lazy: nothing here waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from flux_core.ops import ComposedOps


class MlxOps(ComposedOps):
    """flux_core.ops.Ops on MLX."""

    def concat(self, arrays: Sequence[mx.array], axis: int) -> mx.array:
        return mx.concatenate(list(arrays), axis=axis)

    def split(self, x: mx.array, sizes: Sequence[int], axis: int) -> list[mx.array]:
        return list(mx.split(x, list(accumulate(sizes[:-1])), axis=axis))

    def transpose(self, x: mx.array, axes: Sequence[int]) -> mx.array:
        return mx.transpose(x, list(axes))

    def take_rows(self, x: mx.array, index: mx.array) -> mx.array:
        return x[mx.arange(x.shape[0]), index]

    def upsample_nearest(self, x: mx.array) -> mx.array:
        batch, height, width, channels = x.shape
        doubled = mx.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
        return doubled.reshape(batch, 2 * height, 2 * width, channels)

    def cast_like(self, x: mx.array, reference: mx.array) -> mx.array:
        return x.astype(reference.dtype)

    def silu(self, x: mx.array) -> mx.array:
        return nn.silu(x)

    def relu(self, x: mx.array) -> mx.array:
        return mx.maximum(x, 0)

    def tanh(self, x: mx.array) -> mx.array:
        return mx.tanh(x)

    def gelu_tanh(self, x: mx.array) -> mx.array:
        return nn.gelu_approx(x)

    def quick_gelu(self, x: mx.array) -> mx.array:
        return x * mx.sigmoid(1.702 * x)

    def gelu_gate(self, gate: mx.array, value: mx.array) -> mx.array:
        return nn.gelu_approx(gate) * value

    def sinusoid(
        self, s: mx.array, dim: int, max_period: float = 10_000.0, scale: float = 1000.0
    ) -> mx.array:
        half = dim // 2
        # 1000 s times a frequency is an angle of thousands, so its last bit is seen: the frequencies are
        # torch's (exponents in float32, exp rounded correctly), which MLX's own exp misses by a few ulp.
        exponents = -math.log(max_period) * (np.arange(half, dtype=np.float32) / half)
        frequencies = mx.array(np.exp(exponents.astype(np.float64)).astype(np.float32))
        angles = (scale * s.astype(mx.float32))[:, None] * frequencies[None]
        return mx.concatenate([mx.cos(angles), mx.sin(angles)], axis=-1)

    def modulated_norm(self, x: mx.array, shift: mx.array, scale: mx.array, eps: float) -> mx.array:
        return mx.fast.layer_norm(x, None, None, eps) * (1 + scale) + shift

    def qk_norm_rope(
        self, q: mx.array, k: mx.array, q_norm: Any, k_norm: Any, pe: mx.array
    ) -> tuple[mx.array, mx.array]:
        return rotate(q_norm(q), pe).astype(q.dtype), rotate(k_norm(k), pe).astype(k.dtype)

    def attention(
        self,
        q: mx.array,
        k: mx.array,
        v: mx.array,
        *,
        scale: float,
        bias: mx.array | None = None,
        is_causal: bool = False,
    ) -> mx.array:
        mask = "causal" if is_causal else None if bias is None else bias.astype(q.dtype)
        out = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
        batch, heads, length, dim = out.shape
        return out.transpose(0, 2, 1, 3).reshape(batch, length, heads * dim)

    def gated_add(self, x: mx.array, gate: mx.array, y: mx.array) -> mx.array:
        return x + gate * y


def rotate(x: mx.array, pe: mx.array) -> mx.array:
    """Rotates adjacent pairs of [B, H, L, D] by pe [L, D/2, 2]; float32 in, whatever x is, float32 out."""
    pairs = x.astype(mx.float32).reshape(*x.shape[:-1], -1, 2)  # [B, H, L, D/2, 2]
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = pe[..., 0], pe[..., 1]
    return mx.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(*x.shape)
