"""LoRAs on MLX: what hangs on a linear leaf beside its weight, whatever form that weight has.

Strengths are arrays in the leaves' registry, so a function compiled with it as `inputs` sees a new one at
once. Arithmetic is in the input's dtype, scales and DoRA's lengths in float32.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from backends.mlx_metal.leaves import Linear
from flux_core.weights.lora.attach import Adapters
from flux_core.weights.lora.patches import Axis, Difference, Floats, Hadamard, Kronecker, LowRank, Patch


class MlxAdapters(Adapters):
    """The adapters of one part.

    Args:
        leaves: MlxLeaves.leaves.
        dtype: Of their matrices.
    """

    def __init__(self, leaves: dict[str, nn.Module], dtype: mx.Dtype) -> None:
        super().__init__(leaves)
        self._dtype = dtype

    def _adapter(self, leaf: Linear, patch: Patch, strength: float) -> Adapter:
        return Adapter(leaf, patch, strength, self._dtype)

    def _insert(self, leaf: Linear, adapter: Adapter) -> None:
        leaf.adapters.append(adapter)

    def _remove(self, leaf: Linear, adapter: Adapter) -> None:
        leaf.adapters = [other for other in leaf.adapters if other is not adapter]

    def _set_strength(self, adapter: Adapter, strength: float) -> None:
        adapter.strength = mx.array(strength, mx.float32)

    def _widened(self, leaf: Linear, columns: int) -> mx.array:
        return _padded(leaf.weight_in(self._dtype), columns)

    def _set_weight(self, leaf: Linear, weight: Any) -> None:
        leaf.weight = weight

    def _norm(self, leaf: Any, part: str) -> mx.array:
        return leaf[part]

    def _set_norm(self, leaf: Any, part: str, values: mx.array | Floats) -> None:
        leaf[part] = values if isinstance(values, mx.array) else mx.array(values).astype(leaf[part].dtype)

    def _host(self, values: mx.array) -> Floats:
        return np.array(values.astype(mx.float32))


class Adapter(nn.Module):
    """y with strength * delta(x) added to some of its columns.

    Args:
        leaf: The linear leaf that it will hang on.
        patch: What it adds.
        strength: To begin with.
        dtype: Of the matrices.
    """

    def __init__(self, leaf: Linear, patch: Patch, strength: float, dtype: mx.Dtype) -> None:
        super().__init__()
        self.rows = patch.rows
        self.columns = patch.columns
        self.by_rows = patch.magnitude is not None and patch.magnitude.axis is Axis.ROWS
        self.strength = mx.array(strength, mx.float32)
        self.delta = _delta(patch)
        bias = patch.delta.bias if isinstance(patch.delta, LowRank | Difference) else None
        self.bias = None if bias is None else mx.array(bias)
        self.gain = self._gain(leaf, patch)
        if self.delta is not None:
            self.delta.set_dtype(dtype)
        mx.eval(self.parameters())  # now, so that the float32 forms are not held

    def __call__(self, leaf: Linear, x: mx.array, y: mx.array) -> mx.array:
        first, last = self.rows
        part = y[..., first:last]
        if self.delta is not None:
            x = x[..., : self.columns]
            part = part + (
                self.delta(x, self.strength) if self.gain is None else self._with_lengths(leaf, x, self.gain)
            )
        if self.bias is not None:
            part = part + (self.strength * self.bias).astype(y.dtype)
        if last - first == y.shape[-1]:
            return part
        return mx.concatenate([y[..., :first], part, y[..., last:]], axis=-1)

    def _with_lengths(self, leaf: Linear, x: mx.array, gain: mx.array) -> mx.array:
        """DoRA: strength * (W' - W) x, with W' = gain * (W + delta).

        The base is multiplied once more rather than taken from y, which other adapters may have changed.
        """
        first, last = self.rows
        weight = leaf.weight_in(x.dtype)[first:last, : self.columns]
        one = mx.array(1.0, mx.float32)
        if self.by_rows:
            base, delta = (x @ weight.T).astype(mx.float32), self.delta(x, one).astype(mx.float32)
            return (self.strength * ((gain - 1) * base + gain * delta)).astype(x.dtype)
        base_x, delta_x = _scaled(x, self.strength * (gain - 1)), _scaled(x, self.strength * gain)
        return base_x @ weight.T + self.delta(delta_x, one)

    def _gain(self, leaf: Linear, patch: Patch) -> mx.array | None:
        """DoRA's lengths over those of W + delta: [rows] or [columns] float32."""
        if patch.magnitude is None or self.delta is None:
            return None
        first, last = self.rows
        weight = leaf.weight_in(mx.float32)[first:last, : self.columns]
        weight = _padded(weight, self.columns) + self.delta.dense()
        length = mx.linalg.norm(weight, axis=1 if self.by_rows else 0)
        return mx.array(patch.magnitude.values) / mx.maximum(length, float(np.finfo(np.float32).tiny))


class LowRankDelta(nn.Module):
    """x [..., columns] -> up @ (s * (down @ x)), with the factor in `up`."""

    def __init__(self, delta: LowRank) -> None:
        super().__init__()
        self.up = mx.array(delta.up) * delta.scale
        self.down = mx.array(delta.down)

    def __call__(self, x: mx.array, s: mx.array) -> mx.array:
        return _scaled(x @ self.down.T, s) @ self.up.T

    def dense(self) -> mx.array:
        return self.up @ self.down


class HadamardDelta(nn.Module):
    """LoHa; its full matrix is made when it is used and never kept."""

    def __init__(self, delta: Hadamard) -> None:
        super().__init__()
        self.w1_a = mx.array(delta.w1_a) * delta.scale
        self.w1_b = mx.array(delta.w1_b)
        self.w2_a = mx.array(delta.w2_a)
        self.w2_b = mx.array(delta.w2_b)

    def __call__(self, x: mx.array, s: mx.array) -> mx.array:
        return _scaled(x, s) @ self.dense().T

    def dense(self) -> mx.array:
        return (self.w1_a @ self.w1_b) * (self.w2_a @ self.w2_b)


class KroneckerDelta(nn.Module):
    """LoKr: kron(w1, w2) x = w1 X w2^T with x laid out as X [b, d]; the product is never made."""

    def __init__(self, delta: Kronecker) -> None:
        super().__init__()
        self.w1 = mx.array(delta.w1) * delta.scale
        self.w2_a = mx.array(delta.w2_a)
        self.w2_b = None if delta.w2_b is None else mx.array(delta.w2_b)

    def __call__(self, x: mx.array, s: mx.array) -> mx.array:
        inner = x.reshape(*x.shape[:-1], self.w1.shape[1], -1)  # [..., b, d]
        if self.w2_b is not None:
            inner = inner @ self.w2_b.T
        inner = inner @ self.w2_a.T  # [..., b, c]
        # The other way round, so that it is one large product instead of many small ones.
        outer = inner.swapaxes(-1, -2) @ _scaled(self.w1, s).T  # [..., c, a]
        return outer.swapaxes(-1, -2).reshape(*x.shape[:-1], -1)  # [..., a * c]

    def dense(self) -> mx.array:
        return mx.kron(self.w1, self.w2_a if self.w2_b is None else self.w2_a @ self.w2_b)


class FullDelta(nn.Module):
    """A whole matrix."""

    def __init__(self, weight: Floats) -> None:
        super().__init__()
        self.weight = mx.array(weight)

    def __call__(self, x: mx.array, s: mx.array) -> mx.array:
        return _scaled(x, s) @ self.weight.T

    def dense(self) -> mx.array:
        return self.weight


def _delta(patch: Patch) -> Any:
    """The module of a patch's matrix; None for a bias alone."""
    match patch.delta:
        case LowRank():
            return LowRankDelta(patch.delta)
        case Hadamard():
            return HadamardDelta(patch.delta)
        case Kronecker():
            return KroneckerDelta(patch.delta)
        case Difference():
            return None if patch.delta.weight is None else FullDelta(patch.delta.weight)
        case _:
            raise TypeError(f"{type(patch.delta).__name__} hangs on no linear leaf")


def _scaled(x: mx.array, s: mx.array) -> mx.array:
    """x * s in float32, back in x's dtype."""
    return (x.astype(mx.float32) * s).astype(x.dtype)


def _padded(weight: mx.array, columns: int) -> mx.array:
    """With columns of zeros behind its own, up to so many."""
    return mx.pad(weight, [(0, 0), (0, max(0, columns - weight.shape[1]))])
