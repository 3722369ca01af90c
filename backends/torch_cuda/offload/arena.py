"""One piece of a device's memory for all weights that stay there when others do not.

What loads weights takes and frees memory between them, and a tensor that lands in what was freed leaves a gap
beside it. On a device that is filled to the brim the gaps are what is missing for a step: of FLUX.1 in eight
bits on a card of 8 GB they were more than a gigabyte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from backends.torch_cuda.leaves import Linear, LinearMaker
from backends.torch_cuda.offload.schedule import Bucket, total_bytes
from backends.torch_cuda.packed import PackedWeight

ALIGNMENT = 256
"""Bytes; what kernels want, and torch's own allocators give."""

_TENSORS_OF_A_LAYER = 4  # at most: codes and what lies beside them


class Arena:
    """Memory for the weights of some layers.

    Args:
        device: Where it is.
        buckets: Of the layers.
    """

    def __init__(self, device: torch.device, buckets: Iterable[Bucket]) -> None:
        buckets = list(buckets)
        self._layers = {layer for bucket in buckets for layer in bucket.layers}
        size = total_bytes(buckets) + ALIGNMENT * _TENSORS_OF_A_LAYER * len(self._layers)
        with torch.inference_mode(False):  # so that it may be written to in any mode
            self._memory = torch.empty(size, dtype=torch.uint8, device=device)
        self._used = 0

    def holding(self, make: LinearMaker) -> LinearMaker:
        """The maker of leaves whose weights lie in the arena, if they are of its layers."""

        def made(name: str, weight: nn.Parameter | PackedWeight, bias: nn.Parameter | None) -> Linear:
            leaf = make(name, weight, bias)
            if name in self._layers:
                self._take(leaf)
            return leaf

        return made

    def _take(self, leaf: Linear) -> None:
        if isinstance(leaf.weight, PackedWeight):
            leaf.weight.hand_over(self._finder)
        else:
            leaf.weight = nn.Parameter(self._kept(leaf.weight.data), requires_grad=False)

    def _finder(self, tensor: Tensor) -> Callable[[], Tensor]:
        kept = self._kept(tensor)
        return lambda: kept

    def _kept(self, tensor: Tensor) -> Tensor:
        """The same values in the arena; where they are, should it be full."""
        raw = tensor.contiguous().view(-1).view(torch.uint8)
        end = self._used + raw.numel()
        if end > self._memory.numel():
            return tensor
        with torch.inference_mode(False):
            place = self._memory[self._used : end]
        place.copy_(raw)
        self._used = -(-end // ALIGNMENT) * ALIGNMENT
        with torch.inference_mode(False):
            return place.view(tensor.dtype).view(tensor.shape)
