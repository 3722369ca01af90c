"""The protocol between a model and a backend: operations without weights, and leaves that hold them.

A model is plain Python over `Ops` and a `LeafFactory`; a backend implements both. Each operation's
meaning is fixed here to the last eps, and tests hold every backend to a NumPy float64 oracle.
Images are [B, H, W, C]; scalars enter as Python numbers, never as arrays; no operation writes in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

NumpyArray: TypeAlias = NDArray[Any]


class HeadStream(NamedTuple):
    """What one stream brings to a joint attention.

    Attributes:
        qkv: [B, L, 3*H*D] projected, in rows [q|k|v], head-major.
        q_norm, k_norm: RMS-norm leaves over the head dimension.
    """

    qkv: Any
    q_norm: Any
    k_norm: Any


class Sum(NamedTuple):
    """x + gate * y, for whoever reads it to add up beside what else it does with it.

    Attributes:
        x: [B, L, D].
        gate: [B, 1, D].
        y: [B, L, D]; None where x is all.
    """

    x: Any
    gate: Any = None
    y: Any = None


class Modulated(NamedTuple):
    """One stream on its way into a joint attention: linear((1 + scale) * LayerNorm(x) + shift).

    Attributes:
        x: [B, L, D], or a Sum of such.
        shift, scale: [B, 1, D].
        linear: A leaf from D.
    """

    x: Any
    shift: Any
    scale: Any
    linear: Any


class Ops(Protocol):
    """Operations without weights. All keep the dtype of their first array argument.

    Inside, statistics and angles are computed in float32 (float64 by the oracle) and cast back.
    """

    # --- plumbing -----------------------------------------------------------------------------
    def concat(self, arrays: Sequence[Any], axis: int) -> Any:
        """Joins along `axis`."""
        ...

    def split(self, x: Any, sizes: Sequence[int], axis: int) -> list[Any]:
        """Cuts `axis` into parts of the given sizes, which sum to its length."""
        ...

    def transpose(self, x: Any, axes: Sequence[int]) -> Any:
        """Reorders the axes."""
        ...

    def take_rows(self, x: Any, index: Any) -> Any:
        """x: [B, L, D], index: [B] integers -> [B, D], row index[b] of batch b."""
        ...

    def upsample_nearest(self, x: Any) -> Any:
        """[B, H, W, C] -> [B, 2H, 2W, C], every pixel doubled."""
        ...

    def cast_like(self, x: Any, reference: Any) -> Any:
        """x in the dtype of `reference`."""
        ...

    # --- elementwise --------------------------------------------------------------------------
    def silu(self, x: Any) -> Any:
        """x * sigmoid(x)."""
        ...

    def relu(self, x: Any) -> Any:
        """max(x, 0)."""
        ...

    def tanh(self, x: Any) -> Any:
        """Hyperbolic tangent."""
        ...

    def gelu_tanh(self, x: Any) -> Any:
        """0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the approximation FLUX and T5 use."""
        ...

    def quick_gelu(self, x: Any) -> Any:
        """x * sigmoid(1.702 x), CLIP's activation."""
        ...

    def gelu_gate(self, gate: Any, value: Any) -> Any:
        """gelu_tanh(gate) * value, the gated feed-forward of T5 v1.1."""
        ...

    # --- semantic: where speed lives ------------------------------------------------------------
    def sinusoid(self, s: Any, dim: int, max_period: float = 10_000.0, scale: float = 1000.0) -> Any:
        """[B] -> [B, dim] float32: cosines of scale*s*f_i first, then sines, f_i = max_period^(-2i/dim).

        Source: black-forest-labs/flux modules/layers.py timestep_embedding.
        """
        ...

    def modulated_norm(self, x: Any, shift: Any, scale: Any, eps: float) -> Any:
        """(1 + scale) * LayerNorm(x) + shift; x: [B, L, D], shift and scale: [B, 1, D], no affine."""
        ...

    def qk_norm_rope(self, q: Any, k: Any, q_norm: Any, k_norm: Any, pe: Any) -> tuple[Any, Any]:
        """RMS-norms q and k over the head dimension by their leaves, then rotates them.

        q, k: [B, H, L, D]; pe: [L, D/2, 2] float32 (cos, sin). Pairs are adjacent:
        (e, o) -> (e cos - o sin, e sin + o cos).
        """
        ...

    def attention(
        self, q: Any, k: Any, v: Any, *, scale: float, bias: Any | None = None, is_causal: bool = False
    ) -> Any:
        """softmax(scale q k^T + bias) v, [B, H, L, D] each -> [B, L, H*D].

        k and v may have another length M, unless it is causal; bias: [1, H or 1, L, M].
        """
        ...

    def gated_add(self, x: Any, gate: Any, y: Any) -> Any:
        """x + gate * y; gate: [B, 1, D]."""
        ...

    # --- compositions: of the above by default (ComposedOps), fused where a backend can -----------
    @property
    def adds_late(self) -> bool:
        """Whether a Sum is better added up by who reads it than at once."""
        ...

    def modulated_linear(self, x: Any, shift: Any, scale: Any, eps: float, linear: Any) -> Any:
        """linear(modulated_norm(x)): [B, L, D] -> [B, L, out]."""
        ...

    def modulated_linears(self, streams: Sequence[Modulated], eps: float) -> list[tuple[Any, Any]]:
        """x' and modulated_linear(x') of each stream: [B, L, D], its Sum added up, and [B, L, out]."""
        ...

    def gated_mlp(
        self, x: Any, gate: Any, y: Any, shift: Any, scale: Any, eps: float, up: Any, down: Any
    ) -> tuple[Any, Any]:
        """x' = gated_add(x, gate, y), and down(gelu_tanh(up(modulated_norm(x')))); each [B, L, D]."""
        ...

    def parallel_mlp(
        self,
        x: Any,
        shift: Any,
        scale: Any,
        eps: float,
        linear1: Any,
        linear2: Any,
        attend: Callable[[Any], Any],
    ) -> Any:
        """Attention and MLP side by side, from one projection to one; [B, L, D] -> [B, L, D].

        linear1(modulated_norm(x)) is cut into qkv [B, L, 3*D] and mlp [B, L, N];
        linear2(concat([attend(qkv), gelu_tanh(mlp)])) is the result.
        """
        ...

    def gated_parallel_mlp(
        self,
        x: Any,
        gate: Any,
        y: Any,
        shift: Any,
        scale: Any,
        eps: float,
        linear1: Any,
        linear2: Any,
        attend: Callable[[Any], Any],
    ) -> tuple[Any, Any]:
        """x' = gated_add(x, gate, y), and parallel_mlp(x', ...); each [B, L, D]."""
        ...

    def norm_silu(self, x: Any, norm: Any) -> Any:
        """silu(norm(x)); x: [B, H, W, C], norm: a group-norm leaf."""
        ...

    def res_block(self, x: Any, norm1: Any, conv1: Any, norm2: Any, conv2: Any, shortcut: Any | None) -> Any:
        """conv2(norm_silu(conv1(norm_silu(x, norm1)), norm2)) + shortcut(x), or + x; [B, H, W, C]."""
        ...

    def upsample_conv(self, x: Any, conv: Any) -> Any:
        """conv(upsample_nearest(x)); [B, H, W, C] -> [B, 2H, 2W, C']."""
        ...

    def joint_heads(self, streams: Sequence[HeadStream], num_heads: int, pe: Any) -> tuple[Any, Any, Any]:
        """q, k and v of several streams, one behind the other, each [B, H, L, D]; L is all their tokens.

        q and k are normed by each stream's own leaves and rotated, as by qk_norm_rope; pe: [L, D/2, 2].
        """
        ...

    def joint_attention(
        self, streams: Sequence[HeadStream], num_heads: int, pe: Any, *, scale: float, bias: Any | None = None
    ) -> Any:
        """attention of joint_heads: every stream's tokens to those of all, [B, L, H*D]."""
        ...


