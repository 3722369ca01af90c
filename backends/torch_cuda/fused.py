"""The operations on a GPU with triton: what lies between large products is one pass over memory.

A fused operation asks its leaf which forms of the input it takes, makes them in the pass that it makes
anyway, and hands them over; with gradients, other layouts or leaves that it does not know, the plain
operation runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from backends.torch_cuda.codes import Coded
from backends.torch_cuda.eight_bit import EightBitLinear
from backends.torch_cuda.eight_bit_attention import takes_codes
from backends.torch_cuda.fused_images import FusedImageOps
from backends.torch_cuda.kernels.coded_attention import coded_attention
from backends.torch_cuda.kernels.coded_heads import coded_heads, is_fit
from backends.torch_cuda.kernels.heads import Projected, heads_by_rank, joint_heads
from backends.torch_cuda.kernels.rows import (
    Forms,
    Rows,
    activated,
    gated_add,
    gated_modulated,
    modulated,
)
from backends.torch_cuda.kernels.tails import project
from backends.torch_cuda.leaves import Linear, RMSNorm
from backends.torch_cuda.offload.stream import StreamedWeight
from flux_core.ops import HeadStream, Modulated, Sum

_ATTENTION_ORDER = [
    kernel.value
    for kernel in (
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
        SDPBackend.OVERRIDEABLE,
    )
]


class FusedOps(FusedImageOps):
    """flux_core.ops.Ops on torch with Triton's kernels.

    All attention of the process prefers cuDNN's from then on. The order is the process's, so a thread that
    set it around its own call could make another thread's call choose another kernel, with other bits.
    """

    def __init__(self) -> None:
        super().__init__()
        torch._C._set_sdp_priority_order(_ATTENTION_ORDER)  # what sdpa_kernel(..., set_priority=True) calls

    def code(self, x: Tensor, tail: int = 0) -> Coded:
        if not _is_plain_call(x):
            return super().code(x, tail)
        rows = activated(x, None, Forms(plain=False, codes=True, tail=tail))
        assert rows.codes is not None
        assert rows.scales is not None
        return rows.codes, rows.scales

    def project(self, codes: Tensor, scales: Tensor, down: Tensor, gains: Tensor, arrivals: Tensor) -> None:
        project(codes, scales, down, gains, arrivals)

    def modulated_norm(self, x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
        if not _is_plain_call(x):
            return super().modulated_norm(x, shift, scale, eps)
        return _plain(modulated(x, shift, scale, eps, Forms()))

    def gated_add(self, x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
        if not _is_plain_call(x):
            return super().gated_add(x, gate, y)
        return gated_add(x, gate, y)

    def modulated_linear(self, x: Tensor, shift: Tensor, scale: Tensor, eps: float, linear: Any) -> Tensor:
        if not _is_plain_call(x):
            return super().modulated_linear(x, shift, scale, eps, linear)
        return _applied(linear, modulated(x, shift, scale, eps, _forms(linear)), x.dtype)

    @property
    def adds_late(self) -> bool:
        return not torch.is_grad_enabled()

    def modulated_linears(self, streams: Sequence[Modulated], eps: float) -> list[tuple[Tensor, Tensor]]:
        if torch.is_grad_enabled():
            return super().modulated_linears(streams, eps)
        made = [_added_and_modulated(each, eps) for each in streams]
        linears = [each.linear for each in streams]
        outs = _products_side_by_side(linears, [rows for _, rows in made])
        if outs is None:
            outs = [_applied(linear, rows, x.dtype) for linear, (x, rows) in zip(linears, made, strict=True)]
        return [(x, out) for (x, _), out in zip(made, outs, strict=True)]

    def gated_mlp(
        self, x: Tensor, gate: Tensor, y: Tensor, shift: Tensor, scale: Tensor, eps: float, up: Any, down: Any
    ) -> tuple[Tensor, Tensor]:
        if not _is_plain_call(x):
            return super().gated_mlp(x, gate, y, shift, scale, eps, up, down)
        out, rows = gated_modulated(x, gate, y, shift, scale, eps, _forms(up))
        bare = _bare(up)
        if bare is not None and not isinstance(down, EightBitLinear):
            return out, down(_product_then_gelu(_plain(rows), *bare))
        inner = _applied(up, rows, x.dtype)
        return out, _applied(down, activated(None, inner, _forms(down)), x.dtype)

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
        if not _is_plain_call(x):
            return super().parallel_mlp(x, shift, scale, eps, linear1, linear2, attend)
        return self._parallel(modulated(x, shift, scale, eps, _forms(linear1)), x, linear1, linear2, attend)

    def gated_parallel_mlp(
        self,
        x: Tensor,
        gate: Tensor,
        y: Tensor,
        shift: Tensor,
        scale: Tensor,
        eps: float,
        linear1: Any,
        linear2: Any,
        attend: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        if not _is_plain_call(x):
            return super().gated_parallel_mlp(x, gate, y, shift, scale, eps, linear1, linear2, attend)
        x, rows = gated_modulated(x, gate, y, shift, scale, eps, _forms(linear1))
        return x, self._parallel(rows, x, linear1, linear2, attend)

    def joint_attention(
        self,
        streams: Sequence[HeadStream],
        num_heads: int,
        pe: Tensor,
        *,
        scale: float,
        bias: Tensor | None = None,
    ) -> Tensor:
        qkv = streams[0].qkv
        if not qkv.is_cuda or bias is not None or not takes_codes(streams):
            return super().joint_attention(streams, num_heads, pe, scale=scale, bias=bias)
        projected = _projected(streams, num_heads)
        if projected is None or not is_fit(projected, num_heads):
            return self.attention(*self.joint_heads(streams, num_heads, pe), scale=scale)
        return coded_attention(coded_heads(projected, num_heads, pe.contiguous(), scale))

    def _parallel(
        self, rows: Rows, x: Tensor, linear1: Any, linear2: Any, attend: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """`parallel_mlp` of an x [B, L, D] whose modulated norm has been made."""
        dim = x.shape[2]
        bare1, bare2 = _bare(linear1), _bare(linear2)
        if bare1 is not None and bare2 is not None:
            return self._parallel_in_parts(_plain(rows), dim, bare1, bare2, attend)
        if self.attends_elsewhere and rows.codes is not None and not linear1.adapters:
            return self._parallel_in_codes(rows, 3 * dim, linear1, linear2, attend, x.dtype)
        h = _applied(linear1, rows, x.dtype)
        attn = attend(h[..., : 3 * dim])
        return _applied(linear2, activated(attn, h[..., 3 * dim :], _forms(linear2)), x.dtype)

    def _parallel_in_parts(
        self,
        h: Tensor,
        dim: int,
        linear1: tuple[Tensor, Tensor],
        linear2: tuple[Tensor, Tensor],
        attend: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """`parallel_mlp` with weights cut in two, so that nothing is concatenated and GELU costs no pass."""
        (weight1, bias1), (weight2, bias2) = linear1, linear2
        made: list[Tensor] = []

        def up() -> None:
            made.append(_product_then_gelu(h, weight1[3 * dim :], bias1[3 * dim :]))

        def down() -> None:
            made.append(torch.addmm(bias2, made.pop().flatten(0, 1), weight2[:, dim:].t()))

        qkv = torch.nn.functional.linear(h, weight1[: 3 * dim], bias1[: 3 * dim])
        attn = self.attended(attend, qkv, up, down)
        out = made.pop().addmm_(attn.flatten(0, 1), weight2[:, :dim].t())
        return out.unflatten(0, h.shape[:2])

    def _parallel_in_codes(
        self,
        rows: Rows,
        width: int,
        linear1: Any,
        linear2: Any,
        attend: Callable[[Tensor], Tensor],
        dtype: torch.dtype,
    ) -> Tensor:
        """`parallel_mlp` with the first product cut in two, so that attention can begin with half of it."""
        made: list[Tensor] = []

        def up() -> None:
            made.append(linear1.multiplied(rows.codes, rows.scales, dtype, slice(width, None)))

        qkv = linear1.multiplied(rows.codes, rows.scales, dtype, slice(width))
        attn = self.attended(attend, qkv, up)
        return _applied(linear2, activated(attn, made.pop(), _forms(linear2)), dtype)

    def joint_heads(
        self, streams: Sequence[HeadStream], num_heads: int, pe: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        projected = _projected(streams, num_heads)
        if projected is None:
            return super().joint_heads(streams, num_heads, pe)
        return joint_heads(projected, num_heads, pe.contiguous())

    def heads_by_rank(
        self, streams: Sequence[HeadStream], num_heads: int, pe: Tensor, rows: Tensor, rank: int
    ) -> None:
        projected = _projected(streams, num_heads)
        if projected is None:
            super().heads_by_rank(streams, num_heads, pe, rows, rank)
        else:
            heads_by_rank(projected, num_heads, pe.contiguous(), rows, rank)


def _is_plain_call(x: Tensor) -> bool:
    """Whether the kernels know how to do it: nothing is recorded for gradients."""
    return x.ndim == 3 and not torch.is_grad_enabled()


def _projected(streams: Sequence[HeadStream], num_heads: int) -> list[Projected] | None:
    """The streams as the kernel takes them; None where it does not know how to."""
    head_dim = streams[0].qkv.shape[2] // 3 // num_heads
    norms = [norm for stream in streams for norm in (stream.q_norm, stream.k_norm)]
    is_known = all(isinstance(norm, RMSNorm) for norm in norms) and head_dim & (head_dim - 1) == 0
    if not is_known or not _is_plain_call(streams[0].qkv):
        return None
    return [Projected(each.qkv, each.q_norm.gain, each.k_norm.gain, each.q_norm.eps) for each in streams]


def _forms(linear: Any) -> Forms:
    """Which forms of its input a leaf takes: adapters beside it see it as it was."""
    if isinstance(linear, EightBitLinear) and linear.takes_codes:
        return Forms(plain=len(linear.beside) > 0, codes=True, tail=linear.tail)
    return Forms()


def _applied(linear: Any, rows: Rows, dtype: torch.dtype) -> Tensor:
    """linear(rows), from whichever form there is."""
    if rows.codes is None or rows.scales is None:
        return linear(rows.plain)
    y = linear.multiplied(rows.codes, rows.scales, dtype)
    for adapter in linear.beside:
        y = adapter(linear, rows.plain, y)
    return y


def _added_and_modulated(stream: Modulated, eps: float) -> tuple[Tensor, Rows]:
    """x [B, L, D] of a stream, its sum added up, and what its leaf takes."""
    x, gate, y = stream.x if isinstance(stream.x, Sum) else Sum(stream.x)
    forms = _forms(stream.linear)
    if y is None:
        return x, modulated(x, stream.shift, stream.scale, eps, forms)
    return gated_modulated(x, gate, y, stream.shift, stream.scale, eps, forms)


def _products_side_by_side(linears: Sequence[Any], rows: Sequence[Rows]) -> list[Tensor] | None:
    """[1, L, N] of each stream of one picture, one behind the other in memory, as attention reads them.

    None where there are several pictures, or leaves that are more than a weight and a bias.
    """
    leaves = [leaf for leaf in map(_bare, linears) if leaf is not None]
    inputs = [each.plain for each in rows if each.plain is not None]
    is_plain = len(leaves) == len(inputs) == len(linears)
    if not is_plain or inputs[0].shape[0] != 1 or len({bias.shape for _, bias in leaves}) != 1:
        return None
    lengths = [each.shape[1] for each in inputs]
    out = inputs[0].new_empty((1, sum(lengths), leaves[0][1].shape[0]))
    parts = list(out.split(lengths, dim=1))
    for x, (weight, bias), part in zip(inputs, leaves, parts, strict=True):
        torch.addmm(bias, x[0], weight.t(), out=part[0])
    return parts


def _plain(rows: Rows) -> Tensor:
    assert rows.plain is not None
    return rows.plain


def _bare(linear: Any) -> tuple[Tensor, Tensor] | None:
    """Weight and bias of a leaf that is nothing more; None of any other."""
    if not isinstance(linear, Linear) or linear.adapters or linear.bias is None:
        return None
    weight = linear.weight
    if isinstance(weight, StreamedWeight):
        return weight.find(), linear.bias
    return (weight, linear.bias) if isinstance(weight, Tensor) else None


def _product_then_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """gelu_tanh(x @ weight^T + bias), with the GELU where the product leaves its registers."""
    if not x.is_cuda:  # there the same function means the exact GELU
        return torch.nn.functional.gelu(torch.nn.functional.linear(x, weight, bias), approximate="tanh")
    flat = x.flatten(0, 1)
    out = torch._addmm_activation(bias, flat, weight.t(), use_gelu=True)  # pyright: ignore[reportPrivateImportUsage]
    return out.unflatten(0, x.shape[:2])
