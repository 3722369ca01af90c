"""What a processor does faster than torch's separate operations: float32, without gradients.

A small model on two cores spends a third of a step outside its matrix products, in passes over memory and in
tanh. Here each fused operation makes as few passes as torch's own kernels allow, in place where the array is
its own; whatever else it is asked for (another dtype, training) it leaves to TorchOps.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from backends.torch_cuda.leaves import Linear
from backends.torch_cuda.ops import TorchOps
from flux_core.ops import HeadStream

_GELU_SLOPE = math.sqrt(8 / math.pi)
_GELU_CURVE = 0.044715 * _GELU_SLOPE

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether this torch multiplies with oneDNN, which not every build does, and names its fused products."""
GELU_IN_PRODUCTS = HAS_ONEDNN and torch.backends.cpu.get_cpu_capability() != "AVX2"
"""Whether GELU is part of a product. With AVX2 the two take a third longer so than one after the other."""

_CACHED_VALUES = 2**17  # half a megabyte, which threads share

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
_KEPT_FREE_BYTES = 256 * 2**20
_LARGEST_KEPT_BYTES = 32 * 2**20  # the most that glibc takes


class ProcessorOps(TorchOps):
    """TorchOps for arrays in a processor's memory."""

    def modulated_norm(self, x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
        if x.shape[0] != 1:
            return super().modulated_norm(x, shift, scale, eps)
        return functional.layer_norm(x, (x.shape[-1],), (1 + scale).flatten(), shift.flatten(), eps)

    def gated_add(self, x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
        return torch.addcmul(x, gate, y)

    def gelu_tanh(self, x: Tensor) -> Tensor:
        return _gelu(x, torch.empty_like(x)) if _is_plain(x) else super().gelu_tanh(x)

    def norm_silu(self, x: Tensor, norm: Any) -> Tensor:
        if torch.is_grad_enabled():
            return super().norm_silu(x, norm)
        return functional.silu(norm(x), inplace=True)

    def res_block(
        self, x: Tensor, norm1: Any, conv1: Any, norm2: Any, conv2: Any, shortcut: Any | None
    ) -> Tensor:
        if torch.is_grad_enabled():
            return super().res_block(x, norm1, conv1, norm2, conv2, shortcut)
        h = conv2(self.norm_silu(conv1(self.norm_silu(x, norm1)), norm2))
        return h.add_(x if shortcut is None else shortcut(x))

    def upsample_conv(self, x: Tensor, conv: Any) -> Tensor:
        """Four 2x2 convolutions of the small picture, one for each place in a doubled pixel.

        Where every pixel stands twice, two of three taps see the same one and add up to one tap: 4/9 of the
        products, and the large picture is written once.
        """
        if not _is_plain(x):
            return super().upsample_conv(x, conv)
        batch, height, width, _ = x.shape
        out = x.new_empty(batch, height, 2, width, 2, conv.weight.shape[0])
        pixels = x.permute(0, 3, 1, 2)
        for i, rows in enumerate(_merged(conv.weight, 2)):
            for j, taps in enumerate(_merged(rows, 3)):
                taps = taps.contiguous(memory_format=torch.channels_last)
                y = functional.conv2d(pixels, taps, conv.bias, padding=1)  # [B, C', H + 1, W + 1]
                out[:, :, i, :, j] = y[:, :, i : i + height, j : j + width].permute(0, 2, 3, 1)
        return out.reshape(batch, 2 * height, 2 * width, -1)

    def gated_mlp(
        self, x: Tensor, gate: Tensor, y: Tensor, shift: Tensor, scale: Tensor, eps: float, up: Any, down: Any
    ) -> tuple[Tensor, Tensor]:
        bare = _bare(up)
        if bare is None or not _is_plain(x):
            return super().gated_mlp(x, gate, y, shift, scale, eps, up, down)
        x = self.gated_add(x, gate, y)
        return x, down(_product_then_gelu(self.modulated_norm(x, shift, scale, eps), *bare))

    def parallel_mlp(
        self,
        x: Tensor,
        shift: Tensor,
        scale: Tensor,
        eps: float,
        linear1: Any,
        linear2: Any,
        attend: Callable[[Tensor], Tensor],
    ) -> Tensor:
        if not _is_plain(x):
            return super().parallel_mlp(x, shift, scale, eps, linear1, linear2, attend)
        dim = x.shape[2]
        h = self.modulated_norm(x, shift, scale, eps)
        bare1, bare2 = _bare(linear1), _bare(linear2)
        if bare1 is None or bare2 is None:
            h = linear1(h)  # [B, L, 3*D + N]
            joined = h.new_empty(*h.shape[:2], h.shape[2] - 2 * dim)  # [B, L, D + N]
            joined[..., :dim] = attend(h[..., : 3 * dim])
            _gelu(h[..., 3 * dim :], joined[..., dim:])
            return linear2(joined)
        # With weights cut in two nothing is joined, and GELU is no pass of its own.
        (weight1, bias1), (weight2, bias2) = bare1, bare2
        attn = attend(functional.linear(h, weight1[: 3 * dim], bias1[: 3 * dim]))
        mlp = _product_then_gelu(h, weight1[3 * dim :], bias1[3 * dim :])
        out = functional.linear(mlp, weight2[:, dim:], bias2)
        out.flatten(0, 1).addmm_(attn.flatten(0, 1), weight2[:, :dim].t())
        return out

    def joint_heads(
        self, streams: Sequence[HeadStream], num_heads: int, pe: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if not _is_plain(streams[0].qkv):
            return super().joint_heads(streams, num_heads, pe)
        split = [stream.qkv.unflatten(2, (3, num_heads, -1)) for stream in streams]  # [B, L, 3, H, D]
        batch, _, _, _, head_dim = split[0].shape
        length = sum(part.shape[1] for part in split)
        # Each head's rows one behind the other: attention reads them again and again, and each row of a
        # projection lies on a page of its own.
        out = split[0].new_empty(batch, 3, num_heads, length, head_dim)
        rows = out.permute(0, 3, 1, 2, 4)  # [B, L, 3, H, D]
        start = 0
        for stream, part in zip(streams, split, strict=True):
            end = start + part.shape[1]
            _normed(part[:, :, :2], stream, rows[:, start:end, :2])
            rows[:, start:end, 2] = part[:, :, 2]
            start = end
        # A pair times cos + i sin, as complex numbers, is the pair rotated.
        pairs = torch.view_as_complex(out[:, :2].unflatten(-1, (-1, 2)))  # [B, 2, H, L, D/2]
        pairs.mul_(torch.view_as_complex(pe))
        q, k, v = out.unbind(1)
        return q, k, v


def keep_freed_memory() -> None:
    """Lets this process keep what it frees, for its next arrays; does nothing without glibc.

    By default glibc gives every larger array back to the system, and the next one is paid for page by page: a
    twentieth of a step at 512 pixels.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_FREE_BYTES)


def _is_plain(x: Tensor) -> bool:
    return x.dtype is torch.float32 and not torch.is_grad_enabled()


def _gelu(x: Tensor, out: Tensor) -> Tensor:
    """gelu_tanh as x sigmoid(2 u), which is the same: torch's sigmoid takes a third of its tanh's time."""
    slope = x.new_full((), _GELU_SLOPE)
    rows, axis = max(_CACHED_VALUES // x.shape[-1], 1), max(x.ndim - 2, 0)
    # Five passes over what stays in a processor's cache meanwhile; over all of it each would fetch it anew.
    for some, there in zip(x.split(rows, axis), out.split(rows, axis), strict=True):
        torch.mul(some, some, out=there)
        torch.add(slope, there, alpha=_GELU_CURVE, out=there).mul_(some).sigmoid_().mul_(some)
    return out


def _merged(taps: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Three taps along an axis, as two: of the first place in a doubled pixel, and of the second."""
    before, at, after = taps.unbind(axis)
    return torch.stack([before, at + after], axis), torch.stack([before + at, after], axis)


def _normed(qk: Tensor, stream: HeadStream, out: Tensor) -> None:
    """RMS-norms [B, L, 2, H, D], queries and keys, by the stream's leaves."""
    gains = torch.stack([stream.q_norm.gain, stream.k_norm.gain])  # [2, D]
    square = torch.linalg.vector_norm(qk, dim=-1, keepdim=True).square_()
    torch.mul(qk, gains[:, None], out=out)
    out.mul_(square.div_(qk.shape[-1]).add_(stream.q_norm.eps).rsqrt_())


def _bare(linear: Any) -> tuple[Tensor, Tensor] | None:
    """Weight and bias of a leaf that is nothing more; None of any other."""
    if type(linear) is not Linear or linear.adapters or linear.bias is None:
        return None
    return linear.weight_in(torch.float32), linear.bias


def _product_then_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """gelu_tanh(x @ weight^T + bias); oneDNN can apply the GELU where the product leaves its registers."""
    if not GELU_IN_PRODUCTS:
        y = functional.linear(x, weight, bias)
        return _gelu(y, torch.empty_like(y))
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "tanh")