class ComposedOps(Ops, Protocol):
    """What the compositions of `Ops` mean, in its other operations; a backend overrides what it has fused."""

    @property
    def adds_late(self) -> bool:
        return False

    def modulated_linear(self, x: Any, shift: Any, scale: Any, eps: float, linear: Any) -> Any:
        return linear(self.modulated_norm(x, shift, scale, eps))

    def modulated_linears(self, streams: Sequence[Modulated], eps: float) -> list[tuple[Any, Any]]:
        found: list[tuple[Any, Any]] = []
        for each in streams:
            x = added_up(self, each.x)
            found.append((x, self.modulated_linear(x, each.shift, each.scale, eps, each.linear)))
        return found

    def gated_mlp(
        self, x: Any, gate: Any, y: Any, shift: Any, scale: Any, eps: float, up: Any, down: Any
    ) -> tuple[Any, Any]:
        x = self.gated_add(x, gate, y)
        return x, down(self.gelu_tanh(up(self.modulated_norm(x, shift, scale, eps))))

    def norm_silu(self, x: Any, norm: Any) -> Any:
        return self.silu(norm(x))

    def res_block(self, x: Any, norm1: Any, conv1: Any, norm2: Any, conv2: Any, shortcut: Any | None) -> Any:
        h = conv2(self.norm_silu(conv1(self.norm_silu(x, norm1)), norm2))
        return h + (x if shortcut is None else shortcut(x))

    def upsample_conv(self, x: Any, conv: Any) -> Any:
        return conv(self.upsample_nearest(x))

    def parallel_mlp(
        self,
        x: Any,
        shift: Any,
        scale: Any,
        eps: float,
        linear1: Any,
        linear2: Any,
        attend: Callable[[Any], Any],
    ) -> Any:
        h = linear1(self.modulated_norm(x, shift, scale, eps))
        qkv_dim = 3 * int(x.shape[2])
        qkv, mlp = self.split(h, [qkv_dim, int(h.shape[2]) - qkv_dim], axis=2)
        return linear2(self.concat([attend(qkv), self.gelu_tanh(mlp)], axis=2))

    def gated_parallel_mlp(
        self,
        x: Any,
        gate: Any,
        y: Any,
        shift: Any,
        scale: Any,
        eps: float,
        linear1: Any,
        linear2: Any,
        attend: Callable[[Any], Any],
    ) -> tuple[Any, Any]:
        x = self.gated_add(x, gate, y)
        return x, self.parallel_mlp(x, shift, scale, eps, linear1, linear2, attend)

    def joint_heads(self, streams: Sequence[HeadStream], num_heads: int, pe: Any) -> tuple[Any, Any, Any]:
        parts: list[tuple[Any, Any, Any]] = []
        start = 0
        for stream in streams:
            q, k, v = split_heads(self, stream.qkv, num_heads)
            end = start + int(q.shape[2])
            q, k = self.qk_norm_rope(q, k, stream.q_norm, stream.k_norm, pe[start:end])
            parts.append((q, k, v))
            start = end
        if len(parts) == 1:
            return parts[0]
        q, k, v = (self.concat(each, axis=2) for each in zip(*parts, strict=True))
        return q, k, v

    def joint_attention(
        self, streams: Sequence[HeadStream], num_heads: int, pe: Any, *, scale: float, bias: Any | None = None
    ) -> Any:
        q, k, v = self.joint_heads(streams, num_heads, pe)
        return self.attention(q, k, v, scale=scale, bias=bias)


