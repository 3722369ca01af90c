"""The kernel that writes what LoRAs make of a coded input, as codes behind its own.

It has little to compute and its input has just been written, so what counts is that the whole GPU reads at
once, and how little it does besides. Where there are fewer blocks of rows than a GPU runs programs, several
share a block: each takes some of the columns, and the last one that is done adds their sums up, in one order
whoever it is.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from backends.torch_cuda.codes import ARRIVALS, LARGEST

_PROCESSORS = ARRIVALS
"""Of a large GPU."""
_PROGRAMS_EACH = 2
"""That keep a processor busy."""
_LEAST_COLUMNS = 768
"""That a program reads; less would not pay for adding its sums to the others'."""
_COLUMNS_A_RANK = 48
"""Likewise, where there are programs for the whole GPU anyway: the sums grow with the ranks."""
_MOST_PARTS = 8
"""Of a block; reading their sums takes the last program longer than they save."""
_NUMBERS_A_THREAD = 64
"""Of other programs' sums, on their way at once; registers have no room for more."""


class _Shape(NamedTuple):
    """Of the tiles that a program multiplies.

    Attributes:
        is_turned: Whether down @ codes^T is computed, not codes @ down^T. A tensor core takes 64 rows of its
            first factor at least, so that smaller blocks of codes have to be the second.
        rows: Of codes.
        columns: Of codes and of `down`.
        warps: That share a tile.
        stages: Tiles that are there or on their way.
    """

    is_turned: bool
    rows: int
    columns: int
    warps: int
    stages: int


