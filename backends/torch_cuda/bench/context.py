"""What every piece of the benchmark is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from backends.torch_cuda.bench.figures import Results
from backends.torch_cuda.bench.sizes import Sizes
from backends.torch_cuda.bench.weights import write_lora, write_model


@dataclass
class Bench:
    """A run of the benchmark.

    Attributes:
        device: That computes.
        sizes: What is measured.
        results: Where figures go.
        has_peer: Whether the peer is measured, too.
        is_peer_compiled: Whether the peer is also measured compiled, which takes it half a minute.
        precisions: To measure, by name.
        base: Where a whole model lies or will be written.
        floor_s: Seconds of a step that library kernels need, by precision, once it is known.
    """

    device: torch.device
    sizes: Sizes
    results: Results
    has_peer: bool
    is_peer_compiled: bool
    precisions: tuple[str, ...]
    base: Path
    floor_s: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def dtype(self) -> torch.dtype:
        """The half precision of the device; of a processor float32, which it is faster in."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def models_dir(self) -> Path:
        """A folder of models with one in it; written at the first call."""
        return write_model(self.base, self.sizes.spec)

    def lora(self, rank: int, is_whole: bool = False) -> str:
        """The name of a LoRA on every matrix of the blocks, beside the models; written at the first call."""
        name = f"every-matrix-{rank}{'-whole' if is_whole else ''}"
        write_lora(self.base / "loras" / f"{name}.safetensors", self.sizes.spec, rank, is_whole)
        return name


Piece = Callable[[Bench], None]
