"""Attention over heads in eight bits on Hopper's tensor cores: whole numbers for logits, e4m3 for the mean.

A program has 128 queries of one head. One warp fetches blocks of keys and values; two groups of four warps
take 64 queries each, and while a group is at its softmax the tensor cores have the other's products, or its
own last ones. Softmax is in base 2, with a running maximum that is corrected after each block; its weights
stay in registers and go straight into the next product, because the values lie in the order in which those
registers come (`coded_heads.key_order`).

Written in Gluon, triton's lower level, for what the higher one does not let one say: which warps do what, and
when a product is waited for.

Source: Dao 2023 (FlashAttention-2), Shah et al. 2024 (FlashAttention-3).
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from backends.torch_cuda.kernels.coded_heads import BLOCK, HEAD_DIM, CodedHeads

_GROUP_ROWS = 64  # queries of a group of four warps
_GROUPS = 2  # as the kernel is written
_STAGES = 2  # blocks of keys, and of values, that are there at a time
_WEIGHT_BITS = 8  # weights are 2^8 at most, so that small ones are normal e4m3 numbers
_REGISTERS = 168  # of a thread as launched, so that the file holds three groups
_GROUP_REGISTERS = 240  # of a thread that multiplies
_FETCHER_REGISTERS = 24  # of a thread of the group that fetches


def computes_on(device: torch.device) -> bool:
    """Whether the kernel was written for a device: for the tensor cores of sm90, and for no others."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)


