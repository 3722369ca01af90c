"""Kernels by which devices tell each other that something lies in the other's memory."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_SPINS = 1024
"""Between looks at the host's memory: about a millisecond."""


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
