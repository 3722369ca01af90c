"""Peers on random weights: diffusers' and transformers' own models, saved, read again and run as ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from flux_core.request import Precision
from flux_core.weights.safetensors_file import SafetensorsFile
from flux_core.weights.tensors import TensorSource
from tests.support.numerics import BACKENDS, make_backend
from tests.support.oracle import OracleBackend

TOLERANCE = 2e-5


def randomised(model: Any, gain: float = 1.0, seed: int = 0, quiet: tuple[str, ...] = ()) -> Any:
    """The peer with every parameter drawn at random, ready for inference.

    `gain` scales its matrices and biases, so that what comes out is of the order of one; layers with a
    name in `quiet` get a fiftieth of it, so that the eps behind them matters.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            noise *= 0.02 if any(part in name for part in quiet) else 1.0
            is_table = "embed" in name or "shared" in name or "attention_bias" in name
            if p.ndim > 1:
                p.copy_(noise * (0.5 if is_table else gain * float(np.prod(p.shape[1:])) ** -0.5))
            else:
                p.copy_(0.1 * gain * noise if name.endswith("bias") else 1 + 0.1 * noise)
    return model.eval()


def saved(
    model: Any,
    folder: Path,
    prefix: str = "",
    extras: Mapping[str, torch.Tensor] | None = None,
    drop: str = "",
) -> TensorSource:
    """The peer's weights, written and read again.

    `prefix` goes before every name, `drop` is taken off where a name begins with it, `extras` are added.
    """
    weights = {
        prefix + name.removeprefix(drop): p.detach().clone().contiguous()
        for name, p in model.state_dict().items()
    }
    save_file({**weights, **(extras or {})}, folder / "peer.safetensors")
    return SafetensorsFile(folder / "peer.safetensors")


def ours(
    backend_name: str, source: TensorSource, build: Callable[[Any, Any], Any], *inputs: np.ndarray | None
) -> np.ndarray:
    """Our model on these weights, after the strict check, as the engine would run it."""
    backend = make_backend(backend_name)
    with backend.session():
        model = build(backend.ops, backend.leaves(source, Precision.FP32))
        out = model(*(None if x is None else backend.from_numpy(x) for x in inputs))
        return backend.to_numpy(out)


def bfloat16_distances(
    peer: Any,
    folder: Path,
    answer: Callable[[Any, TensorSource], Any],
    peer_answer: Callable[[Any], torch.Tensor],
) -> dict[str, float]:
    """How far each backend and the peer are from float64, when weights and inputs are bfloat16.

    Args:
        peer: Its weights are rounded in place.
        folder: For its file.
        answer: Our model's answer on a backend, from the file; inputs cast by `backend.cast`.
        peer_answer: The peer's own, once it is bfloat16.

    Returns:
        Root mean square difference relative to the true values', by backend, and as "peer".
    """
    with torch.no_grad():
        for p in peer.parameters():
            p.copy_(p.bfloat16().float())
    source = saved(peer, folder)
    true: np.ndarray = answer(OracleBackend(), source)
    found: dict[str, np.ndarray] = {}
    for name in BACKENDS:
        backend = make_backend(name)
        with backend.session():
            found[name] = backend.to_numpy(answer(backend, source))
    with torch.no_grad():
        found["peer"] = peer_answer(peer.bfloat16()).float().numpy()
    return {name: float(np.sqrt(((x - true) ** 2).mean() / (true**2).mean())) for name, x in found.items()}


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(list(shape)).standard_normal(shape, dtype=np.float32)


def gap(found: np.ndarray, peer: torch.Tensor) -> float:
    return float(np.abs(found - peer.detach().numpy()).max())
