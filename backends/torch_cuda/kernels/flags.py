"""Kernels by which devices write into each other's memory, and tell each other that they have."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_VALUES = 2048
"""That a program copies."""
_SPINS = 1024
"""Between looks at the host's memory: about a millisecond."""


def copy(rows: Tensor, there: Tensor, place: Tensor | None = None, arrivals: Tensor | None = None) -> None:
    """Writes contiguous rows to where they are wanted, on this device or another.

    Args:
        rows: [L, ...].
        there: As many, at least one, evenly apart, each of them contiguous.
        place: [1] int64, the address of a flag that is raised when all of them are there.
        arrivals: [1] int32 of zeros on this device, which are zeros again afterwards; given with `place`.
    """
    size, width = rows.numel(), rows.stride(0)
    is_flat = there.stride(0) == width
    _flags_copy[(triton.cdiv(size, _VALUES),)](
        rows, there, size, there.stride(0), place, arrivals, 0 if is_flat else width, _VALUES, num_warps=4
    )  # fmt: skip


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
def _flags_copy(rows, there, size, pitch, place, arrivals, WIDTH: tl.constexpr, VALUES: tl.constexpr):
    places = tl.program_id(0) * VALUES + tl.arange(0, VALUES)
    values = tl.load(rows + places, places < size)
    if WIDTH != 0:
        there += places // WIDTH * pitch + places % WIDTH
    else:
        there += places
    tl.store(there, values, places < size)
    if place is not None:
        tl.debug_barrier()  # all of this program's values are written before it says so
        if tl.atomic_add(arrivals, 1, sem="acq_rel", scope="sys") == tl.num_programs(0) - 1:
            tl.store(arrivals, 0)
            flag = tl.load(place).to(tl.pointer_type(tl.int32))
            tl.atomic_xchg(flag, 1, sem="release", scope="sys")


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
