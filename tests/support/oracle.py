"""The third implementation of ops and leaves: NumPy, float64, written for reading, never for speed.

Torch and MLX are judged by their distance to this, so nothing here shares code with either,
but for what the compositions of operations mean. Where a backend uses a fused kernel, this has the
textbook formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from flux_core.ops import ComposedOps, Padding
from flux_core.weights.tensors import TensorSource

Array = np.ndarray


class OracleOps(ComposedOps):
    """flux_core.ops.Ops in float64."""

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        return np.concatenate(arrays, axis)

    def split(self, x: Array, sizes: Sequence[int], axis: int) -> list[Array]:
        return np.split(x, np.cumsum(sizes)[:-1], axis)

    def transpose(self, x: Array, axes: Sequence[int]) -> Array:
        return np.transpose(x, axes)

    def take_rows(self, x: Array, index: Array) -> Array:
        return np.stack([x[b, i] for b, i in enumerate(index)])

    def upsample_nearest(self, x: Array) -> Array:
        return x.repeat(2, axis=1).repeat(2, axis=2)

    def cast_like(self, x: Array, reference: Array) -> Array:
        return x.astype(reference.dtype)

    def silu(self, x: Array) -> Array:
        return x * sigmoid(x)

    def relu(self, x: Array) -> Array:
        return np.where(x > 0, x, 0.0)

    def tanh(self, x: Array) -> Array:
        return 1 - 2 / (np.exp(2 * x) + 1)

    def gelu_tanh(self, x: Array) -> Array:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def quick_gelu(self, x: Array) -> Array:
        return x * sigmoid(1.702 * x)

    def gelu_gate(self, gate: Array, value: Array) -> Array:
        return self.gelu_tanh(gate) * value

    def sinusoid(self, s: Array, dim: int, max_period: float = 10_000.0, scale: float = 1000.0) -> Array:
        frequencies = max_period ** (-2 * np.arange(dim // 2) / dim)
        angles = scale * s[:, None] * frequencies
        return np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)

    def modulated_norm(self, x: Array, shift: Array, scale: Array, eps: float) -> Array:
        return (1 + scale) * standardised(x, (-1,), eps) + shift

    def qk_norm_rope(self, q: Array, k: Array, q_norm: Any, k_norm: Any, pe: Array) -> tuple[Array, Array]:
        return rotated(q_norm(q), pe), rotated(k_norm(k), pe)

    def attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        scale: float,
        bias: Array | None = None,
        is_causal: bool = False,
    ) -> Array:
        logits = scale * np.einsum("bhld,bhmd->bhlm", q, k)
        if bias is not None:
            logits = logits + bias
        if is_causal:
            logits = np.where(np.tri(q.shape[2], k.shape[2], dtype=bool), logits, -np.inf)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out = np.einsum("bhlm,bhmd->blhd", weights, v)
        return out.reshape(*out.shape[:2], -1)

    def gated_add(self, x: Array, gate: Array, y: Array) -> Array:
        return x + gate * y


class OracleLeaves:
    """flux_core.ops.LeafFactory whose leaves are closures over float64 weights."""

    def __init__(self, tensors: TensorSource) -> None:
        self._tensors = tensors

    def linear(self, name: str, in_dim: int, out_dim: int, bias: bool = True) -> Any:
        weight = self._get(f"{name}.weight", out_dim, in_dim)
        offset = self._get(f"{name}.bias", out_dim) if bias else 0.0
        return lambda x: x @ weight.T + offset

    def conv2d(
        self,
        name: str,
        in_dim: int,
        out_dim: int,
        kernel: int,
        stride: int = 1,
        padding: Padding = (0, 0),
        bias: bool = True,
    ) -> Any:
        weight = self._get(f"{name}.weight", out_dim, in_dim, kernel, kernel)
        offset = self._get(f"{name}.bias", out_dim) if bias else 0.0

        def leaf(x: Array) -> Array:
            padded = np.pad(x, ((0, 0), padding, padding, (0, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
            windows = windows[:, ::stride, ::stride]  # [B, H', W', in, k, k]
            return np.tensordot(windows, weight, axes=((3, 4, 5), (1, 2, 3))) + offset

        return leaf

    def rms_norm(self, name: str, dim: int, eps: float, key: str = "weight") -> Any:
        weight = self._get(f"{name}.{key}", dim)
        return lambda x: x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight

    def layer_norm(self, name: str, dim: int, eps: float) -> Any:
        weight, offset = self._get(f"{name}.weight", dim), self._get(f"{name}.bias", dim)
        return lambda x: standardised(x, (-1,), eps) * weight + offset

    def group_norm(self, name: str, groups: int, dim: int, eps: float) -> Any:
        weight, offset = self._get(f"{name}.weight", dim), self._get(f"{name}.bias", dim)

        def leaf(x: Array) -> Array:
            grouped = x.reshape(*x.shape[:3], groups, dim // groups)
            return standardised(grouped, (1, 2, 4), eps).reshape(x.shape) * weight + offset

        return leaf

    def embedding(self, name: str, rows: int, dim: int) -> Any:
        weight = self._get(f"{name}.weight", rows, dim)
        return lambda index: weight[index]

    def parameter(self, name: str, shape: tuple[int, ...]) -> Any:
        value = self._get(name, *shape)
        return lambda: value

    def _get(self, name: str, *shape: int) -> Array:
        weight = self._tensors.read(name).to_numpy().astype(np.float64)
        assert weight.shape == shape, name
        return weight


class OracleBackend:
    """flux_core.ops.Backend in float64, whatever precision it is asked for."""

    name = "oracle"
    is_queued = False

    def __init__(self) -> None:
        self.ops = OracleOps()

    def session(self) -> AbstractContextManager[None]:
        return nullcontext()

    def leaves(self, tensors: TensorSource, precision: Any) -> OracleLeaves:
        return OracleLeaves(tensors)

    def from_numpy(self, x: Array) -> Array:
        return x.astype(np.float64) if x.dtype.kind == "f" else x

    def cast(self, x: Array, precision: Any) -> Array:
        return x

    def to_numpy(self, x: Array) -> Array:
        return x

    def bring(self, x: Array) -> Callable[[], Array]:
        return lambda: x

    def to_bytes(self, image: Array) -> Array:
        return np.round((np.clip(image, -1.0, 1.0) * 0.5 + 0.5) * 255.0).astype(np.uint8)

    def evaluate(self, *arrays: Array) -> None:
        pass

    def wait(self, *arrays: Array) -> None:
        pass


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def standardised(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    """Mean 0, variance 1 over the axes; biased variance, eps under the root."""
    centred = x - x.mean(axes, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axes, keepdims=True) + eps)


def rotated(x: Array, pe: Array) -> Array:
    """Adjacent pairs of [B, H, L, D] as complex numbers, times cos + i sin."""
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * (pe[..., 0] + 1j * pe[..., 1])
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)
