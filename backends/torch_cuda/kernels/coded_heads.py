"""Queries, keys and values of a joint attention as eight-bit codes, made while queries and keys are rotated.

Which numbers are coded how, and why, is in `eight_bit_attention`. A query has a scale of its own; a block of
keys and a block of values share one, so that the attention multiplies once for each block.

Source: Zhang et al. 2024 (SageAttention2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from backends.torch_cuda.codes import LARGEST, SMALLEST_SCALE
from backends.torch_cuda.eight_bit_attention import BLOCK, LARGEST_WHOLE
from backends.torch_cuda.kernels.heads import Projected

HEAD_DIM = 128
"""The one that the kernels were written for."""
FEWEST_TOKENS = 4096
"""With fewer, attention is too small a share of a step for its exactness to be given up."""
_MAX_STREAMS = 2
_WARPS = 8


class CodedHeads(NamedTuple):
    """What an attention in eight bits takes: N = B*H heads of M tokens, of which the first `length` are real.

    M is a multiple of BLOCK; the codes of the tokens behind the last are zeros.

    Attributes:
        q, k: [N*M, D] int8.
        v: [N*D, M] float8_e4m3fn, tokens along the rows, in the order of `key_order`.
        q_scales: [N, M] float32, what a query's logits in base 2 are multiplied by, but for the keys' scale.
        k_scales, v_scales: [N, M/BLOCK] float32.
        length: Tokens of all streams.
        num_heads: H.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    q_scales: Tensor
    k_scales: Tensor
    v_scales: Tensor
    length: int
    num_heads: int


def is_fit(streams: Sequence[Projected], num_heads: int) -> bool:
    """Whether the kernel takes them, and it is worth it."""
    qkv = streams[0].qkv
    tokens = sum(each.qkv.shape[1] for each in streams)
    is_known = qkv.shape[2] == 3 * num_heads * HEAD_DIM and qkv.dtype is torch.bfloat16
    return is_known and len(streams) <= _MAX_STREAMS and tokens >= FEWEST_TOKENS


