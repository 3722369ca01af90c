"""MLX's default device as a flux_core backend: Metal on a Mac, the CPU elsewhere.

Metal computes in bfloat16 and the CPU in float32 unless told otherwise. MLX arrays belong to the
thread that made them, so one thread must load, call and read.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from backends.mlx_metal.leaves import MlxLeaves
from backends.mlx_metal.ops import MlxOps
from flux_core.errors import Corrupt
from flux_core.ops import Ops
from flux_core.request import Precision
from flux_core.weights.tensors import RawTensor, TensorSource

_STORAGE = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}


class MlxBackend:
    """flux_core.ops.Backend on MLX."""

    def __init__(self) -> None:
        self._is_metal = mx.default_device() == mx.Device(mx.gpu)
        self.name = "mlx-metal" if self._is_metal else "mlx-cpu"
        self.ops: Ops = MlxOps()

    def session(self) -> AbstractContextManager[None]:
        """Nothing: MLX records no gradients unless asked."""
        return nullcontext()

    def leaves(self, tensors: TensorSource, precision: Precision) -> MlxLeaves:
        dtype = self._dtype(precision)
        return MlxLeaves(lambda name: _weight(tensors.read(name), dtype))

    def from_numpy(self, x: NDArray[Any]) -> mx.array:
        return mx.array(x)

    def cast(self, x: mx.array, precision: Precision) -> mx.array:
        return x.astype(self._dtype(precision))

    def to_numpy(self, x: mx.array) -> NDArray[np.float32]:
        return np.array(x.astype(mx.float32))

    def evaluate(self, *arrays: mx.array) -> None:
        mx.eval(*arrays)

    def _dtype(self, precision: Precision) -> mx.Dtype:
        if precision is Precision.AUTO:
            return mx.bfloat16 if self._is_metal else mx.float32
        return mx.bfloat16 if precision is Precision.BF16 else mx.float32


def array_of(raw: RawTensor) -> mx.array:
    """A checkpoint tensor in its own dtype (float64 becomes float32).

    Raises:
        Corrupt: The dtype is not a plain floating one.
    """
    if raw.dtype == "BF16":
        return mx.array(raw.data.view("<u2").reshape(raw.shape)).view(mx.bfloat16)
    if raw.dtype not in _STORAGE:
        raise Corrupt(
            f"Tensor {raw.name!r} is stored as {raw.dtype}, where F32, F16 or BF16 is needed.",
            "Get the unquantised file.",
        )
    return mx.array(raw.data.view(_STORAGE[raw.dtype]).reshape(raw.shape))


def _weight(raw: RawTensor, dtype: mx.Dtype) -> mx.array:
    weight = array_of(raw).astype(dtype)
    mx.eval(weight)  # now, so that the bytes it came from are not held
    return weight
