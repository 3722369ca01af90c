"""Queries and keys normed and rotated on their way from one projection's rows to the attention's layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_HEADS_AT_ONCE = 32


class Projected(NamedTuple):
    """One stream.

    Attributes:
        qkv: [B, L, 3*H*D] in rows [q|k|v], head-major; any strides of batch and rows.
        q_weight, k_weight: [D] of the RMS norms.
        eps: Of both.
    """

    qkv: Tensor
    q_weight: Tensor
    k_weight: Tensor
    eps: float


def joint_heads(streams: Sequence[Projected], num_heads: int, pe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of all streams, each [B, H, L, D], D a power of two; pe [L, D/2, 2] float32, contiguous.

    In memory they are [B, L, H, D], so that the attention's answer is [B, L, H*D] without a copy. The v of
    projections that lie one behind the other in memory, as that of a single one, stays where it is.
    """
    first, whole = streams[0].qkv, _as_one([each.qkv for each in streams])
    batch, _, width = first.shape
    length, dim = pe.shape[0], width // 3 // num_heads
    q = first.new_empty((batch, length, num_heads, dim))
    k = torch.empty_like(q)
    if whole is None:
        v = torch.empty_like(q)
    else:
        v = whole.view(batch, length, 3, num_heads, dim)[:, :, 2]
    _write(streams, num_heads, pe, (q, k, v), num_heads, 0, copies_v=whole is None)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def heads_by_rank(streams: Sequence[Projected], num_heads: int, pe: Tensor, rows: Tensor, rank: int) -> None:
    """As FusedOps.heads_by_rank; pe contiguous."""
    q, k, v = rows.unbind(1)
    _write(streams, num_heads, pe, (q, k, v), rows.shape[2], rank, copies_v=True)


def _write(
    streams: Sequence[Projected],
    num_heads: int,
    pe: Tensor,
    out: tuple[Tensor, Tensor, Tensor],
    heads: int,
    own: int,
    copies_v: bool,
) -> None:
    """Writes q, k and v; `heads` of them stand side by side, group `own` of them behind the other groups.

    `out` are [..., L, heads, D] each, or [groups * L, heads, D] with any stride of rows.
    """
    q, k, v = out
    batch, length, dim = streams[0].qkv.shape[0], pe.shape[0], pe.shape[1] * 2
    start = 0
    for qkv, first, second, border in _passes(streams):
        qkv = qkv if qkv.stride(2) == 1 else qkv.contiguous()
        count = qkv.shape[1]
        grid = (batch * count, -(-num_heads // _HEADS_AT_ONCE))
        _heads[grid](
            qkv, first.q_weight, first.k_weight, second.q_weight, second.k_weight, pe, q, k, v,
            count, border, start, length, num_heads, *qkv.stride()[:2], q.stride(-3), first.eps,
            own, first is not second, copies_v, heads, _HEADS_AT_ONCE, dim,
            num_warps=4,
        )  # fmt: skip
        start += count


def _passes(streams: Sequence[Projected]) -> list[tuple[Tensor, Projected, Projected, int]]:
    """Rows [B, L, 3*H*D] that are read at once, and whose weights the first `border` take and the others."""
    first, last = streams[0], streams[-1]
    if len(streams) == 2 and first.eps == last.eps:
        whole = _as_one([first.qkv, last.qkv])
        if whole is not None:
            return [(whole, first, last, first.qkv.shape[1])]
    return [(each.qkv, each, each, each.qkv.shape[1]) for each in streams]


def _as_one(parts: Sequence[Tensor]) -> Tensor | None:
    """[B, L_i, W] each as one [B, L, W] where each lies right behind the one before; else None."""
    first = parts[0]
    if len(parts) == 1:
        return first
    at = first.data_ptr()
    for part in parts:
        is_same = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not is_same or part.data_ptr() != at or part.stride() != first.stride():
            return None
        at += part.shape[1] * part.stride(1) * part.element_size()
    return first.as_strided(
        (first.shape[0], sum(part.shape[1] for part in parts), first.shape[2]), first.stride()
    )


@triton.jit
def _rotated(x, weight, cos, sin, eps, HEADS: tl.constexpr, DIM: tl.constexpr):
    """[HEADS, DIM] float32, RMS-normed and with its adjacent pairs rotated."""
    x = x * (1.0 / tl.sqrt(tl.sum(x * x, 1) / DIM + eps))[:, None] * weight[None, :]
    even, odd = tl.split(tl.reshape(x, (HEADS, DIM // 2, 2)))
    turned = tl.join(even * cos - odd * sin, even * sin + odd * cos)
    return tl.reshape(turned, (HEADS, DIM))


@triton.jit
def _weight(first, second, is_first, within, HAS_SECOND: tl.constexpr):
    """[DIM] float32 of the stream that a row belongs to."""
    if HAS_SECOND:
        of_first = tl.load(first + within, is_first, 0.0).to(tl.float32)
        return of_first + tl.load(second + within, ~is_first, 0.0).to(tl.float32)
    return tl.load(first + within).to(tl.float32)


@triton.jit(do_not_specialize=["count", "border", "start", "length", "own"])  # one compilation for all sizes
def _heads(
    qkv, q_weight, k_weight, q_weight2, k_weight2, pe, q, k, v, count, border, start, length, num_heads,
    qkv_batch, qkv_row, out_row, eps, own, HAS_SECOND: tl.constexpr, COPIES_V: tl.constexpr,
    ABREAST: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    batch, place = row // count, row % count
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    within = tl.arange(0, DIM)
    mask = (heads < num_heads)[:, None] & (within < DIM)[None, :]
    source = qkv + batch * qkv_batch + place * qkv_row + heads[:, None] * DIM + within[None, :]
    width = num_heads * DIM
    groups = num_heads // ABREAST
    group = heads // ABREAST
    group = tl.where(group == own, groups - 1, group - (group > own).to(tl.int32))
    target_row = (batch * groups + group) * length + start + place
    target = target_row[:, None] * out_row + (heads % ABREAST)[:, None] * DIM + within[None, :]

    half = tl.arange(0, DIM // 2)
    angles = pe + (start + place) * DIM + 2 * half
    cos, sin = tl.load(angles)[None, :], tl.load(angles + 1)[None, :]
    is_first = (within >= 0) & (place < border)
    q_gain = _weight(q_weight, q_weight2, is_first, within, HAS_SECOND)
    q_out = _rotated(tl.load(source, mask, 0.0).to(tl.float32), q_gain, cos, sin, eps, HEADS, DIM)
    tl.store(q + target, q_out.to(q.dtype.element_ty), mask)
    k_gain = _weight(k_weight, k_weight2, is_first, within, HAS_SECOND)
    k_out = _rotated(tl.load(source + width, mask, 0.0).to(tl.float32), k_gain, cos, sin, eps, HEADS, DIM)
    tl.store(k + target, k_out.to(k.dtype.element_ty), mask)
    if COPIES_V:
        tl.store(v + target, tl.load(source + 2 * width, mask, 0.0), mask)
