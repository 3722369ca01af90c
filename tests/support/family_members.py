"""Members of the bundled family as training exports them, with random changes in the true shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from backends.torch_cuda.training import checkpoint
from backends.torch_cuda.training.members import pictures
from backends.torch_cuda.training.members.lowrank import LowRank
from backends.torch_cuda.training.network import Network
from flux_core.catalog import TINY
from flux_core.models.transformer import Transformer

LOW_RANK = {
    "fill": (32, 384),
    "kontext": (32, None),
    "schnell": (32, None),
    "canny": (16, 128),
    "depth": (16, 128),
}
"""Name -> rank, and the channels of img_in."""


def export_members(folder: Path, spread: float = 0.02) -> None:
    """Writes the files that `training.members.run` exports; `spread` says how far a change goes."""
    device = torch.device("cpu")
    torch.manual_seed(0)
    for name, (rank, channels) in LOW_RANK.items():
        nets = Network(lambda ops, make: Transformer(ops, make, TINY.transformer), device)
        state = LowRank(nets, rank, channels).state()
        state |= {key: spread * torch.randn_like(p) for key, p in state.items() if "lora_B" in key}
        _save(folder / f"{name}.safetensors", state)
    eye = pictures.build_eye(pictures.ReduxTraining(), TINY.transformer.context_in_dim, device).parameters
    _save(folder / "redux.safetensors", {key: p for key, p in eye.items() if key.startswith("redux_")})
    _save(folder / "siglip.safetensors", {key: p for key, p in eye.items() if not key.startswith("redux_")})
    fast = pictures.build_fast(replace(pictures.FastDecoding(), width=32), device)
    _save(folder / "fast.safetensors", dict(fast.parameters))


def _save(path: Path, state: dict[str, Tensor]) -> None:
    checkpoint.save(path, {key: p.detach().to(torch.bfloat16) for key, p in state.items()})