def added_up(ops: Ops, x: Any) -> Any:
    """[B, L, D] of a Sum; of an array itself."""
    if not isinstance(x, Sum):
        return x
    return x.x if x.y is None else ops.gated_add(x.x, x.gate, x.y)


def split_heads(ops: Ops, qkv: Any, num_heads: int) -> list[Any]:
    """qkv [B, L, 3*D] in rows [q|k|v], head-major -> q, k, v, each [B, H, L, D/H]."""
    batch, length, width = qkv.shape
    dim = width // 3
    parts = ops.split(qkv, [dim, dim, dim], axis=2)
    return [
        ops.transpose(part.reshape(batch, length, num_heads, dim // num_heads), (0, 2, 1, 3))
        for part in parts
    ]


class LeafFactory(Protocol):
    """Gives callables that already hold their weights, asked for by checkpoint name.

    Weight shapes are torch's ([out, in], [out, in, kh, kw]). Each leaf keeps its input's dtype.
    A leaf alone knows about precision, quantisation, LoRA and where its weights live.
    """

    def linear(self, name: str, in_dim: int, out_dim: int, bias: bool = True) -> Any:
        """`name`.weight [out_dim, in_dim], `name`.bias [out_dim]; [..., in_dim] -> [..., out_dim]."""
        ...

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
        """`name`.weight [out, in, k, k], `name`.bias [out]; [B, H, W, in] -> [B, H', W', out].

        padding: zeros added (before, after) on both image axes.
        """
        ...

    def rms_norm(self, name: str, dim: int, eps: float, key: str = "weight") -> Any:
        """`name`.`key` [dim]; x / sqrt(mean(x^2) + eps) in float32, cast back, times the weight."""
        ...

    def layer_norm(self, name: str, dim: int, eps: float) -> Any:
        """`name`.weight, `name`.bias [dim]; over the last axis."""
        ...

    def group_norm(self, name: str, groups: int, dim: int, eps: float) -> Any:
        """`name`.weight, `name`.bias [dim]; [B, H, W, dim], statistics over H, W and dim/groups channels."""
        ...

    def embedding(self, name: str, rows: int, dim: int) -> Any:
        """`name`.weight [rows, dim]; integers [...] -> [..., dim]."""
        ...

    def parameter(self, name: str, shape: tuple[int, ...]) -> Any:
        """`name` (no suffix is added) of this shape; () -> the array, in the model's precision."""
        ...


Padding: TypeAlias = tuple[int, int]


class Backend(Protocol):
    """One device with its operations: what the shared engine needs to run a model.

    Attributes:
        is_queued: Whether it computes what it is told beside the host, in order, without being asked for it.
    """

    name: str
    ops: Ops
    is_queued: bool

    def session(self) -> AbstractContextManager[Any]:
        """Entered once by the thread that runs models, around loading and calls (no gradients, ...)."""
        ...

    def leaves(
        self, tensors: Any, precision: Any, working_bytes: int | None = None, is_brief: bool = False
    ) -> LeafFactory:
        """A factory over checkpoint tensors (a flux_core.weights.TensorSource).

        working_bytes: What a model of these leaves needs on the device beside its weights. Where it is known,
        weights that do not fit beside it may lie elsewhere and come to the device whenever they are used.
        is_brief: Whether it is called once or twice, and not at every step.
        """
        ...

    def streamed_bytes(self, leaves: Any) -> int:
        """Of the weights of a factory, what comes to the device whenever it is used."""
        ...

    def adapters(self, leaves: Any, precision: Any) -> Any:
        """What LoRAs are attached with to the leaves of a factory (a flux_core.weights.lora.Adapters)."""
        ...

    def from_numpy(self, x: NumpyArray) -> Any:
        """NumPy array -> device array of the same dtype."""
        ...

    def cast(self, x: Any, precision: Any) -> Any:
        """Floating array in the given precision."""
        ...

    def to_numpy(self, x: Any) -> NDArray[np.float32]:
        """Device array -> float32 NumPy array; waits for the device."""
        ...

    def bring(self, x: Any) -> Callable[[], NDArray[np.float32]]:
        """Begins `to_numpy`; what it gives waits for x, and for nothing that the device is told later."""
        ...

    def to_bytes(self, image: Any) -> NDArray[np.uint8]:
        """Device array, -1 to 1 -> bytes of the same shape, 0 to 255, the nearest; waits for the device."""
        ...

    def evaluate(self, *arrays: Any) -> None:
        """Has the arrays computed: a lazy backend (MLX) would keep what they are made from.

        A device with a queue has them in it already, and is not waited for.
        """
        ...

    def wait(self, *arrays: Any) -> None:
        """Until the arrays are computed."""
        ...
