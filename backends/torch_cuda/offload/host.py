"""Memory of the host from which a GPU can copy by itself: pinned where the system lets us.

Its size is exact and it goes back to the system when nobody holds it, unlike memory of torch's allocator for
pinned memory (a power of two, for good); a model is hundreds of such pieces.
"""

from __future__ import annotations

import logging
import mmap
import weakref
from typing import Any

import psutil
import torch
from torch import Tensor

MIN_UNPINNED_BYTES = 2 * 2**30
"""What the system and others keep; pinned memory cannot be moved out of their way."""

_log = logging.getLogger(__name__)


class HostMemory:
    """A piece of memory.

    Args:
        size_bytes: Above 0.
        device: That copies from it.

    Attributes:
        bytes: [size] uint8.
        is_pinned: Whether the device copies from it without the processor.

    Raises:
        MemoryError: The machine has not so much.
    """

    def __init__(self, size_bytes: int, device: torch.device) -> None:
        available = psutil.virtual_memory().available
        if size_bytes > available:
            raise MemoryError(f"{size_bytes} bytes of weights are more than the {available} that are free")
        pages = mmap.mmap(-1, size_bytes)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)
        with torch.inference_mode(False):  # so that it may be written to in any mode
            self.bytes = torch.frombuffer(pages, dtype=torch.uint8)
        if device.type == "cuda":
            self.bytes.zero_()  # by many threads: the system makes pages when they are first written to
        is_roomy = available - size_bytes >= MIN_UNPINNED_BYTES
        self.is_pinned = device.type == "cuda" and is_roomy and _pin(self.bytes)
        if self.is_pinned:
            end = weakref.finalize(self, _unpin, self.bytes, device)
            end.atexit = False


def _pin(memory: Tensor) -> bool:
    status = _runtime().cudaHostRegister(memory.data_ptr(), memory.numel(), 0)
    if int(status) == 0:
        return True
    _log.warning("Memory could not be pinned (CUDA error %d): copying to the device is slower.", int(status))
    _forget_error()
    return False


def _forget_error() -> None:
    """CUDA keeps the last error for whoever asks next, which would be an operation that went well."""
    try:
        torch.zeros(1, device="cuda")
    except RuntimeError:
        return


def _unpin(memory: Tensor, device: torch.device) -> None:
    torch.cuda.synchronize(device)  # it may be being copied from
    _runtime().cudaHostUnregister(memory.data_ptr())


def _runtime() -> Any:
    return torch.cuda.cudart()
