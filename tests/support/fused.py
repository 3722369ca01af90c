"""What tests of fused operations share: a GPU or Triton's interpreter, and random arrays on it."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is first imported
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")

triton_only = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="NOT TESTED HERE: the fused operations need the package triton (`make kernels`)",
)


class Draw:
    """Random arrays in one dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(DEVICE, self.dtype)


def mend_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts right two mistakes of triton 3.6's interpreter; does nothing on a GPU.

    A mantissa that rounds up to the next power of two loses its carry in a cast to eight bits, and a number
    that is not known at compile time cannot end a loop with numpy 2.4.
    """
    if HAS_GPU:
        return
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    monkeypatch.setattr(interpreter, "_convert_float", _converted)
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patched)


def _converted(values: np.ndarray, from_type: Any, to_type: Any, rounding: Any) -> np.ndarray:
    """What the interpreter casts with: bits of one float type -> bits of another."""
    torch_types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    torch_types["fp8e4nv"] = torch.float8_e4m3fn
    of, to = torch_types[from_type.name], torch_types[to_type.name]
    ints = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
    bits = torch.frombuffer(bytearray(values.tobytes()), dtype=of).to(to).view(ints[to.itemsize])
    return bits.numpy().view(f"u{to.itemsize}").reshape(values.shape)
