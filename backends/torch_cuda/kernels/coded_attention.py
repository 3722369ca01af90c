"""Attention over heads in eight bits on Hopper's tensor cores: whole numbers for logits, e4m3 for the mean.

A program of one group of four warps has 64 queries of one head; two programs share a multiprocessor, so that
the tensor cores have one's products while the other is at its softmax. Softmax is in base 2, with a running
maximum that is corrected after each block of keys; its weights stay in registers and go straight into the
next product, because the values lie in the order in which those registers come (`coded_heads.key_order`).

Source: Dao 2023 (FlashAttention-2), Shah et al. 2024 (FlashAttention-3), Zhang et al. 2024 (SageAttention2).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from backends.torch_cuda.kernels.coded_heads import BLOCK, HEAD_DIM, CodedHeads

_ROWS = 64  # queries of a program
_WEIGHT_BITS = 8  # weights are 2^8 at most, so that small ones are normal e4m3 numbers
_SHIFT = 12582912.0  # 1.5 * 2^23
_SHIFT_BITS = 0x4B400000
_STAGES = 3  # blocks of keys, and of values, that are there or on their way


def computes_on(device: torch.device) -> bool:
    """Whether the kernel was written for a device: it was measured on sm90, and on no other."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)


def coded_attention(heads: CodedHeads) -> Tensor:
    """softmax(q k^T) v, [B, L, H*D] bfloat16."""
    units, padded = heads.q_scales.shape
    length, num_heads = heads.length, heads.num_heads
    out = torch.empty(
        (units // num_heads, length, num_heads * HEAD_DIM), dtype=torch.bfloat16, device=heads.q.device
    )
    _attention[(-(-length // _ROWS), units)](
        TensorDescriptor.from_tensor(heads.q, [_ROWS, HEAD_DIM]),
        TensorDescriptor.from_tensor(heads.k, [BLOCK, HEAD_DIM]),
        TensorDescriptor.from_tensor(heads.v, [HEAD_DIM, BLOCK]),
        out, heads.q_scales, heads.k_scales, heads.v_scales, length, padded // BLOCK, num_heads,
        heads.q.is_cuda, _ROWS, BLOCK, HEAD_DIM, _WEIGHT_BITS, _STAGES, _SHIFT, _SHIFT_BITS,
        num_warps=4, num_stages=_STAGES,
    )  # fmt: skip
    return out


@triton.jit
def _power(x, IS_CUDA: tl.constexpr):
    """2^x; as the GPU has it, with 0 for what is below 2^-126."""
    if IS_CUDA:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)
    return tl.exp2(x)


@triton.jit(do_not_specialize=["length", "blocks"])  # one compilation for all sizes of picture
def _attention(
    q_tiles, k_tiles, v_tiles, out, q_scales, k_scales, v_scales, length, blocks, num_heads,
    IS_CUDA: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, DIM: tl.constexpr, BITS: tl.constexpr,
    STAGES: tl.constexpr, SHIFT: tl.constexpr, SHIFT_BITS: tl.constexpr,
):  # fmt: skip
    start, unit = tl.program_id(0) * ROWS, tl.program_id(1)
    padded = blocks * BLOCK
    row = start + tl.arange(0, ROWS)
    place = tl.arange(0, BLOCK)
    q = q_tiles.load([unit * padded + start, 0])
    q_scale = tl.load(q_scales + unit * padded + row)
    k_scales += unit * blocks
    v_scales += unit * blocks
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mean = tl.zeros([ROWS, DIM], tl.float32)
    v_scale = tl.load(v_scales)
    for i in tl.range(0, blocks, num_stages=STAGES):
        k = k_tiles.load([unit * padded + i * BLOCK, 0])
        # A whole number added to the bits of 1.5 * 2^23 is that float plus the number: cheaper than a cast.
        logits = (tl.dot(q, tl.trans(k), out_dtype=tl.int32) + SHIFT_BITS).to(tl.float32, bitcast=True)
        if (i + 1) * BLOCK > length:
            logits = tl.where((i * BLOCK + place < length)[None, :], logits, float("-inf"))
        scale = q_scale * tl.load(k_scales + i)
        larger = tl.maximum(largest, (tl.max(logits, 1) - SHIFT) * scale)
        weights = _power(logits * scale[:, None] - (larger - BITS + SHIFT * scale)[:, None], IS_CUDA)
        shrunk = _power(largest - larger, IS_CUDA)
        total = total * shrunk + tl.sum(weights, 1)
        largest = larger
        next_v_scale = tl.load(v_scales + i)
        mean = mean * (shrunk * (v_scale / next_v_scale))[:, None]  # in units of this block's values
        v_scale = next_v_scale
        codes = tl.reshape(weights.to(tl.float8e4nv), (ROWS, BLOCK // 16, 2, 4, 2))
        codes = tl.reshape(tl.permute(codes, (0, 1, 3, 2, 4)), (ROWS, BLOCK))  # as key_order
        v = v_tiles.load([unit * DIM, i * BLOCK])
        mean = tl.dot(codes, tl.trans(v), mean)
    mean = mean * (v_scale / total)[:, None]
    cells = (unit % num_heads) * DIM + tl.arange(0, DIM)
    lines = out + ((unit // num_heads) * length + row).to(tl.int64)[:, None] * (num_heads * DIM)
    tl.store(lines + cells[None, :], mean.to(tl.bfloat16), (row < length)[:, None])
