"""Writes what was trained as the model's files: bfloat16, true key names, shards of limited size.

A folder appears whole or not at all, so that whoever fetches results while training goes on never
takes half of one.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backends.torch_cuda.training import checkpoint
from flux_core.weights.open import open_source

SHARD_BYTES = 14 << 20
PARTS = {"transformer": "transformer", "t5": "text_encoder_2", "clip": "text_encoder"}
"""Part of FlowNets -> stem of its files."""


def write(folder: Path, nets: dict[str, Tensor], ae: dict[str, Tensor] | None, facts: dict[str, Any]) -> None:
    """Writes an exported model; one that is there already is replaced when the new one is complete.

    Args:
        folder: Where; `assemble` reads it.
        nets: Of FlowNets, names as in its `parameters`.
        ae: The autoencoder; None where the model keeps the one it has.
        facts: What the catalog and the card must know, JSON.
    """
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    states = {
        stem: {name.split("/", 1)[1]: p for name, p in nets.items() if name.startswith(f"{part}/")}
        for part, stem in PARTS.items()
    }
    if ae is not None:
        states["ae"] = ae
    for stem, state in states.items():
        half = {name: p.detach().to(torch.bfloat16).contiguous() for name, p in state.items()}
        for index, shard in enumerate(shards(half, SHARD_BYTES)):
            checkpoint.save(fresh / f"{stem}.{index}.safetensors", shard)
    (fresh / "model.json").write_text(json.dumps(facts))
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def shards(state: dict[str, Tensor], limit_bytes: int) -> list[dict[str, Tensor]]:
    """Tensors in order, in groups of at most `limit_bytes`, for transports that limit a file's size."""
    out: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        length = tensor.numel() * tensor.element_size()
        if out[-1] and size + length > limit_bytes:
            out.append({})
            size = 0
        out[-1][name] = tensor
        size += length
    return out


def read(path: Path, device: torch.device) -> dict[str, Tensor]:
    """The tensors of a file that ships, as the engines compute with them: float32, codes decoded."""
    source = open_source(path)
    return {name: torch.from_numpy(source.read(name).to_numpy()).to(device) for name in source.names()}
