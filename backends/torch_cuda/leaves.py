"""Leaves on torch: nn.Modules that hold weights, made from a checkpoint or fresh for training.

They are nn.Modules (not plain tensors) so that CUDA graphs see their weights as static inputs. A
leaf computes in the dtype of its input; weights are cast once, when the leaf is made.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from backends.torch_cuda.packed import PackedWeight

TensorGetter = Callable[[str], Tensor]
"""name -> tensor, already on its device and in its dtype."""
PackedGetter = Callable[[str], PackedWeight | None]
"""name -> the weight as it is packed, or None where it is a plain tensor."""


class TorchLeaves:
    """flux_core.ops.LeafFactory on torch.

    Args:
        get: Gives each named tensor; None makes fresh parameters for training.
        device, dtype: Where fresh parameters live.
        get_packed: Gives the weights that stay quantised; None for none.
        make_linear: Makes the leaf of a name from its weight [out, in] and bias [out].
        norms_feed_codes: Whether heads that an RMS norm gives may be attended in eight bits.

    Attributes:
        modules: Every leaf by checkpoint name, in the order they were asked for.
        streamed_bytes: Of weights that are brought to the device whenever they are used.
    """

    def __init__(
        self,
        get: TensorGetter | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        get_packed: PackedGetter | None = None,
        make_linear: LinearMaker | None = None,
        norms_feed_codes: bool = False,
    ) -> None:
        self._get = get
        self._norms_feed_codes = norms_feed_codes
        self._make_linear = make_linear or plain_linear
        self._get_packed = get_packed
        self._device = device
        self._dtype = dtype
        self.modules: dict[str, nn.Module] = {}
        self.streamed_bytes = 0

    def linear(self, name: str, in_dim: int, out_dim: int, bias: bool = True) -> nn.Module:
        weight = self._weight(f"{name}.weight", (out_dim, in_dim), in_dim**-0.5)
        offset = self._parameter(f"{name}.bias", (out_dim,), 0.0) if bias else None
        return self._keep(name, self._make_linear(name, weight, offset))

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
        deviation = (in_dim * kernel * kernel) ** -0.5
        weight = self._parameter(f"{name}.weight", (out_dim, in_dim, kernel, kernel), deviation)
        offset = self._parameter(f"{name}.bias", (out_dim,), 0.0) if bias else None
        return self._keep(name, Conv2d(weight, offset, stride, padding))

    def rms_norm(self, name: str, dim: int, eps: float, key: str = "weight") -> nn.Module:
        weight = self._parameter(f"{name}.{key}", (dim,), None)
        return self._keep(name, RMSNorm(weight, eps, key, self._norms_feed_codes))

    def layer_norm(self, name: str, dim: int, eps: float) -> nn.Module:
        weight, bias = self._affine(name, dim)
        return self._keep(name, LayerNorm(weight, bias, eps))

    def group_norm(self, name: str, groups: int, dim: int, eps: float) -> nn.Module:
        weight, bias = self._affine(name, dim)
        return self._keep(name, GroupNorm(weight, bias, groups, eps))

    def embedding(self, name: str, rows: int, dim: int) -> nn.Module:
        return self._keep(name, Embedding(self._weight(f"{name}.weight", (rows, dim), 1.0), self._dtype))

    def parameter(self, name: str, shape: tuple[int, ...]) -> nn.Module:
        return self._keep(name, Parameter(self._parameter(name, shape, 0.02)))

    def _affine(self, name: str, dim: int) -> tuple[nn.Parameter, nn.Parameter]:
        return self._parameter(f"{name}.weight", (dim,), None), self._parameter(f"{name}.bias", (dim,), 0.0)

    def _parameter(self, name: str, shape: tuple[int, ...], deviation: float | None) -> nn.Parameter:
        """The named tensor; fresh: normal with this standard deviation, or ones when None."""
        if self._get is not None:
            return nn.Parameter(self._get(name), requires_grad=False)
        if deviation is None:
            return nn.Parameter(torch.ones(shape, device=self._device, dtype=self._dtype))
        return nn.Parameter(torch.randn(shape, device=self._device, dtype=self._dtype) * deviation)

    def _weight(self, name: str, shape: tuple[int, ...], deviation: float) -> nn.Parameter | PackedWeight:
        packed = self._get_packed(name) if self._get_packed is not None else None
        return packed if packed is not None else self._parameter(name, shape, deviation)

    def _keep(self, name: str, leaf: nn.Module) -> nn.Module:
        self.modules[name] = leaf
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

    def __init__(self, weight: nn.Parameter | PackedWeight, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.adapters = nn.ModuleList()

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """The weight [out, in] in a dtype; decoded where it is packed."""
        return self.weight(dtype) if isinstance(self.weight, PackedWeight) else self.weight.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight(x.dtype) if isinstance(self.weight, PackedWeight) else self.weight
        y = functional.linear(x, weight, self.bias)
        for adapter in self.adapters:
            y = adapter(self, x, y)
        return y

    def settle(self) -> bool:
        """Makes itself ready after its adapters or their strengths have changed.

        Returns:
            Whether what was recorded of it does something else than it does now.
        """
        return False


LinearMaker = Callable[[str, nn.Parameter | PackedWeight, nn.Parameter | None], Linear]


def plain_linear(name: str, weight: nn.Parameter | PackedWeight, bias: nn.Parameter | None) -> Linear:
    return Linear(weight, bias)


class Conv2d(nn.Module):
    """[B, H, W, in] -> [B, H', W', out]; channels_last inside, so the permutes are views."""

    def __init__(
        self, weight: nn.Parameter, bias: nn.Parameter | None, stride: int, padding: tuple[int, int]
    ) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.stride = stride
        before, after = padding
        self.symmetric = before if before == after else 0
        self.extra = None if before == after else (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        return self._convolved(x, self.bias)

    def without_bias(self, x: Tensor) -> Tensor:
        """For those who add the bias with something else."""
        return self._convolved(x, None)

    def _convolved(self, x: Tensor, bias: Tensor | None) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        if self.extra is not None:
            x = functional.pad(x, self.extra)
        out = functional.conv2d(x, self.weight, bias, stride=self.stride, padding=self.symmetric)
        return out.permute(0, 2, 3, 1)


class RMSNorm(nn.Module):
    """x / rms(x) in float32, cast back, times the weight; the parameter is called `key`.

    Heads that it gives may become codes of eight bits in an attention where `feeds_codes` says so.
    """

    def __init__(self, weight: nn.Parameter, eps: float, key: str, feeds_codes: bool = False) -> None:
        super().__init__()
        self.key = key
        self.eps = eps
        self.feeds_codes = feeds_codes
        self.register_parameter(key, weight)

    @property
    def gain(self) -> Tensor:
        """The weight [dim], whatever it is called."""
        return getattr(self, self.key)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.gain
        normed = functional.rms_norm(x.float(), (x.shape[-1],), eps=self.eps)
        return normed.to(x.dtype) * weight.to(x.dtype)


class LayerNorm(nn.Module):
    """Over the last axis, with weight and bias."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)


class GroupNorm(nn.Module):
    """[B, H, W, C] over H, W and each group's channels."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter, groups: int, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.groups = groups
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        out = functional.group_norm(x.permute(0, 3, 1, 2), self.groups, self.weight, self.bias, self.eps)
        return out.permute(0, 2, 3, 1)


class Embedding(nn.Module):
    """Integers [...] -> [..., dim]; a packed table decodes only the rows that are asked for.

    Args:
        weight: [rows, dim], plain or packed.
        dtype: Of the result where the table is packed.
    """

    def __init__(self, weight: nn.Parameter | PackedWeight, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = weight
        self.dtype = dtype

    def forward(self, index: Tensor) -> Tensor:
        if isinstance(self.weight, PackedWeight):
            rows = self.weight.rows(index.long(), self.dtype)
            return rows.masked_fill(rows.isnan(), 0.0)  # casts to fp8 overflowed in some published T5 files
        return functional.embedding(index.long(), self.weight)


class Parameter(nn.Module):
    """() -> the array itself."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self) -> Tensor:
        return self.weight
