"""What the autoencoder asks of a GPU with triton: norms with their activation, and attention of one wide head.

Where a kernel does not fit (another layout, gradients), the plain operation runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backends.torch_cuda.kernels.image_norm import group_norm_silu, is_fit
from backends.torch_cuda.kernels.wide_attention import MAX_FUSED_DIM, wide_attention
from backends.torch_cuda.leaves import GroupNorm
from backends.torch_cuda.ops import TorchOps


class FusedImageOps(TorchOps):
    """The operations on images [B, H, W, C] that are worth a kernel."""

    def norm_silu(self, x: Tensor, norm: Any) -> Tensor:
        if not isinstance(norm, GroupNorm) or not _is_forward(x) or not is_fit(x, norm.groups):
            return super().norm_silu(x, norm)
        return group_norm_silu(x, norm.weight, norm.bias, norm.groups, norm.eps)

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
        is_wide = q.is_cuda and q.shape[-1] > MAX_FUSED_DIM and bias is None and not is_causal
        if not is_wide or not _is_forward(q):
            return super().attention(q, k, v, scale=scale, bias=bias, is_causal=is_causal)
        return wide_attention(q, k, v, scale).transpose(1, 2).flatten(2)


def _is_forward(x: Tensor) -> bool:
    return not (torch.is_grad_enabled() and x.requires_grad)