def coded_attention(heads: CodedHeads) -> Tensor:
    """softmax(q k^T) v, [B, L, H*D] bfloat16."""
    units, padded = heads.q_scales.shape
    length, num_heads = heads.length, heads.num_heads
    out = torch.empty(
        (units // num_heads, length, num_heads * HEAD_DIM), dtype=torch.bfloat16, device=heads.q.device
    )
    rows = _GROUPS * _GROUP_ROWS
    _attention[(triton.cdiv(length, rows), units)](
        _tiles(heads.q, [_GROUP_ROWS, HEAD_DIM], gl.int8),
        _tiles(heads.k, [BLOCK, HEAD_DIM], gl.int8),
        _tiles(heads.v, [HEAD_DIM, BLOCK], gl.float8e4nv),
        out, heads.q_scales, heads.k_scales, heads.v_scales, length, padded, num_heads,
        BLOCK, HEAD_DIM, _GROUP_ROWS, _STAGES, _WEIGHT_BITS, _GROUP_REGISTERS, _FETCHER_REGISTERS, num_warps=4, maxnreg=_REGISTERS,
    )  # fmt: skip
    return out


def _tiles(codes: Tensor, shape: list[int], dtype: gl.dtype) -> TensorDescriptor:
    """What the fetching hardware is told of a matrix that it takes tiles from."""
    return TensorDescriptor.from_tensor(codes, shape, gl.NVMMASharedLayout.get_default_for(shape, dtype))


@gluon.jit(do_not_specialize=["length", "padded"])  # one compilation for all sizes of picture
def _attention(
    q_tiles, k_tiles, v_tiles, out, q_scales, k_scales, v_scales, length, padded, num_heads,
    BLOCK: gl.constexpr, DIM: gl.constexpr, ROWS: gl.constexpr, STAGES: gl.constexpr, BITS: gl.constexpr,
    GROUP_REGISTERS: gl.constexpr, FETCHER_REGISTERS: gl.constexpr,
):  # fmt: skip
    q = gl.allocate_shared_memory(gl.int8, [2, ROWS, DIM], q_tiles.layout)
    k = gl.allocate_shared_memory(gl.int8, [STAGES, BLOCK, DIM], k_tiles.layout)
    v = gl.allocate_shared_memory(gl.float8e4nv, [STAGES, DIM, BLOCK], v_tiles.layout)
    q_here = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    k_here = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_here = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_here, count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(k_here.index(i), count=1)
        mbarrier.init(v_here.index(i), count=1)
        mbarrier.init(k_free.index(i), count=2)  # both groups are through with it
        mbarrier.init(v_free.index(i), count=2)
    fence_async_shared()

    start, unit = gl.program_id(0) * (2 * ROWS), gl.program_id(1)
    blocks = (length + BLOCK - 1) // BLOCK
    shared = (q, k, v, q_here, k_here, v_here, k_free, v_free)
    scales = (q_scales, k_scales, v_scales)
    gl.warp_specialize(
        [
            (_attended, (0, shared, scales, out, start, unit, blocks, length, padded, num_heads,
                         BLOCK, DIM, ROWS, STAGES, BITS)),
            (_attended, (1, shared, scales, out, start, unit, blocks, length, padded, num_heads,
                         BLOCK, DIM, ROWS, STAGES, BITS)),
            (_fetched, (q_tiles, k_tiles, v_tiles, shared, start, unit, blocks, padded,
                        BLOCK, DIM, ROWS, STAGES)),
        ],
        [4, 1],
        [GROUP_REGISTERS, FETCHER_REGISTERS],
    )  # fmt: skip


@gluon.jit
def _fetched(
    q_tiles, k_tiles, v_tiles, shared, start, unit, blocks, padded,
    BLOCK: gl.constexpr, DIM: gl.constexpr, ROWS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Brings queries, and block after block of keys and values as their places become free."""
    q, k, v, q_here, k_here, v_here, k_free, v_free = shared
    mbarrier.expect(q_here, 2 * ROWS * DIM)
    for group in gl.static_range(2):
        tma.async_copy_global_to_shared(q_tiles, [unit * padded + start + group * ROWS, 0], q_here, q.index(group))
    for i in range(blocks):
        block = gl.where(i == 0, blocks - 1, i - 1)  # the last one first: see _attended
        stage, phase = i % STAGES, ((i // STAGES) & 1) ^ 1
        mbarrier.wait(k_free.index(stage), phase)
        mbarrier.expect(k_here.index(stage), BLOCK * DIM)
        tma.async_copy_global_to_shared(
            k_tiles, [unit * padded + block * BLOCK, 0], k_here.index(stage), k.index(stage)
        )
        mbarrier.wait(v_free.index(stage), phase)
        mbarrier.expect(v_here.index(stage), BLOCK * DIM)
        tma.async_copy_global_to_shared(v_tiles, [unit * DIM, block * BLOCK], v_here.index(stage), v.index(stage))


@gluon.jit
def _attended(
    GROUP: gl.constexpr, shared, scales, out, start, unit, blocks, length, padded, num_heads,
    BLOCK: gl.constexpr, DIM: gl.constexpr, ROWS: gl.constexpr, STAGES: gl.constexpr, BITS: gl.constexpr,
):  # fmt: skip
    """One group's queries: the logits of a block are asked for, then the mean of the block before.

    The block with places behind the last token comes first, outside the loop: the order of keys is all the
    same, and only there must places be masked.
    """
    LOGITS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK, 32])
    MEAN: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, DIM, 32])
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(0, MEAN, 4)
    ROW: gl.constexpr = gl.SliceLayout(1, LOGITS)
    MEAN_ROW: gl.constexpr = gl.SliceLayout(1, MEAN)
    q, k, v, q_here, k_here, v_here, k_free, v_free = shared
    q_scales, k_scales, v_scales = scales
    q = q.index(GROUP)
    start += GROUP * ROWS
    q_scale = gl.load(q_scales + unit * padded + start + gl.arange(0, ROWS, ROW))
    k_scales += unit * (padded // BLOCK)
    v_scales += unit * (padded // BLOCK)
    nothing = gl.zeros([ROWS, BLOCK], gl.int32, LOGITS)

    mbarrier.wait(q_here, 0)
    mbarrier.wait(k_here.index(0), 0)
    asked = warpgroup_mma(q, k.index(0).permute((1, 0)), nothing, use_acc=False, is_async=True)
    scale = q_scale * gl.load(k_scales + blocks - 1)
    v_scale = gl.load(v_scales + blocks - 1)
    logits = warpgroup_mma_wait(0, deps=(asked,)).to(gl.float32)
    mbarrier.arrive(k_free.index(0), count=1)
    place = (blocks - 1) * BLOCK + gl.arange(0, BLOCK, gl.SliceLayout(0, LOGITS))
    logits = gl.where((place < length)[None, :], logits, float("-inf"))
    largest = gl.max(logits, 1) * scale
    weights = _power(logits * scale[:, None] - (largest - BITS)[:, None])
    total = gl.sum(weights, 1)
    words = _coded(weights, ROWS, BLOCK)
    mean = gl.zeros([ROWS, DIM], gl.float32, MEAN)
    for i in range(1, blocks):
        stage, before = i % STAGES, (i - 1) % STAGES
        scale = q_scale * gl.load(k_scales + i - 1)
        next_v_scale = gl.load(v_scales + i - 1)
        mbarrier.wait(k_here.index(stage), (i // STAGES) & 1)
        asked = warpgroup_mma(q, k.index(stage).permute((1, 0)), nothing, use_acc=False, is_async=True)
        mbarrier.wait(v_here.index(before), ((i - 1) // STAGES) & 1)
        codes = _operand(words, ROWS, BLOCK, WEIGHTS)
        growing = warpgroup_mma(codes, v.index(before).permute((1, 0)), mean, is_async=True)
        logits = warpgroup_mma_wait(1, deps=(asked,)).to(gl.float32)
        mbarrier.arrive(k_free.index(stage), count=1)
        larger = gl.maximum(largest, gl.max(logits, 1) * scale)
        weights = _power(logits * scale[:, None] - (larger - BITS)[:, None])
        shrunk = _power(largest - larger)
        total = total * shrunk + gl.sum(weights, 1)
        largest = larger
        mean = warpgroup_mma_wait(0, deps=(growing,))
        mbarrier.arrive(v_free.index(before), count=1)
        # in units of the next block's values
        mean = mean * gl.convert_layout(shrunk * (v_scale / next_v_scale), MEAN_ROW)[:, None]
        v_scale = next_v_scale
        words = _coded(weights, ROWS, BLOCK)
    last = (blocks - 1) % STAGES
    mbarrier.wait(v_here.index(last), ((blocks - 1) // STAGES) & 1)
    codes = _operand(words, ROWS, BLOCK, WEIGHTS)
    growing = warpgroup_mma(codes, v.index(last).permute((1, 0)), mean, is_async=True)
    mean = warpgroup_mma_wait(0, deps=(growing,))
    mean = mean * gl.convert_layout(v_scale / total, MEAN_ROW)[:, None]

    LINES: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    row = start + gl.arange(0, ROWS, gl.SliceLayout(1, LINES))
    cells = (unit % num_heads) * DIM + gl.arange(0, DIM, gl.SliceLayout(0, LINES))
    lines = out + ((unit // num_heads) * length + row).to(gl.int64)[:, None] * (num_heads * DIM)
    gl.store(lines + cells[None, :], gl.convert_layout(mean.to(gl.bfloat16), LINES), (row < length)[:, None])


@gluon.jit
def _power(x):
    """2^x, as the GPU has it; 0 of what is below 2^-126."""
    return gl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], gl.float32, True, 1)


@gluon.jit
def _coded(weights, ROWS: gl.constexpr, BLOCK: gl.constexpr):
    """[ROWS, BLOCK] float32 -> [ROWS, BLOCK/16, 4] words of four e4m3 codes, tokens in `key_order`.

    Words, because a loop that carries single codes gives each a register.
    """
    weights = weights.reshape([ROWS, BLOCK // 16, 2, 4, 2]).permute((0, 1, 3, 2, 4))
    even, odd = weights.split()
    even0, even1 = even.split()
    odd0, odd1 = odd.split()
    return gl.inline_asm_elementwise(
        """{
        .reg .b16 low, high;
        cvt.rn.satfinite.e4m3x2.f32 low, $2, $1;
        cvt.rn.satfinite.e4m3x2.f32 high, $4, $3;
        mov.b32 $0, {low, high};
        }""",
        "=r,f,f,f,f",
        [even0, odd0, even1, odd1],
        gl.int32,
        True,
        1,
    )


@gluon.jit
def _operand(words, ROWS: gl.constexpr, BLOCK: gl.constexpr, WEIGHTS: gl.constexpr):
    """The codes in words as [ROWS, BLOCK] e4m3, in the layout of a product's first factor; moves nothing."""
    halves = gl.join(words.to(gl.int16), (words >> 16).to(gl.int16))
    codes = gl.join(halves.to(gl.int8), (halves >> 8).to(gl.int8)).reshape([ROWS, BLOCK])
    return gl.convert_layout(codes.to(gl.float8e4nv, bitcast=True), WEIGHTS, assert_trivial=True)
