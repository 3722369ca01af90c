"""The kernel that writes what LoRAs make of a coded input, as codes behind its own.

It has little to compute and its input has just been written, so what counts is that the whole GPU reads at
once, and how little it does besides. Several programs share a block of rows, each takes some of its columns,
and the last one that is done adds their sums up, in one order whoever it is.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from backends.torch_cuda.codes import ARRIVALS, LARGEST

_LEAST_COLUMNS = 512
"""That a program reads; less would not pay for adding its sums to the others'."""
_MOST_PARTS = 8
"""Of a block; reading their sums takes the last program longer than they save."""
_AT_ONCE = 2
"""Other programs' sums on their way at once; registers have no room for more."""
_FEW_ROWS = 16 * ARRIVALS
"""A text, or a small picture: larger blocks would be too few for the whole GPU."""
_MANY_COLUMNS = 8192
"""Of a row; with fewer, larger tiles do not pay."""
_TURNED_RANKS = 64
"""That a tensor core takes of its first factor, at least."""


class Shape(NamedTuple):
    """Of the tiles that a program multiplies.

    Attributes:
        is_turned: Whether down @ codes^T is computed, not codes @ down^T. A tensor core takes 64 rows of its
            first factor at least, so that smaller blocks of codes have to be the second.
        rows: Of codes.
        columns: Of codes and of `down`.
        warps: That share a tile.
        stages: Tiles that are there or on their way.
        programs: How many keep a large GPU busy; up to 2 * ARRIVALS, so that blocks which several of them
            share can be counted.
    """

    is_turned: bool
    rows: int
    columns: int
    warps: int
    stages: int
    programs: int = 2 * ARRIVALS


SLIM = Shape(False, rows=64, columns=256, warps=4, stages=3)
"""For up to 32 ranks, and for up to 64 of many long rows."""
SMALL = Shape(True, rows=32, columns=128, warps=4, stages=5)
"""For up to 64 ranks, of few rows or short ones."""
BROAD = Shape(False, rows=128, columns=128, warps=8, stages=3, programs=ARRIVALS)
"""For up to 128 ranks; from here on `down` has two parts."""
LOW = Shape(True, rows=32, columns=128, warps=4, stages=4)
"""For up to 128 ranks, of few rows."""
LARGE = Shape(False, rows=128, columns=64, warps=8, stages=4, programs=ARRIVALS)
"""For more ranks."""
FLAT = Shape(True, rows=32, columns=64, warps=8, stages=4)
"""For more ranks, of few rows."""


def shape_for(rows: int, own: int, ranks: int) -> Shape:
    """What was the fastest on an H200 at FLUX.1's sizes, or less than a microsecond behind it.

    Args:
        rows: Of the input.
        own: Its columns.
        ranks: A power of two.
    """
    is_few = rows <= _FEW_ROWS
    if ranks <= 32:
        return SLIM
    if ranks <= 64:
        return SMALL if is_few or own < _MANY_COLUMNS else SLIM
    if ranks <= 128:
        return LOW if is_few else BROAD
    return FLAT if is_few else LARGE


def project(codes: Tensor, scales: Tensor, down: Tensor, gains: Tensor, arrivals: Tensor) -> None:
    """`backends.torch_cuda.codes.project` of codes whose rows are evenly apart."""
    shape = shape_for(scales.numel(), down.shape[2], _padded(down.shape[1]))
    project_in(shape, codes, scales, down, gains, arrivals)


