"""What a process does for the first time, done beside the loading of its first model.

Libraries are opened, kernels come from triton's cache, and each product's kernel is loaded at its first call.
A block of every network at the model's widths is called once at the picture's size, in a thread that mostly
waits for libraries, while the main thread waits for the disk; and once at another size, because products then
have other kernels, and the first picture of another size would wait for them. Results do not matter.

The decoder's convolutions are planned anew for every size, and plans are kept for the thread that made them.
So the engine's own thread calls a small decoder of the picture's size while the device is busy with a step.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.leaves import TorchLeaves
from backends.torch_cuda.memory import free_and_total_bytes
from flux_core.catalog import ModelSpec
from flux_core.models.autoencoder import Decoder
from flux_core.models.clip import ClipText
from flux_core.models.t5 import T5Encoder, relative_buckets
from flux_core.models.transformer import Transformer
from flux_core.request import SIZE_MULTIPLE_PX, GenerationRequest, Precision, StepCache

MIN_FREE_BYTES = 40 * 2**30
"""On a device with less there may be no room beside the model for what this needs for a moment."""
OTHER_LATENTS = 144, 112
"""Of a picture whose tokens fill no whole tiles of a product."""

_log = logging.getLogger(__name__)
Size = tuple[int, int]


class WarmUp:
    """What is done for the first time in one engine, before it is waited for.

    Args:
        backend: Of the engine.
    """

    def __init__(self, backend: TorchBackend) -> None:
        self._backend = backend
        self._is_cold = True
        self._decoded: set[Size] = set()

    def begin(self, request: GenerationRequest, spec: ModelSpec) -> threading.Thread | None:
        """Begins with what a request will need; nothing where that is not worth it.

        Args:
            request: That is about to be carried out.
            spec: The row of its model.

        Returns:
            The thread that warms up beside the first request.
        """
        backend = self._backend
        if backend.device.type != "cuda" or free_and_total_bytes(backend.device)[0] < MIN_FREE_BYTES:
            return None
        height, width = (
            max(min(side, spec.working_side_px) // SIZE_MULTIPLE_PX, 1) * 2
            for side in (request.height_px, request.width_px)
        )
        if (height, width) not in self._decoded and request.step_cache is StepCache.OFF:
            self._decoded.add((height, width))
            backend.graphs.meanwhile = partial(_decode, backend, request.precision, spec, [(height, width)])
        if not self._is_cold:
            return None
        self._is_cold = False
        thread = threading.Thread(
            target=_tried,
            args=(backend, request.precision, spec, [(height, width), OTHER_LATENTS]),
            name="warm-up",
            daemon=True,
        )
        thread.start()
        return thread


def _tried(backend: TorchBackend, precision: Precision, spec: ModelSpec, sizes: Sequence[Size]) -> None:
    try:
        with backend.session():
            warm_up(backend, precision, spec, sizes)
    except Exception as err:  # noqa: BLE001 # the job itself will say what is wrong, if anything is
        _log.info("Warming up went wrong: %s", err)


def warm_up(backend: TorchBackend, precision: Precision, like: ModelSpec, sizes: Sequence[Size]) -> None:
    """Calls one block of every network of a model.

    Args:
        backend: Where they run.
        precision: Of the transformer.
        like: The model whose widths they have.
        sizes: Heights and widths in latents, even, in this order.
    """
    device = backend.device
    dtype = backend.cast(torch.zeros(1), precision).dtype
    words = like.t5_tokens
    spec = replace(
        like,
        transformer=replace(like.transformer, depth=1, depth_single=1),
        t5=replace(like.t5, num_layers=1, vocab_size=1),
        clip=replace(like.clip, num_layers=1, vocab_size=1),
    )
    ops, config = backend.ops, spec.transformer
    plain = _Zeros(None, device, dtype)
    ids = torch.zeros((1, words), dtype=torch.int32, device=device)
    buckets = backend.from_numpy(relative_buckets(words, spec.t5))
    txt = T5Encoder(ops, plain, spec.t5)(ids, buckets)
    places = torch.arange(spec.clip_tokens, dtype=torch.int32, device=device)
    vec = ClipText(ops, plain, spec.clip)(ids[:, : spec.clip_tokens], places, ids[0, :1])
    leaves = _Zeros(
        None,
        device,
        dtype,
        make_linear=backend.linear_maker(precision),
        norms_feed_codes=backend.norms_feed_codes(precision),
    )
    model = Transformer(ops, leaves, config)
    one = torch.ones(1, device=device)
    rows = model.modulations(vec, one, one)
    for height, width in sizes:
        img = torch.zeros((1, height * width // 4, config.in_channels), dtype=dtype, device=device)
        angles = torch.zeros((words + img.shape[1], sum(config.axes_dim) // 2, 2), device=device)
        model.modulated(img, txt, rows, angles)
    backend.graphs.is_warm = True
    _decode(backend, precision, like, sizes)
    backend.evaluate()


def _decode(backend: TorchBackend, precision: Precision, like: ModelSpec, sizes: Sequence[Size]) -> None:
    """Calls a decoder with one block a level, which has every convolution of the whole one."""
    config, device = replace(like.autoencoder, num_res_blocks=0), backend.device
    dtype = backend.cast(torch.zeros(1), precision).dtype
    decoder = Decoder(backend.ops, _Zeros(None, device, dtype), config)
    for height, width in sizes:
        decoder(torch.zeros((1, height, width, config.latent_channels), dtype=dtype, device=device))


class _Zeros(TorchLeaves):
    """Leaves of zeros, which need no time to be made."""

    def _parameter(self, name: str, shape: tuple[int, ...], deviation: float | None) -> nn.Parameter:
        values = torch.zeros(shape, device=self._device, dtype=self._dtype)
        if len(shape) == 4:
            values = values.contiguous(memory_format=torch.channels_last)
        return nn.Parameter(values, requires_grad=False)
