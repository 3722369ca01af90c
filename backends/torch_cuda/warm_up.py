"""What a process does for the first time, done beside what must be waited for anyway.

Libraries are opened, kernels come from triton's cache, and each product's kernel is loaded at its first call.
A block of every network at the model's widths is called once at the picture's size, in a thread that mostly
waits for libraries, while the main thread waits for the disk. Attention is planned anew for every number of
tokens, by the thread that records, while the main thread encodes words. Results do not matter.

The decoder's convolutions are planned anew for every size, and plans are kept for the thread that made them.
So the engine's own thread calls them one by one while the device is busy with a step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.leaves import Conv2d, TorchLeaves
from backends.torch_cuda.memory import free_and_total_bytes
from backends.torch_cuda.ops import TorchOps
from flux_core.catalog import ModelSpec
from flux_core.models.autoencoder import Decoder
from flux_core.models.clip import ClipText
from flux_core.models.t5 import T5Encoder, relative_buckets
from flux_core.models.transformer import Transformer
from flux_core.ops import HeadStream
from flux_core.pipeline.job import WHOLE_PX
from flux_core.request import SIZE_MULTIPLE_PX, GenerationRequest, Precision, StepCache, Task

MIN_FREE_BYTES = 40 * 2**30
"""On a device with less there may be no room beside the model for what this needs for a moment."""
OTHER_LATENTS = 144, 112
"""Of a picture whose tokens fill no whole tiles of a product: most sizes have that one's kernels."""

_log = logging.getLogger(__name__)
Size = tuple[int, int]
Work = Callable[[TorchBackend, Precision, ModelSpec], None]