def project_in(
    shape: Shape, codes: Tensor, scales: Tensor, down: Tensor, gains: Tensor, arrivals: Tensor
) -> None:
    """`project` with tiles of a shape."""
    (num_down, num_ranks, own), width, rows = down.shape, codes.stride(-2), scales.numel()
    tail = codes.shape[-1] - own
    ranks = max(_padded(num_ranks), _TURNED_RANKS if shape.is_turned else 0)
    blocks = triton.cdiv(rows, shape.rows)
    # Where there are more than ARRIVALS blocks, each is one part and nothing is counted.
    parts = max(1, min(shape.programs // blocks, own // _LEAST_COLUMNS, _MOST_PARTS))
    sums = scales if parts == 1 else scales.new_empty((parts, rows, ranks))
    tile = (shape.rows + num_down * ranks) * shape.columns
    _project[(parts, blocks)](
        codes, scales, down, gains, sums, arrivals, rows, own, tail, num_ranks, width, parts,
        num_down, shape.is_turned, shape.rows, shape.columns, ranks, _AT_ONCE, LARGEST,
        num_warps=shape.warps, num_stages=min(shape.stages, _stages(codes.device, tile)),
    )  # fmt: skip


def _padded(num_ranks: int) -> int:
    """As a power of two that a tensor core takes."""
    return max(16, triton.next_power_of_2(num_ranks))


@cache
def _stages(device: torch.device, tile: int) -> int:
    """How many tiles of so many bytes have room in shared memory, and one that is computed with.

    The latter lies in registers on GPUs with 100 KiB. Where it stays in shared memory there are 227 KiB,
    enough for any Shape as it is.
    """
    if device.type != "cuda":
        return 1
    return 1 + torch.cuda.get_device_properties(device).shared_memory_per_block_optin // tile


@triton.jit(do_not_specialize=["num_rows", "parts"])  # one compilation for all sizes of picture
def _project(
    codes, scales, down, gains, partial, arrivals, num_rows, own, tail, num_ranks, width, parts,
    NUM_DOWN: tl.constexpr, IS_TURNED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    RANKS: tl.constexpr, AT_ONCE: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0)
    block = tl.num_programs(1) - 1 - tl.program_id(1)  # the rows that were coded last are still in the cache
    rows, ranks, cols = tl.arange(0, ROWS), tl.arange(0, RANKS), tl.arange(0, COLUMNS)
    is_row, is_rank = block * ROWS + rows < num_rows, ranks < num_ranks
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
        for which in tl.static_range(NUM_DOWN):
            w = tl.load(down + which * num_ranks * own + there, is_rank[:, None] & is_col[None, :], 0.0)
            sums = tl.dot(w, tl.trans(x), sums) if IS_TURNED else tl.dot(x, tl.trans(w), sums)
    if IS_TURNED:
        sums = tl.trans(sums)
    if parts == 1:
        _finish(
            codes, scales, gains, sums, is_row, is_rank, own, tail, num_ranks, width,
            NUM_DOWN, COLUMNS, LARGEST,
        )  # fmt: skip
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
            _finish(
                codes, scales, gains, sums, is_row, is_rank, own, tail, num_ranks, width,
                NUM_DOWN, COLUMNS, LARGEST,
            )  # fmt: skip


@triton.jit
def _finish(
    codes, scales, gains, sums, is_row, is_rank, own, tail, num_ranks, width,
    NUM_DOWN: tl.constexpr, COLUMNS: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    """Sums as codes, and zeros, behind those of their rows; rows where they are too large become smaller."""
    rows, ranks, cols = tl.arange(0, sums.shape[0]), tl.arange(0, sums.shape[1]), tl.arange(0, COLUMNS)
    is_cell = is_row[:, None] & is_rank[None, :]
    codes += rows[:, None] * width
    sums *= tl.load(gains + ranks, is_rank, 0.0)[None, :]
    over = tl.maximum(tl.max(tl.abs(sums), 1) / LARGEST, 1.0)
    shrink = tl.exp2(-tl.ceil(tl.log2(over)))
    sums *= shrink[:, None]
    tails = sums.to(codes.dtype.element_ty)
    tl.store(codes + (own + ranks)[None, :], tails, is_cell)
    taken = num_ranks
    if NUM_DOWN == 1:
        lacking = (sums - tails.to(tl.float32)).to(codes.dtype.element_ty)
        tl.store(codes + (own + num_ranks + ranks)[None, :], lacking, is_cell)
        taken += num_ranks
    for start in range(taken, tail, COLUMNS):
        mask = is_row[:, None] & (start + cols < tail)[None, :]
        tl.store(codes + (own + start + cols)[None, :], 0.0, mask)
    if tl.max(over, 0) > 1.0:
        for start in range(0, own, COLUMNS):
            mask = is_row[:, None] & (start + cols < own)[None, :]
            x = tl.load(codes + (start + cols)[None, :], mask, 0.0).to(tl.float32)
            tl.store(codes + (start + cols)[None, :], (x * shrink[:, None]).to(codes.dtype.element_ty), mask)
        tl.store(scales + rows, tl.load(scales + rows, is_row, 0.0) / shrink, is_row)
