"""Random weights, sources in memory, and the distance by which a backend is judged."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from flux_core.weights.tensors import RawTensor, TensorInfo

BACKENDS = ("torch", "mlx")


def make_backend(name: str) -> Any:
    """A fresh CPU backend; MLX uses its default device, which is Metal on a Mac."""
    if name == "torch":
        from backends.torch_cuda.backend import TorchBackend

        return TorchBackend("cpu")
    from backends.mlx_metal.backend import MlxBackend

    return MlxBackend()


class ArraySource:
    """A TensorSource over float32 arrays."""

    metadata: Mapping[str, str] = MappingProxyType({})

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = {name: np.array(array, np.float32, order="C") for name, array in arrays.items()}

    def names(self) -> Mapping[str, TensorInfo]:
        return {name: TensorInfo("F32", array.shape) for name, array in self.arrays.items()}

    def read(self, name: str) -> RawTensor:
        array = self.arrays[name]
        return RawTensor(name, "F32", array.shape, array.reshape(-1).view(np.uint8))


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Values that keep activations near one, and no bias or norm at its trivial value."""
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape)
        if len(shape) > 1:
            is_table = "embed" in name or "shared" in name or "attention_bias" in name
            values *= 0.5 if is_table else np.prod(shape[1:]) ** -0.5
        else:
            values = 0.2 * values + (0.0 if name.endswith("bias") else 1.0)
        weights[name] = values.astype(np.float32)
    return weights


def to_bf16(x: np.ndarray) -> np.ndarray:
    """float32 values rounded to the nearest bfloat16."""
    words = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    words = (words + 0x7FFF + ((words >> 16) & 1)) & 0xFFFF0000
    return words.astype(np.uint32).view(np.float32).reshape(x.shape)


def distance(found: np.ndarray, true: np.ndarray) -> float:
    """Largest absolute difference, relative to the largest true value."""
    assert found.shape == true.shape
    assert np.isfinite(found).all()
    return float(np.abs(found - true).max() / np.abs(true).max())
