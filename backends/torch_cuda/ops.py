"""The operations on torch tensors, for CPU and CUDA alike.

Every function follows flux_core.ops to the letter; where torch has a fused kernel it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from backends.torch_cuda.codes import PlainCoder
from backends.torch_cuda.eight_bit_attention import attended, takes_codes
from flux_core.ops import ComposedOps, HeadStream


def nothing() -> None:
    """What is to be computed where there is nothing to be computed."""


class TorchOps(PlainCoder, ComposedOps):
    """flux_core.ops.Ops on torch, and what products in eight-bit floats need beside it."""

    def concat(self, arrays: Sequence[Tensor], axis: int) -> Tensor:
        return torch.cat(list(arrays), dim=axis)

    def split(self, x: Tensor, sizes: Sequence[int], axis: int) -> list[Tensor]:
        return list(torch.split(x, list(sizes), dim=axis))

    def transpose(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        return x.permute(*axes)

    def take_rows(self, x: Tensor, index: Tensor) -> Tensor:
        return x[torch.arange(x.shape[0], device=x.device), index.long()]

    def upsample_nearest(self, x: Tensor) -> Tensor:
        out = functional.interpolate(x.permute(0, 3, 1, 2), scale_factor=2.0, mode="nearest")
        return out.permute(0, 2, 3, 1)

    def cast_like(self, x: Tensor, reference: Tensor) -> Tensor:
        return x.to(reference.dtype)

    def silu(self, x: Tensor) -> Tensor:
        return functional.silu(x)

    def relu(self, x: Tensor) -> Tensor:
        return functional.relu(x)

    def tanh(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def gelu_tanh(self, x: Tensor) -> Tensor:
        return functional.gelu(x, approximate="tanh")

    def quick_gelu(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)

    def gelu_gate(self, gate: Tensor, value: Tensor) -> Tensor:
        return functional.gelu(gate, approximate="tanh") * value

    def sinusoid(self, s: Tensor, dim: int, max_period: float = 10_000.0, scale: float = 1000.0) -> Tensor:
        half = dim // 2
        exponents = torch.arange(half, dtype=torch.float32, device=s.device) / half
        angles = (scale * s.float())[:, None] * torch.exp(-math.log(max_period) * exponents)[None]
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    def modulated_norm(self, x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
        return functional.layer_norm(x, (x.shape[-1],), eps=eps) * (1 + scale) + shift

    def qk_norm_rope(
        self, q: Tensor, k: Tensor, q_norm: Any, k_norm: Any, pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        return rotate(q_norm(q), pe).to(q.dtype), rotate(k_norm(k), pe).to(k.dtype)

    @property
    def attends_elsewhere(self) -> bool:
        """Whether attention waits for other devices, so that something else is worth doing meanwhile."""
        return False

    def attended(
        self,
        attend: Callable[[Any], Any],
        qkv: Tensor,
        beside: Callable[[], None],
        behind: Callable[[], None] = nothing,
    ) -> Tensor:
        """attend(qkv), with two things to be computed, one after the other, while it waits."""
        beside()
        behind()
        return attend(qkv)

    def heads_by_rank(
        self, streams: Sequence[HeadStream], num_heads: int, pe: Tensor, rows: Tensor, rank: int
    ) -> None:
        """Writes the q, k and v of `joint_heads` by the ranks that attend with their heads (split/ops.py).

        Args:
            streams: As for joint_heads, of a batch of one; L are all tokens of this rank.
            num_heads: As for joint_heads.
            pe: As for joint_heads.
            rows: [N*L or more, 3, H/N, D]; rank by rank, but this rank's behind the others'.
            rank: This one.
        """
        heads = rows.shape[2]
        parts = ComposedOps.joint_heads(self, streams, num_heads, pe)  # 3 x [1, H, L, D]
        by_rank = torch.stack([part[0] for part in parts]).unflatten(1, (-1, heads)).permute(1, 3, 0, 2, 4)
        order = [other for other in range(len(by_rank)) if other != rank]
        for place, other in enumerate([*order, rank]):
            rows[place * pe.shape[0] :][: pe.shape[0]] = by_rank[other]

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float,
        bias: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        if bias is not None:
            bias = bias.to(q.dtype)
        out = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, is_causal=is_causal, scale=scale
        )
        return out.transpose(1, 2).flatten(2)

    def joint_attention(
        self,
        streams: Sequence[HeadStream],
        num_heads: int,
        pe: Tensor,
        *,
        scale: float,
        bias: Tensor | None = None,
    ) -> Tensor:
        if bias is not None or not takes_codes(streams):
            return super().joint_attention(streams, num_heads, pe, scale=scale, bias=bias)
        return attended(*self.joint_heads(streams, num_heads, pe), scale)

    def gated_add(self, x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
        return x + gate * y


def rotate(x: Tensor, pe: Tensor) -> Tensor:
    """Rotates adjacent pairs of [B, H, L, D] by pe [L, D/2, 2] in float32."""
    pairs = x.float().unflatten(-1, (-1, 2))  # [B, H, L, D/2, 2]
    even, odd = pairs.unbind(-1)
    cos, sin = pe[..., 0], pe[..., 1]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