def project(codes: Tensor, scales: Tensor, down: Tensor, gains: Tensor, arrivals: Tensor) -> None:
    """`backends.torch_cuda.codes.project` of codes whose rows are evenly apart."""
    (tail, own), width, rows = down.shape, codes.stride(-2), scales.numel()
    ranks = max(16, 1 << (tail - 1).bit_length())
    shape = _shape(rows, ranks)
    threads, blocks = 32 * shape.warps, -(-rows // shape.rows)
    least = _LEAST_COLUMNS if _are_few(rows) else _COLUMNS_A_RANK * ranks
    # Where there are more than ARRIVALS blocks, each is one part and nothing is counted.
    parts = max(1, min(_PROGRAMS_EACH * _PROCESSORS // blocks, own // least, _MOST_PARTS))
    if shape.is_turned:
        ranks = max(64, ranks)
    sums = scales if parts == 1 else scales.new_empty((parts, rows, ranks))
    at_once = max(1, min(_MOST_PARTS, _NUMBERS_A_THREAD * threads // (shape.rows * ranks)))
    stages = min(shape.stages, _stages(codes.device, (shape.rows + ranks) * shape.columns))
    _project[(parts, blocks)](
        codes, scales, down, gains, sums, arrivals, rows, own, tail, width, parts,
        shape.is_turned, shape.rows, shape.columns, ranks, at_once, LARGEST,
        num_warps=shape.warps, num_stages=stages,
    )  # fmt: skip


def _are_few(rows: int) -> bool:
    """Whether blocks of the smallest kind are too few for the whole GPU: a text, or a small picture."""
    return rows <= 16 * _PROCESSORS


def _shape(rows: int, ranks: int) -> _Shape:
    """What was the fastest on an H200 at FLUX.1's shapes, or less than a microsecond behind it."""
    if _are_few(rows):
        return _Shape(True, 16, 128, *((4, 5) if ranks <= 64 else (8, 4)))
    if ranks == 64 and rows <= 32 * _PROCESSORS:  # all at once
        return _Shape(True, 32, 128, 4, 5)
    return _Shape(False, 64, 256, 4, 3) if ranks <= 64 else _Shape(False, 64, 128, 8, 4)


@cache
def _stages(device: torch.device, tile: int) -> int:
    """How many tiles of so many bytes have room in shared memory, beside the one that is computed with."""
    if device.type != "cuda":
        return 1
    return 1 + torch.cuda.get_device_properties(device).shared_memory_per_block_optin // tile


@triton.jit(do_not_specialize=["num_rows", "parts"])  # one compilation for all sizes of picture
def _project(
    codes, scales, down, gains, partial, arrivals, num_rows, own, tail, width, parts,
    IS_TURNED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, RANKS: tl.constexpr,
    AT_ONCE: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0)
    block = tl.num_programs(1) - 1 - tl.program_id(1)  # the rows that were coded last are still in the cache
    rows, ranks, cols = tl.arange(0, ROWS), tl.arange(0, RANKS), tl.arange(0, COLUMNS)
    is_row, is_rank = block * ROWS + rows < num_rows, ranks < tail
    is_cell = is_row[:, None] & is_rank[None, :]
    codes += (block * ROWS).to(tl.int64) * width
    scales += block * ROWS
    span = tl.cdiv(tl.cdiv(own, COLUMNS), parts) * COLUMNS
    sums = tl.zeros((RANKS, ROWS) if IS_TURNED else (ROWS, RANKS), tl.float32)
    for start in range(part * span, tl.minimum(part * span + span, own), COLUMNS):
        is_col = start + cols < own
        there = rows[:, None] * width + (start + cols)[None, :]
        x = tl.load(codes + there, is_row[:, None] & is_col[None, :], 0.0)
        there = ranks[:, None] * own + (start + cols)[None, :]
        w = tl.load(down + there, is_rank[:, None] & is_col[None, :], 0.0)
        sums = tl.dot(w, tl.trans(x), sums) if IS_TURNED else tl.dot(x, tl.trans(w), sums)
    if IS_TURNED:
        sums = tl.trans(sums)
    if parts == 1:
        _finish(codes, scales, gains, sums, is_row, is_rank, own, width, COLUMNS, LARGEST)
    else:
        cells = (block * ROWS + rows)[:, None] * RANKS + ranks[None, :]
        tl.store(partial + part * num_rows * RANKS + cells, sums, is_cell)
        tl.debug_barrier()  # all of this program's sums are written before it says so
        if tl.atomic_add(arrivals + block, 1, sem="acq_rel") == parts - 1:
            tl.store(arrivals + block, 0)
            sums = tl.zeros((ROWS, RANKS), tl.float32)
            for first in range(0, parts, AT_ONCE):
                for more in tl.static_range(AT_ONCE):  # written out: no load waits for the one before
                    there = partial + (first + more) * num_rows * RANKS + cells
                    sums += tl.load(there, is_cell & (first + more < parts), 0.0, cache_modifier=".cg")
            _finish(codes, scales, gains, sums, is_row, is_rank, own, width, COLUMNS, LARGEST)


@triton.jit
def _finish(
    codes, scales, gains, sums, is_row, is_rank, own, width, COLUMNS: tl.constexpr, LARGEST: tl.constexpr
):  # fmt: skip
    """Sums as codes, behind those of their rows; rows in which they are too large become smaller."""
    rows, ranks, cols = tl.arange(0, sums.shape[0]), tl.arange(0, sums.shape[1]), tl.arange(0, COLUMNS)
    codes += rows[:, None] * width
    sums *= tl.load(gains + ranks, is_rank, 0.0)[None, :]
    over = tl.maximum(tl.max(tl.abs(sums), 1) / LARGEST, 1.0)
    shrink = tl.exp2(-tl.ceil(tl.log2(over)))
    tails = (sums * shrink[:, None]).to(codes.dtype.element_ty)
    tl.store(codes + (own + ranks)[None, :], tails, is_row[:, None] & is_rank[None, :])
    if tl.max(over, 0) > 1.0:
        for start in range(0, own, COLUMNS):
            mask = is_row[:, None] & (start + cols < own)[None, :]
            x = tl.load(codes + (start + cols)[None, :], mask, 0.0).to(tl.float32)
            tl.store(codes + (start + cols)[None, :], (x * shrink[:, None]).to(codes.dtype.element_ty), mask)
        tl.store(scales + rows, tl.load(scales + rows, is_row, 0.0) / shrink, is_row)
