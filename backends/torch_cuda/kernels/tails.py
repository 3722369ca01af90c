"""The kernel that writes what LoRAs make of a coded input, as codes behind its own."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from backends.torch_cuda.codes import LARGEST

_LARGEST = tl.constexpr(LARGEST)
_BLOCK_ROWS = 32
_BLOCK_COLUMNS = 256


def project(codes: Tensor, scales: Tensor, down: Tensor, gains: Tensor) -> None:
    """`backends.torch_cuda.codes.project` of codes whose rows are evenly apart."""
    (tail, own), width = down.shape, codes.stride(-2)
    rows = scales.numel()
    _project[(triton.cdiv(rows, _BLOCK_ROWS),)](
        codes, scales, down, gains, rows, own, tail, width,
        _BLOCK_ROWS, _BLOCK_COLUMNS, max(16, triton.next_power_of_2(tail)), num_warps=4, num_stages=3,
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_rows"])  # one compilation for all sizes of picture
def _project(
    codes, scales, down, gains, num_rows, own, tail, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, RANKS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ranks, cols = tl.arange(0, RANKS), tl.arange(0, COLUMNS)
    is_row, is_rank = rows < num_rows, ranks < tail
    codes += rows.to(tl.int64)[:, None] * width
    sums = tl.zeros((ROWS, RANKS), tl.float32)
    for start in range(0, own, COLUMNS):
        is_col = start + cols < own
        x = tl.load(codes + (start + cols)[None, :], is_row[:, None] & is_col[None, :], 0.0)
        a = tl.load(
            down + ranks[None, :] * own + (start + cols)[:, None], is_rank[None, :] & is_col[:, None], 0.0
        )
        sums = tl.dot(x.to(tl.float16), a, sums)
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
        tl.store(scales + rows, tl.load(scales + rows, is_row, 0.0) / shrink, is_row)
