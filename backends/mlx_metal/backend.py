"""MLX's default device as a flux_core backend: Metal on a Mac, the CPU elsewhere.

Metal computes in bfloat16 and the CPU in float32 unless told otherwise. MLX arrays belong to the
thread that made them, so one thread must load, call and read.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from backends.mlx_metal.adapters import MlxAdapters
from backends.mlx_metal.leaves import MlxLeaves
from backends.mlx_metal.ops import MlxOps
from backends.mlx_metal.packed import BITS, PackedWeight
from flux_core.errors import Corrupt
from flux_core.ops import Ops
from flux_core.request import Precision
from flux_core.weights.fetch import Fetcher
from flux_core.weights.quant.schemes import decode
from flux_core.weights.tensors import RawTensor, TensorSource

_NATIVE = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}
_STORAGE = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}


class MlxBackend:
    """flux_core.ops.Backend on MLX."""

    def __init__(self) -> None:
        self._is_metal = mx.default_device() == mx.Device(mx.gpu)
        self.name = "mlx-metal" if self._is_metal else "mlx-cpu"
        self.is_queued = False  # it computes what it is asked for
        self.ops: Ops = MlxOps()

    def session(self) -> AbstractContextManager[None]:
        """Nothing: MLX records no gradients unless asked."""
        return nullcontext()

    def leaves(
        self,
        tensors: TensorSource,
        precision: Precision,
        working_bytes: int | None = None,
        is_brief: bool = False,
    ) -> MlxLeaves:
        dtype = self._dtype(precision)

        fetcher = Fetcher()

        def packed(name: str) -> PackedWeight | None:
            raw = tensors.read(name)
            if not raw.is_quantised:
                return None
            return PackedWeight(raw, _bytes(raw, fetcher).reshape(raw.num_rows, -1))

        return MlxLeaves(lambda name: _weight(tensors.read(name), fetcher, dtype), packed, dtype)

    def streamed_bytes(self, leaves: MlxLeaves) -> int:
        return 0  # there is one memory

    def adapters(self, leaves: MlxLeaves, precision: Precision) -> MlxAdapters:
        return MlxAdapters(leaves.leaves, self._dtype(precision))

    def from_numpy(self, x: NDArray[Any]) -> mx.array:
        return mx.array(x)

    def cast(self, x: mx.array, precision: Precision) -> mx.array:
        return x.astype(self._dtype(precision))

    def to_numpy(self, x: mx.array) -> NDArray[np.float32]:
        return np.array(x.astype(mx.float32))

    def bring(self, x: mx.array) -> Callable[[], NDArray[np.float32]]:
        return partial(self.to_numpy, x)

    def to_bytes(self, image: mx.array) -> NDArray[np.uint8]:
        values = (mx.clip(image.astype(mx.float32), -1.0, 1.0) * 0.5 + 0.5) * 255.0
        return np.array(mx.round(values).astype(mx.uint8))

    def evaluate(self, *arrays: mx.array) -> None:
        mx.eval(*arrays)

    def wait(self, *arrays: mx.array) -> None:
        mx.eval(*arrays)

    def _dtype(self, precision: Precision) -> mx.Dtype:
        if precision is Precision.AUTO:
            return mx.bfloat16 if self._is_metal else mx.float32
        return mx.bfloat16 if precision is Precision.BF16 else mx.float32


def array_of(raw: RawTensor) -> mx.array:
    """A checkpoint tensor in its own dtype (float64 becomes float32); float32 values where it is quantised.

    Raises:
        Corrupt: The dtype is neither a plain floating one nor a scheme.
    """
    if raw.is_quantised:
        companions = {key: mx.array(np.array(value)) for key, value in raw.companions.items()}
        rows = mx.array(raw.data.reshape(raw.num_rows, -1))
        return decode(raw.dtype, rows, companions, BITS).reshape(raw.shape)
    if raw.dtype == "BF16":
        return mx.array(raw.data.view("<u2").reshape(raw.shape)).view(mx.bfloat16)
    if raw.dtype not in _STORAGE:
        raise Corrupt(
            f"Tensor {raw.name!r} is stored as {raw.dtype}, which is no form of weights known here.",
            "Get the file in bfloat16, or in a quantised form that `flowbrush models inspect` knows.",
        )
    return mx.array(raw.data.view(_STORAGE[raw.dtype]).reshape(raw.shape))


def _weight(raw: RawTensor, fetcher: Fetcher, dtype: mx.Dtype) -> mx.array:
    stored = _NATIVE.get(raw.dtype)
    if raw.dtype in ("BF16", "F16") and dtype == mx.float32:
        weight = mx.zeros(raw.shape, dtype)
        mx.eval(weight)
        fetcher.floats_into(raw.dtype, raw.data, np.array(weight, copy=False).reshape(-1))
        return weight
    own = array_of(raw) if stored is None else _bytes(raw, fetcher).view(stored).reshape(raw.shape)
    weight = own.astype(dtype)
    mx.eval(weight)  # now, so that the bytes it came from are not held
    return weight


def _bytes(raw: RawTensor, fetcher: Fetcher) -> mx.array:
    """The tensor's bytes [size] uint8, read straight into an array's memory."""
    codes = mx.zeros((raw.data.size,), mx.uint8)
    mx.eval(codes)
    fetcher.into(raw.data, np.array(codes, copy=False))
    return codes