class WarmUp:
    """What is done for the first time in one engine, before it is waited for.

    Args:
        backend: Of the engine.
    """

    def __init__(self, backend: TorchBackend) -> None:
        self._backend = backend
        self._own = ThreadPoolExecutor(1, "warm-up")
        self._decoded: set[Size] = set()
        self._lengths: set[int] = set()

    def begin(self, request: GenerationRequest, spec: ModelSpec) -> list[Future[None]]:
        """Begins with what a request will need; does nothing where that is not worth it.

        Args:
            request: That is about to be carried out.
            spec: The row of its model.

        Returns:
            Each is done when something is warmed up; none if nothing is new.
        """
        backend, precision = self._backend, request.precision
        if backend.device.type != "cuda" or free_and_total_bytes(backend.device)[0] < MIN_FREE_BYTES:
            return []
        sides = request.height_px, request.width_px
        is_whole = sides[0] * sides[1] <= WHOLE_PX and request.task is not Task.UPSCALE
        if not is_whole:  # a piece of it
            sides = min(sides[0], spec.working_side_px), min(sides[1], spec.working_side_px)
        height, width = (max(side // SIZE_MULTIPLE_PX, 1) * 2 for side in sides)
        size, length = (height, width), height * width
        has_long_steps = request.step_cache is StepCache.OFF
        if size not in self._decoded and is_whole and has_long_steps:
            self._decoded.add(size)
            backend.graphs.meanwhile = decoder_plans(backend, precision, spec, size)
        if length in self._lengths:
            return []
        is_first = not self._lengths
        self._lengths.add(length)
        attend = partial(_tried, partial(_attend, size=size), backend, precision, spec)
        begun = [backend.graphs.aside(attend)]
        if is_first:
            every = partial(warm_up, sizes=[size, OTHER_LATENTS])
            begun.append(self._own.submit(_tried, every, backend, precision, spec))
        return begun


def _tried(work: Work, backend: TorchBackend, precision: Precision, spec: ModelSpec) -> None:
    try:
        with backend.session():
            work(backend, precision, spec)
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
    _encode(backend, precision, like)
    _step(backend, precision, like, sizes)
    backend.graphs.is_warm = True
    _decode(backend, precision, like, sizes)
    backend.evaluate()


def _encode(backend: TorchBackend, precision: Precision, like: ModelSpec) -> None:
    """Calls a block of each text encoder."""
    device, words = backend.device, like.t5_tokens
    t5 = replace(like.t5, num_layers=1, vocab_size=1)
    clip = replace(like.clip, num_layers=1, vocab_size=1)
    make = _Zeros(None, device, _dtype(backend, precision))
    ids = torch.zeros((1, words), dtype=torch.int32, device=device)
    T5Encoder(backend.ops, make, t5)(ids, backend.from_numpy(relative_buckets(words, t5)))
    places = torch.arange(like.clip_tokens, dtype=torch.int32, device=device)
    ClipText(backend.ops, make, clip)(ids[:, : like.clip_tokens], places, ids[0, :1])


def _step(backend: TorchBackend, precision: Precision, like: ModelSpec, sizes: Sequence[Size]) -> None:
    """Calls a transformer with a block of each kind."""
    device, dtype, words = backend.device, _dtype(backend, precision), like.t5_tokens
    config = replace(like.transformer, depth=1, depth_single=1)
    make = _Zeros(
        None,
        device,
        dtype,
        make_linear=backend.linear_maker(precision),
        norms_feed_codes=backend.norms_feed_codes(precision),
    )
    model = Transformer(backend.ops, make, config)
    one = torch.ones(1, device=device)
    rows = model.modulations(torch.zeros((1, config.vec_in_dim), dtype=dtype, device=device), one, one)
    txt = torch.zeros((1, words, config.context_in_dim), dtype=dtype, device=device)
    for height, width in sizes:
        img = torch.zeros((1, height * width // 4, config.in_channels), dtype=dtype, device=device)
        angles = torch.zeros((words + img.shape[1], sum(config.axes_dim) // 2, 2), device=device)
        model.modulated(img, txt, rows, angles)


def _attend(backend: TorchBackend, precision: Precision, like: ModelSpec, size: Size) -> None:
    """Calls a block's attention at a picture's size."""
    device, dtype, config = backend.device, _dtype(backend, precision), like.transformer
    head_dim = config.hidden_size // config.num_heads
    make = _Zeros(None, device, dtype, norms_feed_codes=backend.norms_feed_codes(precision))
    norm = make.rms_norm("", head_dim, 1e-6)
    height, width = size
    tokens = like.t5_tokens + height * width // 4
    qkv = torch.zeros((1, tokens, 3 * config.hidden_size), dtype=dtype, device=device)
    angles = torch.zeros((tokens, head_dim // 2, 2), device=device)
    streams = [HeadStream(qkv, norm, norm)]
    backend.ops.joint_attention(streams, config.num_heads, angles, scale=head_dim**-0.5)


def _decode(backend: TorchBackend, precision: Precision, like: ModelSpec, sizes: Sequence[Size]) -> None:
    """Calls a decoder with one block a level, which has every convolution of the whole one."""
    device, dtype = backend.device, _dtype(backend, precision)
    config = replace(like.autoencoder, num_res_blocks=0)
    decoder = Decoder(backend.ops, _Zeros(None, device, dtype), config)
    for height, width in sizes:
        decoder(torch.zeros((1, height, width, config.latent_channels), dtype=dtype, device=device))


def decoder_plans(
    backend: TorchBackend, precision: Precision, like: ModelSpec, size: Size
) -> Generator[None]:
    """Calls each kind of convolution of a decoder, and then its attention, one after the other.

    One at a time needs less memory than a decoder does, and the next may wait for another step.
    """
    device, dtype = backend.device, _dtype(backend, precision)
    config, (height, width) = like.autoencoder, size
    seen: dict[tuple[Any, ...], tuple[Conv2d, torch.Size]] = {}

    def see(leaf: Conv2d, given: tuple[Tensor]) -> None:
        seen.setdefault((leaf.weight.shape, given[0].shape), (leaf, given[0].shape))

    leaves = TorchLeaves(device="meta", dtype=dtype)
    decoder = Decoder(TorchOps(), leaves, replace(config, num_res_blocks=0))
    for leaf in leaves.modules.values():
        if isinstance(leaf, Conv2d):
            leaf.register_forward_pre_hook(see)
    decoder(torch.empty((1, height, width, config.latent_channels), dtype=dtype, device="meta"))
    yield
    make = _Zeros(None, device, dtype)
    for leaf, shape in seen.values():
        make.like(leaf).without_bias(torch.empty(shape, dtype=dtype, device=device))
        yield
    wide = torch.zeros((1, 1, height * width, decoder.mid.attn_1.width), dtype=dtype, device=device)
    backend.ops.attention(wide, wide, wide, scale=1.0)


def _dtype(backend: TorchBackend, precision: Precision) -> torch.dtype:
    return backend.cast(torch.zeros(1), precision).dtype


class _Zeros(TorchLeaves):
    """Leaves of zeros, which need no time to be made."""

    def like(self, conv: Conv2d) -> Conv2d:
        """A convolution of the same kind."""
        weight = self._parameter("", tuple(conv.weight.shape), None)
        return Conv2d(weight, None, conv.stride, (conv.symmetric, conv.symmetric))

    def _parameter(self, name: str, shape: tuple[int, ...], deviation: float | None) -> nn.Parameter:
        values = torch.zeros(shape, device=self._device, dtype=self._dtype)
        if len(shape) == 4:
            values = values.contiguous(memory_format=torch.channels_last)
        return nn.Parameter(values, requires_grad=False)
