"""Low-rank changes of a transformer that stays as it is: trained, saved, and written as BFL's control LoRAs.

Every matrix gets a pair and a bias on the up side, as FLUX.1-Canny-dev-lora has them, and the query and key
norms are trained whole. Where a member sees more channels than the base, img_in's pair alone reads them:
the base counts as widened with zeros.

Source: Hu et al. 2021 (LoRA); black-forest-labs/flux modules/lora.py (names, bias, norms).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from backends.torch_cuda.leaves import Linear, RMSNorm
from backends.torch_cuda.training.network import Named, Network
from flux_core.models.transformer import Transformer

FIRST = "img_in"


class Pair(nn.Module):
    """What hangs on one linear leaf: up(down(x)) + bias, in the dtype of x; the matrices stay float32.

    Args:
        in_dim, out_dim: Of the leaf; more inputs than its weight has are the pair's alone.
        rank: At most both of them.
        device: Where the matrices live.
        has_bias: Control LoRAs have one, others do not.
    """

    def __init__(
        self, in_dim: int, out_dim: int, rank: int, device: torch.device, has_bias: bool = True
    ) -> None:
        super().__init__()
        self.rank = min(rank, in_dim, out_dim)
        self.down = nn.Parameter(torch.randn(self.rank, in_dim, device=device) * in_dim**-0.5)
        self.up = nn.Parameter(torch.zeros(out_dim, self.rank, device=device))
        self.bias = nn.Parameter(torch.zeros(out_dim, device=device)) if has_bias else None

    def forward(self, leaf: Linear, x: Tensor, y: Tensor) -> Tensor:
        del leaf
        bias = None if self.bias is None else self.bias.to(x.dtype)
        inner = functional.linear(x, self.down.to(x.dtype))
        return y + functional.linear(inner, self.up.to(x.dtype), bias)


class LowRank(Named):
    """The trained part of a transformer; attached when made.

    Args:
        network: The transformer; its own parameters are frozen, but for its query and key norms.
        rank: Of the pairs.
        in_channels: What the changed transformer reads; img_in is widened to it.

    Attributes:
        parameters: Names as in the file that `state` gives -> what is trained.
    """

    def __init__(self, network: Network[Transformer], rank: int, in_channels: int | None = None) -> None:
        leaves = network.leaves.modules
        for parameter in network.parameters.values():
            parameter.requires_grad_(False)
        self.parameters = {}
        for name, leaf in leaves.items():
            if isinstance(leaf, RMSNorm):
                scale = getattr(leaf, leaf.key).requires_grad_(True)
                self.parameters[f"{name}.{leaf.key}"] = scale
            if not isinstance(leaf, Linear):
                continue
            assert isinstance(leaf.weight, nn.Parameter)
            out_dim, in_dim = leaf.weight.shape
            wide = in_channels or in_dim if name == FIRST else in_dim
            if wide > in_dim:
                leaf.weight = nn.Parameter(
                    functional.pad(leaf.weight, (0, wide - in_dim)), requires_grad=False
                )
            pair = Pair(wide, out_dim, rank, leaf.weight.device)
            leaf.adapters.append(pair)
            self.parameters[f"{name}.lora_A.weight"] = pair.down
            self.parameters[f"{name}.lora_B.weight"] = pair.up
            assert pair.bias is not None
            self.parameters[f"{name}.lora_B.bias"] = pair.bias
