"""Where a training runs: a CUDA device if there is one, else the processor; and whether it fits there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.devices import is_out_of_memory
from backends.torch_cuda.training.lora.base import Base, is_large, memory_of
from backends.torch_cuda.training.lora.pictures import Example
from backends.torch_cuda.training.lora.places import Places
from backends.torch_cuda.training.lora.train import train
from flux_core import machine
from flux_core.errors import OutOfMemory
from flux_core.lora_training import Advance, Ended, LoraTraining, Wrote
from flux_core.plan import Component, make_plan
from flux_core.request import SIZE_MULTIPLE_PX, GenerationRequest, Precision

_SMALLER = (
    "Choose a smaller --size, --batch 1, or an fp8 file of the model with --model; or close other programs."
)


def carry_out(
    training: LoraTraining,
    base: Base,
    examples: Sequence[Example],
    places: Places,
    say: Callable[[Advance | Wrote], None],
    is_stopped: Callable[[], bool],
) -> Ended:
    """Trains on this machine's best device; arguments and errors as train.train.

    Raises:
        OutOfMemory: It does not fit, as far as that can be told before, or did not.
    """
    backend = TorchBackend("cuda" if torch.cuda.is_available() else "cpu")
    precision = training.precision
    if precision is Precision.AUTO:
        precision = Precision.BF16 if backend.device.type == "cuda" else Precision.FP32
    check_memory(training, base, examples, precision, free_bytes(backend.device))
    try:
        return train(training, base, examples, places, backend, precision, say, is_stopped)
    except RuntimeError as err:
        if not is_out_of_memory(err):
            raise
        raise _too_little(training, base) from err


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return machine.processor().memory_free_bytes


def check_memory(
    training: LoraTraining,
    base: Base,
    examples: Sequence[Example],
    precision: Precision,
    free: int,
) -> None:
    """Refuses what cannot fit.

    Raises:
        OutOfMemory: With how much it would take.
    """
    value_bytes = 4 if precision is Precision.FP32 else 2
    largest = max(each.size[0] * each.size[1] for each in examples)
    tokens = (base.spec.t5_tokens + largest // SIZE_MULTIPLE_PX**2) * (training.batch_size or 1)
    needed = memory_of(base, training.rank, tokens, value_bytes, is_large(base.spec)).total
    words = make_plan(GenerationRequest(), base.spec, value_bytes)
    needed = max(needed, *(s.weight_bytes for s in words.steps if s.component is Component.T5))
    if needed > free:
        raise _too_little(
            training, base, f": it takes about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} are free"
        )


def _too_little(training: LoraTraining, base: Base, detail: str = "") -> OutOfMemory:
    return OutOfMemory(
        f"There is not enough memory to train {base.spec.title} at {training.size_px} pixels{detail}.",
        _SMALLER,
    )
