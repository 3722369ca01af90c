"""The kernel that writes what LoRAs make of a coded input, as codes behind its own.

It has little to compute and its input has just been written, so what counts is that the whole GPU reads at
once: several programs share a block of rows, each takes some of its columns, and the last one that is done
adds their sums up, in one order whoever it is.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from backends.torch_cuda.codes import ARRIVALS, LARGEST

_LARGEST = tl.constexpr(LARGEST)
_BLOCK_ROWS = 64
_PROGRAMS = 2 * ARRIVALS
"""How many keep a large GPU busy."""
_LEAST_COLUMNS = 512
"""That a program reads; less would not pay for adding its sums to the others'."""
_MOST_PARTS = 8
"""Of a block; reading their sums takes the last program longer than they save."""
_COLUMNS = {16: 256, 32: 256, 64: 128, 128: 128, 256: 64}
"""Of a tile, by ranks as a power of two: as many as any GPU's shared memory has room for, three times."""


def project(codes: Tensor, scales: Tensor, down: Tensor, gains: Tensor, arrivals: Tensor) -> None:
    """`backends.torch_cuda.codes.project` of codes whose rows are evenly apart."""
    (_, tail, own), width, rows = down.shape, codes.stride(-2), scales.numel()
    blocks = triton.cdiv(rows, _BLOCK_ROWS)
    # Where there are more than ARRIVALS blocks, each is one part and nothing is counted.
    parts = max(1, min(_PROGRAMS // blocks, own // _LEAST_COLUMNS, _MOST_PARTS))
    ranks = max(16, triton.next_power_of_2(tail))
    sums = torch.empty((parts, rows, ranks), dtype=torch.float32, device=codes.device)
    _project[(parts, blocks)](
        codes, scales, down, gains, sums, arrivals, rows, own, tail, width, parts,
        _BLOCK_ROWS, _COLUMNS[ranks], ranks, _MOST_PARTS, num_warps=4, num_stages=3,
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_rows", "parts"])  # one compilation for all sizes of picture
def _project(
    codes, scales, down, gains, partial, arrivals, num_rows, own, tail, width, parts,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, RANKS: tl.constexpr, MOST_PARTS: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0)
    block = tl.num_programs(1) - 1 - tl.program_id(1)  # the rows that were coded last are still in the cache
    rows = block * ROWS + tl.arange(0, ROWS)
    ranks, cols = tl.arange(0, RANKS), tl.arange(0, COLUMNS)
    is_row, is_rank = rows < num_rows, ranks < tail
    codes += rows.to(tl.int64)[:, None] * width
    span = tl.cdiv(tl.cdiv(own, COLUMNS), parts) * COLUMNS
    sums = tl.zeros((ROWS, RANKS), tl.float32)
    for start in range(part * span, tl.minimum(part * span + span, own), COLUMNS):
        is_col = start + cols < own
        x = tl.load(codes + (start + cols)[None, :], is_row[:, None] & is_col[None, :], 0.0)
        places = ranks[None, :] * own + (start + cols)[:, None]
        mask = is_rank[None, :] & is_col[:, None]
        sums = tl.dot(x, tl.load(down + places, mask, 0.0), sums)
        sums = tl.dot(x, tl.load(down + tail * own + places, mask, 0.0), sums)
    if parts == 1:
        _finish(codes, scales + rows, gains, sums, is_row, is_rank, own, COLUMNS)
    else:
        cells = rows[:, None] * RANKS + ranks[None, :]
        tl.store(partial + part * num_rows * RANKS + cells, sums, is_row[:, None])
        tl.debug_barrier()  # all of this program's sums are written before it says so
        if tl.atomic_add(arrivals + block, 1, sem="acq_rel") == parts - 1:
            tl.store(arrivals + block, 0)
            sums = tl.zeros((ROWS, RANKS), tl.float32)
            for other in tl.static_range(MOST_PARTS):  # written out, so that no load waits for the one before
                there = partial + other * num_rows * RANKS + cells
                sums += tl.load(there, is_row[:, None] & (other < parts), 0.0, cache_modifier=".cg")
            _finish(codes, scales + rows, gains, sums, is_row, is_rank, own, COLUMNS)


@triton.jit
def _finish(codes, scales, gains, sums, is_row, is_rank, own, COLUMNS: tl.constexpr):
    """Sums as codes, behind those of their rows; rows in which they are too large become smaller."""
    ranks, cols = tl.arange(0, sums.shape[1]), tl.arange(0, COLUMNS)
    sums *= tl.load(gains + ranks, is_rank, 0.0)[None, :]
    over = tl.maximum(tl.max(tl.abs(sums), 1) / _LARGEST, 1.0)
    shrink = tl.exp2(-tl.ceil(tl.log2(over)))
    tails = (sums * shrink[:, None]).to(codes.dtype.element_ty)
    tl.store(codes + (own + ranks)[None, :], tails, is_row[:, None] & is_rank[None, :])
    if tl.max(over, 0) > 1.0:
        for start in range(0, own, COLUMNS):
            mask = is_row[:, None] & (start + cols < own)[None, :]
            x = tl.load(codes + (start + cols)[None, :], mask, 0.0).to(tl.float32)
            tl.store(codes + (start + cols)[None, :], (x * shrink[:, None]).to(codes.dtype.element_ty), mask)
        tl.store(scales, tl.load(scales, is_row, 0.0) / shrink, is_row)
