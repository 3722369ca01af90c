"""What the autoencoder asks of a GPU with triton: its blocks, its doubling, and attention of one wide head.

Where a kernel does not fit (another layout, gradients, an unknown leaf), the plain operation runs.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from backends.torch_cuda.kernels import image_moves, image_norm
from backends.torch_cuda.kernels.wide_attention import MAX_FUSED_DIM, wide_attention
from backends.torch_cuda.leaves import Conv2d, GroupNorm
from backends.torch_cuda.ops import TorchOps


class FusedImageOps(TorchOps):
    """The operations on images [B, H, W, C] that are worth a kernel, and attention as T5 and they have it."""

    _bias: tuple[weakref.ref[Tensor], Tensor] | None = None

    def norm_silu(self, x: Tensor, norm: Any) -> Tensor:
        if not _takes(norm, x):
            return super().norm_silu(x, norm)
        return image_norm.group_norm_silu(x, norm.weight, norm.bias, norm.groups, norm.eps)

    def res_block(self, x: Tensor, norm1: Any, conv1: Any, norm2: Any, conv2: Any, shortcut: Any) -> Tensor:
        convs = [conv1, conv2] if shortcut is None else [conv1, conv2, shortcut]
        if not _takes(norm1, x) or not all(_has_bias(conv) for conv in convs):
            return super().res_block(x, norm1, conv1, norm2, conv2, shortcut)
        h = conv1.without_bias(self.norm_silu(x, norm1))
        if not _takes(norm2, h):
            return super().res_block(x, norm1, conv1, norm2, conv2, shortcut)
        h = image_norm.group_norm_silu(h, norm2.weight, norm2.bias, norm2.groups, norm2.eps, conv1.bias)
        h = conv2.without_bias(h)
        if not image_moves.is_fit(h):
            return super().res_block(x, norm1, conv1, norm2, conv2, shortcut)
        if shortcut is None:
            return image_moves.add_bias(h, conv2.bias, x)
        return image_moves.add_bias(h, conv2.bias + shortcut.bias, shortcut.without_bias(x))

    def upsample_conv(self, x: Tensor, conv: Any) -> Tensor:
        if not _is_forward(x) or not image_moves.is_fit(x) or not _has_bias(conv):
            return super().upsample_conv(x, conv)
        out = conv.without_bias(image_moves.doubled(x))
        return (
            image_moves.add_bias(out, conv.bias) if image_moves.is_fit(out) else conv(image_moves.doubled(x))
        )

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
        if bias is not None and q.is_cuda:
            bias = self._laid_out(bias)
        is_wide = q.is_cuda and q.shape[-1] > MAX_FUSED_DIM and bias is None and not is_causal
        if not is_wide or not _is_forward(q):
            return super().attention(q, k, v, scale=scale, bias=bias, is_causal=is_causal)
        return wide_attention(q, k, v, scale).transpose(1, 2).flatten(2)

    def _laid_out(self, bias: Tensor) -> Tensor:
        """A bias as fused attention takes it; as T5's comes, torch would compute in float32, one kernel each.

        All layers of T5 share one bias, so its copy is kept as long as the bias itself is there.
        """
        if bias.is_contiguous():
            return bias
        kept = self._bias  # read once, because threads share it
        if kept is None or kept[0]() is not bias:
            kept = weakref.ref(bias, self._forget_bias), bias.contiguous()
            self._bias = kept
        return kept[1]

    def _forget_bias(self, reference: weakref.ref[Tensor]) -> None:
        if self._bias is not None and self._bias[0] is reference:
            self._bias = None


def _takes(norm: Any, x: Tensor) -> bool:
    """Whether a norm of x can run in the kernels."""
    return isinstance(norm, GroupNorm) and _is_forward(x) and image_norm.is_fit(x, norm.groups)


def _has_bias(conv: Any) -> bool:
    return isinstance(conv, Conv2d) and conv.bias is not None


def _is_forward(x: Tensor) -> bool:
    return not (torch.is_grad_enabled() and x.requires_grad)
