"""Kernels by which devices write into each other's memory, and tell each other that they have."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_VALUES = 8192
"""That a program copies."""
_SPINS = 1024
"""Between looks at the host's memory: about a millisecond."""


def copy(rows: Tensor, there: Tensor) -> None:
    """Writes contiguous rows into as many values in another device's memory."""
    size = rows.numel()
    _flags_copy[(triton.cdiv(size, _VALUES),)](rows, there, size, _VALUES, num_warps=8)


def raise_flags(places: Tensor) -> None:
    """Writes 1 where nobody else writes.

    Args:
        places: [N] int64, addresses of int32 flags in other devices' memory.
    """
    _flags_raise[(len(places),)](places, num_warps=1)


def await_flags(flags: Tensor, gone: Tensor) -> None:
    """Waits until flags [N] int32 are 1 and makes them 0.

    Args:
        flags: On this device.
        gone: [1] int32 in the host's pinned memory; 1 ends all waiting.
    """
    _flags_await[(len(flags),)](flags, gone, _SPINS, num_warps=1)


@triton.jit
def _flags_copy(rows, there, size, VALUES: tl.constexpr):
    places = tl.program_id(0) * VALUES + tl.arange(0, VALUES)
    tl.store(there + places, tl.load(rows + places, places < size), places < size)


@triton.jit
def _flags_raise(places):
    flag = tl.load(places + tl.program_id(0)).to(tl.pointer_type(tl.int32))
    tl.atomic_xchg(flag, 1, sem="release", scope="sys")


@triton.jit
def _flags_await(flags, gone, SPINS: tl.constexpr):
    flag = flags + tl.program_id(0)
    spins, waits = 0, 1
    while waits != 0:
        waits = 1 - tl.atomic_cas(flag, 1, 0, sem="acquire", scope="sys")
        spins += 1
        if (waits != 0) & (spins % SPINS == 0):
            waits = 1 - tl.load(gone, volatile=True)
