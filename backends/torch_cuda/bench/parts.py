"""The text encoder and the decoder by themselves, beside the peers' modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.bench import peer
from backends.torch_cuda.bench.context import Bench
from backends.torch_cuda.bench.figures import Figure, give_back, timed
from backends.torch_cuda.bench.weights import RandomSource, model_shapes
from flux_core.models.autoencoder import Decoder
from flux_core.models.t5 import T5Encoder, relative_buckets
from flux_core.request import Precision


def vae(bench: Bench) -> None:
    """Latents to pixels, all on the device."""
    spec, side = bench.sizes.spec, bench.sizes.latent_side
    backend, precision = TorchBackend(str(bench.device)), half(bench)
    source = RandomSource(model_shapes(spec)[spec.files.autoencoder])
    decoder = Decoder(backend.ops, backend.leaves(source, precision), spec.autoencoder)
    shape = 1, side, side, spec.autoencoder.latent_channels
    latents = torch.randn(shape, device=bench.device, dtype=bench.dtype)
    with backend.session():
        ours = timed(bench.device, lambda: decoder(latents), bench.sizes.repeats)

    def make_peer() -> Callable[[], Any]:
        model, theirs = peer.autoencoder(bench), latents.permute(0, 3, 1, 2).contiguous()
        return lambda: model.decode(theirs, return_dict=False)[0]

    _beside(bench, "vae", f"decode {bench.sizes.side_px} px", ours, make_peer, reach=30.0)


def t5(bench: Bench) -> None:
    """Token ids to states, from the third text on."""
    spec, length = bench.sizes.spec, bench.sizes.txt_tokens
    backend, precision = TorchBackend(str(bench.device)), half(bench)
    source = RandomSource(model_shapes(spec)[spec.files.t5])
    encoder = T5Encoder(backend.ops, backend.leaves(source, precision), spec.t5)
    ids = peer.random_ids(bench, spec, length)
    buckets = backend.from_numpy(relative_buckets(length, spec.t5))
    encode = backend.graphs.ready_in_time(encoder.__call__)
    with backend.session():
        ours = timed(bench.device, lambda: encode(ids, buckets), bench.sizes.repeats)

    def make_peer() -> Callable[[], Any]:
        model = peer.t5(bench)
        return lambda: model(ids)[0]

    _beside(bench, "t5", f"{length} tokens", ours, make_peer, reach=12.0, name="transformers")


def half(bench: Bench) -> Precision:
    """The precision that goes with `Bench.dtype`."""
    return Precision.BF16 if bench.dtype == torch.bfloat16 else Precision.FP32


def _beside(
    bench: Bench,
    piece: str,
    what: str,
    ours_s: float,
    make_peer: Callable[[], Callable[[], Any]],
    reach: float,
    name: str = peer.NAME,
) -> None:
    theirs: float | None = None
    if bench.has_peer:
        call = make_peer()
        with torch.inference_mode():
            theirs = 1e3 * timed(bench.device, call, bench.sizes.repeats)
        del call
        give_back(bench.device)
    what = f"{what}, {half(bench).value}"
    bench.results.add(Figure(piece, what, "ms", 1e3 * ours_s, theirs, f"{name}, eager", reach=reach))
