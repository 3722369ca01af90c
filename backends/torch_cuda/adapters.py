"""LoRAs on torch: what hangs on a linear leaf beside its weight, whatever form that weight has.

A strength is a number on the device, so captured CUDA graphs and compiled code see a new one without being
made again. Arithmetic is in the input's dtype, scales and DoRA's lengths in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from backends.torch_cuda.leaves import Linear
from flux_core.weights.lora.attach import Adapters
from flux_core.weights.lora.patches import Axis, Difference, Floats, Hadamard, Kronecker, LowRank, Patch


class TorchAdapters(Adapters):
    """The adapters of one part.

    Args:
        leaves: TorchLeaves.modules.
        device: Where they live.
        dtype: Of their matrices.
        on_change: Called when something comes, goes or is replaced; not for another strength.
    """

    def __init__(
        self,
        leaves: dict[str, nn.Module],
        device: torch.device,
        dtype: torch.dtype,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(leaves)
        self._on_change = on_change
        self._device = device
        self._dtype = dtype

    def attach(self, name: str, patches: Iterable[Patch], strength: float) -> None:
        super().attach(name, patches, strength)
        self._settle(self._layers(name))

    def detach(self, name: str) -> None:
        layers = self._layers(name)
        super().detach(name)
        self._settle(layers)

    def weigh(self, name: str, strength: float) -> None:
        super().weigh(name, strength)
        self._settle(self._layers(name))

    def _layers(self, name: str) -> set[str]:
        """The linear layers that a LoRA hangs on."""
        return {layer for layer, _, _ in self._attached[name].adapters}

    def _settle(self, layers: set[str]) -> None:
        has_changed = [self._leaves[layer].settle() for layer in layers]
        if any(has_changed):
            self._on_change()

    def _adapter(self, leaf: Linear, patch: Patch, strength: float) -> Adapter:
        with torch.inference_mode(False):  # so that a strength may be written in any mode
            return Adapter(leaf, patch, strength, self._device, self._dtype)

    def _insert(self, leaf: Linear, adapter: Adapter) -> None:
        leaf.adapters.append(adapter)
        self._on_change()

    def _remove(self, leaf: Linear, adapter: Adapter) -> None:
        leaf.adapters = nn.ModuleList(other for other in leaf.adapters if other is not adapter)
        self._on_change()

    def _set_strength(self, adapter: Adapter, strength: float) -> None:
        adapter.weigh(strength)

    def _widened(self, leaf: Linear, columns: int) -> nn.Parameter:
        weight = leaf.weight_in(self._dtype)
        return nn.Parameter(functional.pad(weight, (0, columns - weight.shape[1])), requires_grad=False)

    def _set_weight(self, leaf: Linear, weight: Any) -> None:
        leaf.weight = weight
        self._on_change()

    def _norm(self, leaf: nn.Module, part: str) -> Tensor:
        return _norm_parameter(leaf, part).detach().clone()

    def _set_norm(self, leaf: nn.Module, part: str, values: Tensor | Floats) -> None:
        with torch.no_grad():
            parameter = _norm_parameter(leaf, part)
            parameter.copy_(values if isinstance(values, Tensor) else torch.from_numpy(values))

    def _host(self, values: Tensor) -> Floats:
        return values.float().cpu().numpy()


class Adapter(nn.Module):
    """y with strength * delta(x) added to some of its columns.

    Args:
        leaf: The linear leaf that it will hang on.
        patch: What it adds.
        strength: To begin with.
        device, dtype: Where and in which form the matrices live.

    Attributes:
        factor: The strength, as the host knows it.
    """

    strength: Tensor
    gain: Tensor | None
    bias: Tensor | None

    def __init__(
        self, leaf: Linear, patch: Patch, strength: float, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.rows = patch.rows
        self.columns = patch.columns
        self.factor = strength
        self.by_rows = patch.magnitude is not None and patch.magnitude.axis is Axis.ROWS
        self.delta = _delta(patch, device)
        bias = patch.delta.bias if isinstance(patch.delta, LowRank | Difference) else None
        self.register_buffer("strength", torch.tensor(strength, dtype=torch.float32, device=device))
        self.register_buffer("bias", None if bias is None else torch.tensor(bias, device=device))
        self.register_buffer("gain", self._gain(leaf, patch))
        if self.delta is not None:
            self.delta.to(dtype)
        self.weigh(strength)

    @property
    def rank(self) -> int:
        """Of a plain low-rank matrix; 0 of anything else."""
        return self.delta.down.shape[0] if isinstance(self.delta, LowRankDelta) else 0

    @torch.no_grad()
    def weigh(self, strength: float) -> None:
        """Another strength, in the same memory."""
        self.factor = strength
        self.strength.fill_(strength)
        if isinstance(self.delta, LowRankDelta):
            self.delta.weigh(self.strength)

    def forward(self, leaf: Linear, x: Tensor, y: Tensor) -> Tensor:
        first, last = self.rows
        if self.delta is not None:
            x = x[..., : self.columns]
            if self.gain is not None:
                y[..., first:last] += self._with_lengths(leaf, x, self.gain)
            elif isinstance(self.delta, LowRankDelta):
                self.delta.add_to(y[..., first:last], x)
            else:
                y[..., first:last] += self.delta(x, self.strength)
        if self.bias is not None:
            y[..., first:last] += (self.strength * self.bias).to(y.dtype)
        return y

    def _with_lengths(self, leaf: Linear, x: Tensor, gain: Tensor) -> Tensor:
        """DoRA: strength * (W' - W) x, with W' = gain * (W + delta).

        The base is multiplied once more rather than taken from y, which other adapters may have changed.
        """
        first, last = self.rows
        weight = leaf.weight_in(x.dtype)[first:last, : self.columns]
        one = torch.ones_like(self.strength)
        if self.by_rows:
            base, delta = functional.linear(x, weight).float(), self.delta(x, one).float()
            return (self.strength * ((gain - 1) * base + gain * delta)).to(x.dtype)
        base_x, delta_x = _scaled(x, self.strength * (gain - 1)), _scaled(x, self.strength * gain)
        return functional.linear(base_x, weight) + self.delta(delta_x, one)

    def _gain(self, leaf: Linear, patch: Patch) -> Tensor | None:
        """DoRA's lengths over those of W + delta: [rows] or [columns] float32."""
        if patch.magnitude is None or self.delta is None:
            return None
        first, last = self.rows
        weight = leaf.weight_in(torch.float32)[first:last, : self.columns]
        weight = functional.pad(weight, (0, self.columns - weight.shape[1])) + self.delta.dense()
        length = torch.linalg.vector_norm(weight, dim=1 if self.by_rows else 0)
        values = torch.tensor(patch.magnitude.values, device=weight.device)
        return values / length.clamp_min(torch.finfo(torch.float32).tiny)


class LowRankDelta(nn.Module):
    """x [..., columns] -> up @ (s * (down @ x)), with the factor in `up`; `weighed` is s * up."""

    up: Tensor
    down: Tensor
    weighed: Tensor

    def __init__(self, delta: LowRank, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("up", torch.tensor(delta.up, device=device) * delta.scale)
        self.register_buffer("down", torch.tensor(delta.down, device=device))
        self.register_buffer("weighed", self.up.clone())

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        return functional.linear(_scaled(functional.linear(x, self.down.to(x.dtype)), s), self.up.to(x.dtype))

    def weigh(self, s: Tensor) -> None:
        """Sets what `add_to` multiplies with."""
        self.weighed.copy_(self.up.float() * s)

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """Adds weighed @ (down @ x) to y [..., rows] in one pass over it; y may be columns of more."""
        inner = functional.linear(x, self.down.to(x.dtype)).reshape(-1, self.down.shape[0])  # [..., rank]
        y.view(-1, y.shape[-1]).addmm_(inner, self.weighed.to(x.dtype).t())

    def dense(self) -> Tensor:
        return self.up @ self.down


class HadamardDelta(nn.Module):
    """LoHa; its full matrix is made when it is used and never kept."""

    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor

    def __init__(self, delta: Hadamard, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("w1_a", torch.tensor(delta.w1_a, device=device) * delta.scale)
        for name in ("w1_b", "w2_a", "w2_b"):
            self.register_buffer(name, torch.tensor(getattr(delta, name), device=device))

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        return functional.linear(_scaled(x, s), self.dense().to(x.dtype))

    def dense(self) -> Tensor:
        return (self.w1_a @ self.w1_b) * (self.w2_a @ self.w2_b)


class KroneckerDelta(nn.Module):
    """LoKr: kron(w1, w2) x = w1 X w2^T with x laid out as X [b, d]; the product is never made."""

    w1: Tensor
    w2_a: Tensor
    w2_b: Tensor | None

    def __init__(self, delta: Kronecker, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("w1", torch.tensor(delta.w1, device=device) * delta.scale)
        self.register_buffer("w2_a", torch.tensor(delta.w2_a, device=device))
        w2_b = None if delta.w2_b is None else torch.tensor(delta.w2_b, device=device)
        self.register_buffer("w2_b", w2_b)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        inner = x.reshape(*x.shape[:-1], self.w1.shape[1], -1)  # [..., b, d]
        if self.w2_b is not None:
            inner = functional.linear(inner, self.w2_b.to(x.dtype))
        inner = functional.linear(inner, self.w2_a.to(x.dtype))  # [..., b, c]
        # The other way round, so that it is one large product instead of many small ones.
        outer = functional.linear(inner.transpose(-1, -2), _scaled(self.w1, s).to(x.dtype))  # [..., c, a]
        return outer.transpose(-1, -2).reshape(*x.shape[:-1], -1)  # [..., a * c]

    def dense(self) -> Tensor:
        return torch.kron(self.w1, self.w2_a if self.w2_b is None else self.w2_a @ self.w2_b)


class FullDelta(nn.Module):
    """A whole matrix."""

    weight: Tensor

    def __init__(self, weight: Floats, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor(weight, device=device))

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        return functional.linear(_scaled(x, s), self.weight.to(x.dtype))

    def dense(self) -> Tensor:
        return self.weight


def _delta(patch: Patch, device: torch.device) -> Any:
    """The module of a patch's matrix; None for a bias alone."""
    match patch.delta:
        case LowRank():
            return LowRankDelta(patch.delta, device)
        case Hadamard():
            return HadamardDelta(patch.delta, device)
        case Kronecker():
            return KroneckerDelta(patch.delta, device)
        case Difference():
            return None if patch.delta.weight is None else FullDelta(patch.delta.weight, device)
        case _:
            raise TypeError(f"{type(patch.delta).__name__} hangs on no linear leaf")


def _scaled(x: Tensor, s: Tensor) -> Tensor:
    """x * s in float32, back in x's dtype."""
    return (x.float() * s).to(x.dtype)


def _norm_parameter(leaf: nn.Module, part: str) -> Tensor:
    return getattr(leaf, getattr(leaf, "key", part) if part == "weight" else part)
