"""How much memory a torch device has, how torch says that it ran out of it, and how its products begin."""

from __future__ import annotations

import os

import torch

from flux_core import machine
from flux_core.messages import Device

_WORKSPACE = "CUBLASLT_WORKSPACE_SIZE"
"""Of products with a bias or codes. torch 2.11 reads CUBLAS_WORKSPACE_CONFIG, which is for all, anew for each
product, which takes the host .15 ms."""
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(err: RuntimeError) -> bool:
    """Torch has a class for its CUDA allocator only; the processor and CUDA's libraries say it in words."""
    return isinstance(err, torch.OutOfMemoryError) or any(words in str(err) for words in _NO_MEMORY)


def prepare_products() -> None:
    """Gives products with a bias or codes no workspace, unless CUBLASLT_WORKSPACE_SIZE is set.

    Comes before a process's first product. With one cuBLAS clears a counter in it before nearly every product
    and each waits for the other: 4 us, 190 times in an eight-bit step. Its kernels are the same without, but
    for the counter. That was seen of what an engine multiplies; training does as torch does.
    """
    os.environ.setdefault(_WORKSPACE, "0")


def device_of(device: torch.device) -> Device:
    """What the service shows of a device, with the memory that is free now."""
    if device.type != "cuda":
        return machine.processor()
    free, total = torch.cuda.mem_get_info(device)
    name = torch.cuda.get_device_name(device)
    return Device(name=name, kind="cuda", memory_total_bytes=total, memory_free_bytes=free)
