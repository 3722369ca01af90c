"""State of a training run on disk: tensors in safetensors, counters in JSON beside them, no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def save(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any] | None = None) -> None:
    """Writes `path` (safetensors) and, when there are facts, `path` with .json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    save_file({name: t.detach().contiguous().cpu() for name, t in tensors.items()}, fresh)
    fresh.replace(path)
    if facts is not None:
        path.with_suffix(".json").write_text(json.dumps(facts, indent=1))


def load(path: Path, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save` wrote."""
    facts = path.with_suffix(".json")
    return load_file(path, device=str(device)), json.loads(facts.read_text()) if facts.exists() else {}


def optimiser_tensors(optimiser: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """The optimiser's state as named tensors, so that a restart is exact."""
    out: dict[str, Tensor] = {}
    for index, state in optimiser.state_dict()["state"].items():
        for key, value in state.items():
            out[f"{prefix}{index}.{key}"] = torch.as_tensor(value)
    return out


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str) -> None:
    """Puts back what `optimiser_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            index, key = name[len(prefix) :].split(".", 1)
            state.setdefault(int(index), {})[key] = value
    full = optimiser.state_dict()
    full["state"] = state
    optimiser.load_state_dict(full)
