"""What memory a device has for this process, which may have been given a share of it."""

from __future__ import annotations

import torch


def free_and_total_bytes(device: torch.device) -> tuple[int, int]:
    """Of a CUDA device: what this process may still take, what it keeps unused included; and all of it."""
    number = torch.cuda.current_device() if device.index is None else device.index
    free, total = torch.cuda.mem_get_info(number)
    used = torch.cuda.memory_allocated(number)
    allowed = int(total * torch.cuda.get_per_process_memory_fraction(number))
    kept = torch.cuda.memory_reserved(number) - used
    return max(0, min(free + kept, allowed - used)), min(total, allowed)
