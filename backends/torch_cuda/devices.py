"""How much memory a torch device has, and how torch says that it ran out of it."""

from __future__ import annotations

import torch

from flux_core import machine
from flux_core.messages import Device

_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(err: RuntimeError) -> bool:
    """Torch has a class for its CUDA allocator only; the processor and CUDA's libraries say it in words."""
    return isinstance(err, torch.OutOfMemoryError) or any(words in str(err) for words in _NO_MEMORY)


def device_of(device: torch.device) -> Device:
    """What the service shows of a device, with the memory that is free now."""
    if device.type != "cuda":
        return machine.processor()
    free, total = torch.cuda.mem_get_info(device)
    name = torch.cuda.get_device_name(device)
    return Device(name=name, kind="cuda", memory_total_bytes=total, memory_free_bytes=free)
