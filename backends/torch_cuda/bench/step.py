"""One step of the transformer, all of it, as a walk takes it: ours in each precision, and the peer's."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.bench import peer
from backends.torch_cuda.bench.context import Bench
from backends.torch_cuda.bench.figures import Figure, give_back, timed
from backends.torch_cuda.bench.weights import RandomSource, model_shapes
from backends.torch_cuda.graphs import Graphs
from backends.torch_cuda.leaves import TorchLeaves
from flux_core.conditioning.packing import position_ids, rotary_table
from flux_core.models.transformer import Transformer
from flux_core.request import Precision

_REACH_MS = {"bf16": 118.0, "fp8": 80.0}


def step(bench: Bench) -> None:
    """Ours eager and as the walk runs it, and the peer's eager and compiled."""
    theirs = _peer_ms(bench)
    for name in bench.precisions:
        ours = _ours(bench, Precision(name))
        give_back(bench.device)
        for way, seconds in ours.items():
            floor = bench.floor_s.get(name)
            for peer_name, peer_ms in theirs.items() or [("", None)]:
                bench.results.add(
                    Figure("step", f"{name}, {way}", "ms", 1e3 * seconds, peer_ms, peer_name,
                           floor and 1e3 * floor, _REACH_MS.get(name))
                )  # fmt: skip


class Walked(NamedTuple):
    """A step of a walk.

    Attributes:
        backend: Where it runs.
        model: The transformer, with random weights; those of its modulation are gone.
        arguments: What its `modulated` is called with; the modulations are made before, as in a walk.
        leaves: Of the model.
    """

    backend: TorchBackend
    model: Transformer
    arguments: tuple[Any, ...]
    leaves: TorchLeaves


def walked_step(
    bench: Bench,
    precision: Precision,
    backend: TorchBackend | None = None,
    working_bytes: int | None = None,
) -> Walked:
    """A step to be taken; `working_bytes` as for TorchBackend.leaves, None keeps all on the device."""
    sizes, config = bench.sizes, bench.sizes.spec.transformer
    backend = backend or TorchBackend(str(bench.device))
    shapes = model_shapes(sizes.spec)[sizes.spec.files.transformer]
    with backend.session():
        leaves = backend.leaves(RandomSource(shapes), precision, working_bytes)
        model = Transformer(backend.ops, leaves, config)
        side = sizes.latent_side
        ids = position_ids(sizes.txt_tokens, side, side)
        arguments = (
            _random(bench, sizes.img_tokens, config.in_channels),
            _random(bench, sizes.txt_tokens, config.context_in_dim),
            model.modulations(
                _random(bench, config.vec_in_dim)[0],
                torch.full((1,), 0.5, device=bench.device),
                torch.full((1,), 3.5, device=bench.device),
            ),
            backend.from_numpy(rotary_table(ids, config.axes_dim, config.theta)),
        )
        model.modulator = None
    return Walked(backend, model, arguments, leaves)


def _ours(bench: Bench, precision: Precision) -> dict[str, float]:
    """Seconds of a step by how it runs."""
    sizes = bench.sizes
    backend, model, arguments, _ = walked_step(bench, precision)
    with backend.session():
        ready = Graphs(bench.device).ready(model.modulated)
        found = {"eager": timed(bench.device, lambda: model.modulated(*arguments), sizes.repeats)}
        if bench.device.type == "cuda":
            found["graph"] = timed(bench.device, lambda: ready(*arguments), sizes.repeats)
    return found


def _peer_ms(bench: Bench) -> dict[str, float]:
    """Milliseconds of the peer's step, by how it runs."""
    found: dict[str, float] = {}
    if not bench.has_peer:
        return found
    for is_compiled in (False, True) if bench.is_peer_compiled else (False,):
        found[f"{peer.NAME}, {'compiled' if is_compiled else 'eager'}"] = _peer_step_ms(bench, is_compiled)
        give_back(bench.device)
    return found


def _peer_step_ms(bench: Bench, is_compiled: bool) -> float:
    model, arguments = peer.transformer(bench, is_compiled), peer.transformer_inputs(bench)
    with torch.inference_mode():
        return 1e3 * timed(bench.device, lambda: model(**arguments), bench.sizes.repeats)


def _random(bench: Bench, *shape: int) -> Any:
    return torch.randn(1, *shape, device=bench.device, dtype=bench.dtype)
