"""Leaves on MLX: nn.Modules that hold weights, kept in one live registry.

The registry is what a compiled function must name as its inputs, or it freezes the weights it first
saw; so a leaf object is never swapped, only changed inside. Convolution weights are turned to MLX's
[out, kh, kw, in] once, here.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
from mlx import nn

from backends.mlx_metal.packed import PackedWeight

TensorGetter = Callable[[str], mx.array]
"""name -> array in its dtype and checkpoint shape."""
PackedGetter = Callable[[str], PackedWeight | None]
"""name -> the weight as it is packed, or None where it is a plain array."""


class MlxLeaves:
    """flux_core.ops.LeafFactory on MLX.

    Args:
        get: Gives each named array.
        get_packed: Gives the weights that stay quantised.
        dtype: Of what packed embeddings give.

    Attributes:
        leaves: Every leaf by checkpoint name, in the order they were asked for.
    """

    def __init__(
        self, get: TensorGetter, get_packed: PackedGetter = lambda name: None, dtype: mx.Dtype = mx.float32
    ) -> None:
        self._get = get
        self._get_packed = get_packed
        self._dtype = dtype
        self.leaves: dict[str, nn.Module] = {}

    def linear(self, name: str, in_dim: int, out_dim: int, bias: bool = True) -> nn.Module:
        return self._keep(
            name, Linear(self._weight(f"{name}.weight"), self._get(f"{name}.bias") if bias else None)
        )

    def conv2d(
        self,
        name: str,
        in_dim: int,
        out_dim: int,
        kernel: int,
        stride: int = 1,
        padding: tuple[int, int] = (0, 0),
        bias: bool = True,
    ) -> nn.Module:
        weight = mx.contiguous(self._get(f"{name}.weight").transpose(0, 2, 3, 1))  # [out, kh, kw, in]
        mx.eval(weight)
        offset = self._get(f"{name}.bias") if bias else None
        return self._keep(name, Conv2d(weight, offset, stride, padding))

    def rms_norm(self, name: str, dim: int, eps: float, key: str = "weight") -> nn.Module:
        return self._keep(name, RMSNorm(self._get(f"{name}.{key}"), eps))

    def layer_norm(self, name: str, dim: int, eps: float) -> nn.Module:
        return self._keep(name, LayerNorm(self._get(f"{name}.weight"), self._get(f"{name}.bias"), eps))

    def group_norm(self, name: str, groups: int, dim: int, eps: float) -> nn.Module:
        return self._keep(
            name, GroupNorm(self._get(f"{name}.weight"), self._get(f"{name}.bias"), groups, eps)
        )

    def embedding(self, name: str, rows: int, dim: int) -> nn.Module:
        return self._keep(name, Embedding(self._weight(f"{name}.weight"), self._dtype))

    def _weight(self, name: str) -> mx.array | PackedWeight:
        packed = self._get_packed(name)
        return packed if packed is not None else self._get(name)

    def parameter(self, name: str, shape: tuple[int, ...]) -> nn.Module:
        return self._keep(name, Parameter(self._get(name)))

    def _keep(self, name: str, leaf: nn.Module) -> nn.Module:
        self.leaves[name] = leaf
        return leaf


class Linear(nn.Module):
    """[..., in] -> [..., out].

    Args:
        weight: [out, in], plain or packed.
        bias: [out], or None.

    Attributes:
        adapters: What LoRAs and the like add, in order; each is called with (this leaf, x, y) and gives
            the next y.
    """

    def __init__(self, weight: mx.array | PackedWeight, bias: mx.array | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.adapters: list[nn.Module] = []

    def weight_in(self, dtype: mx.Dtype) -> mx.array:
        """The weight [out, in] in a dtype; decoded where it is packed."""
        return self.weight(dtype) if isinstance(self.weight, PackedWeight) else self.weight.astype(dtype)

    def __call__(self, x: mx.array) -> mx.array:
        if isinstance(self.weight, PackedWeight):
            y = self.weight.matmul(x)
            y = y if self.bias is None else y + self.bias
        else:
            y = x @ self.weight.T if self.bias is None else mx.addmm(self.bias, x, self.weight.T)
        for adapter in self.adapters:
            y = adapter(self, x, y)
        return y


class Conv2d(nn.Module):
    """[B, H, W, in] -> [B, H', W', out]."""

    def __init__(
        self, weight: mx.array, bias: mx.array | None, stride: int, padding: tuple[int, int]
    ) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.stride = stride
        before, after = padding
        self.padding = ([before, before], [after, after])

    def __call__(self, x: mx.array) -> mx.array:
        out = mx.conv_general(x, self.weight, stride=self.stride, padding=self.padding)
        return out if self.bias is None else out + self.bias


class RMSNorm(nn.Module):
    """x / rms(x) in float32, cast back, times the weight."""

    def __init__(self, weight: mx.array, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, None, self.eps) * self.weight.astype(x.dtype)


class LayerNorm(nn.Module):
    """Over the last axis, with weight and bias."""

    def __init__(self, weight: mx.array, bias: mx.array, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.layer_norm(x, self.weight, self.bias, self.eps)


class GroupNorm(nn.Module):
    """[B, H, W, C] over H, W and each group's neighbouring channels (torch's grouping)."""

    def __init__(self, weight: mx.array, bias: mx.array, groups: int, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.groups = groups
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        batch, height, width, channels = x.shape
        grouped = x.reshape(batch, height * width, self.groups, channels // self.groups)
        rows = grouped.transpose(0, 2, 1, 3).reshape(batch, self.groups, -1)  # [B, G, H*W*C/G]
        normed = mx.fast.layer_norm(rows, None, None, self.eps)
        normed = normed.reshape(batch, self.groups, height * width, -1).transpose(0, 2, 1, 3)
        return normed.reshape(batch, height, width, channels) * self.weight + self.bias


class Embedding(nn.Module):
    """Integers [...] -> [..., dim]; a packed table decodes only the rows that are asked for.

    Args:
        weight: [rows, dim], plain or packed.
        dtype: Of the result where the table is packed.
    """

    def __init__(self, weight: mx.array | PackedWeight, dtype: mx.Dtype = mx.float32) -> None:
        super().__init__()
        self.weight = weight
        self.dtype = dtype

    def __call__(self, index: mx.array) -> mx.array:
        if isinstance(self.weight, PackedWeight):
            rows = self.weight.rows(index, self.dtype)
            return mx.where(mx.isnan(rows), 0, rows)  # casts to fp8 overflowed in some published T5 files
        return self.weight[index]


class Parameter(nn.Module):
    """() -> the array itself."""

    def __init__(self, weight: mx.array) -> None:
        super().__init__()
        self.weight = weight

    def __call__(self) -> mx.array:
        return self.weight