def key_order(count: int) -> Tensor:
    """[count] the token that lies at each place of a row of `CodedHeads.v`; count: a multiple of 16.

    A tensor core leaves a product's row in other registers than it takes a factor's row from. With the values
    in this order each thread's weights are where they are needed.
    """
    place = torch.arange(count)
    within = place % 16
    return place - within + 8 * (within // 2 % 2) + 2 * (within // 4) + within % 2


def coded_heads(streams: Sequence[Projected], num_heads: int, pe: Tensor, scale: float) -> CodedHeads:
    """Codes of one stream or of two, one behind the other.

    Args:
        streams: One or two, of heads of HEAD_DIM.
        num_heads: Of each.
        pe: [L, D/2, 2] float32, contiguous.
        scale: Of the logits.
    """
    first, second = (_in_rows(each) for each in (streams[0], streams[-1]))
    batch, count, _ = first.qkv.shape
    length, device = pe.shape[0], first.qkv.device
    padded = -(-length // BLOCK) * BLOCK
    heads = batch * num_heads
    q = torch.empty((heads * padded, HEAD_DIM), dtype=torch.int8, device=device)
    v = torch.empty((heads * HEAD_DIM, padded), dtype=torch.float8_e4m3fn, device=device)
    q_scales = torch.empty((heads, padded), dtype=torch.float32, device=device)
    k_scales = q_scales.new_empty((heads, padded // BLOCK))
    found = CodedHeads(
        q, torch.empty_like(q), v, q_scales, k_scales, torch.empty_like(k_scales), length, num_heads
    )
    _coded_heads[(padded // BLOCK, num_heads, 3 * batch)](
        first.qkv, second.qkv, first.q_weight, first.k_weight, second.q_weight, second.k_weight, pe,
        *found[:6], count, length, padded // BLOCK, *first.qkv.stride()[:2], *second.qkv.stride()[:2],
        first.eps, second.eps, scale * math.log2(math.e), num_heads, len(streams) > 1, BLOCK, HEAD_DIM,
        LARGEST, LARGEST_WHOLE, SMALLEST_SCALE,  # globals of a module are compared at every launch
        num_warps=_WARPS,
    )  # fmt: skip
    return found


def _in_rows(stream: Projected) -> Projected:
    return stream if stream.qkv.stride(2) == 1 else stream._replace(qkv=stream.qkv.contiguous())


@triton.jit
def _rotated(x, first_weight, second_weight, is_first, eps, cos, sin, ROWS: tl.constexpr, DIM: tl.constexpr):
    """[ROWS, DIM] float32, RMS-normed with the weight of each row's stream, adjacent pairs rotated."""
    within = tl.arange(0, DIM)
    weight = tl.where(
        is_first[:, None],
        tl.load(first_weight + within).to(tl.float32)[None, :],
        tl.load(second_weight + within).to(tl.float32)[None, :],
    )
    x = x * (1.0 / tl.sqrt(tl.sum(x * x, 1) / DIM + eps))[:, None] * weight
    even, odd = tl.split(tl.reshape(x, (ROWS, DIM // 2, 2)))
    return tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (ROWS, DIM))


@triton.jit
def _loaded(first, second, place, count, length, row1, row2, IS_JOINT: tl.constexpr, DIM: tl.constexpr):
    """[places, DIM] float32, rows of two streams where they are; zeros elsewhere."""
    within = tl.arange(0, DIM)[None, :]
    place = place.to(tl.int64)[:, None]
    x = tl.load(first + place * row1 + within, place < count, 0.0).to(tl.float32)
    if IS_JOINT:
        is_second = (place >= count) & (place < length)
        x += tl.load(second + (place - count) * row2 + within, is_second, 0.0).to(tl.float32)
    return x


@triton.jit
def _whole(x):
    """The nearest whole numbers."""
    return tl.floor(x + 0.5).to(tl.int8)


@triton.jit(do_not_specialize=["count", "length", "blocks"])  # one compilation for all sizes of picture
def _coded_heads(
    first, second, q_weight1, k_weight1, q_weight2, k_weight2, pe, q, k, v, q_scales, k_scales, v_scales,
    count, length, blocks, batch1, row1, batch2, row2, eps1, eps2, factor, num_heads,
    IS_JOINT: tl.constexpr, BLOCK: tl.constexpr, DIM: tl.constexpr,
    LARGEST: tl.constexpr, LARGEST_WHOLE: tl.constexpr, SMALLEST_SCALE: tl.constexpr,
):  # fmt: skip
    block, head, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64) // 3
    part = tl.program_id(2) % 3  # queries, keys or values
    within, width, padded = tl.arange(0, DIM), num_heads * DIM, blocks * BLOCK
    first += batch * batch1 + part * width + head * DIM
    second += batch * batch2 + part * width + head * DIM
    unit = batch * num_heads + head
    lane = tl.arange(0, BLOCK)
    if part == 2:
        place = (
            block * BLOCK + lane // 16 * 16 + 8 * (lane // 2 % 2) + 2 * (lane % 16 // 4) + lane % 2
        )  # key_order
        x = _loaded(first, second, place, count, length, row1, row2, IS_JOINT, DIM)
        step = tl.maximum(tl.max(tl.max(tl.abs(x), 1), 0) / LARGEST, SMALLEST_SCALE)
        target = (unit * DIM + within)[:, None] * padded + block * BLOCK + lane[None, :]
        tl.store(v + target, tl.trans((x * (1.0 / step)).to(v.dtype.element_ty)))
        tl.store(v_scales + unit * blocks + block, step)
    else:
        place = block * BLOCK + lane
        x = _loaded(first, second, place, count, length, row1, row2, IS_JOINT, DIM)
        angles = tl.load(pe + place[:, None] * DIM + within[None, :], (place < length)[:, None], 0.0)
        cos, sin = tl.split(tl.reshape(angles, (BLOCK, DIM // 2, 2)))
        is_first = place < count
        eps = tl.where(is_first, eps1, eps2)
        target = (unit * padded + place)[:, None] * DIM + within[None, :]
        if part == 0:
            x = _rotated(x, q_weight1, q_weight2, is_first, eps, cos, sin, BLOCK, DIM)
            steps = tl.maximum(tl.max(tl.abs(x), 1) / LARGEST_WHOLE, SMALLEST_SCALE)
            tl.store(q + target, _whole(x * (1.0 / steps)[:, None]))
            tl.store(q_scales + unit * padded + place, steps * factor)
        else:
            x = _rotated(x, k_weight1, k_weight2, is_first, eps, cos, sin, BLOCK, DIM)
            step = tl.maximum(tl.max(tl.max(tl.abs(x), 1), 0) / LARGEST_WHOLE, SMALLEST_SCALE)
            tl.store(k + target, _whole(x * (1.0 / step)))
            tl.store(k_scales + unit * blocks + block, step)
