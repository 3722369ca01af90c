"""What a process does for the first time, done beside what must be waited for anyway.

Libraries are opened, kernels come from triton's cache, and each product's kernel is loaded at its first call.
Blocks of every network at the model's widths are called once at the picture's size, in threads that mostly
wait for libraries, while the main thread waits for the disk. For every later size kernels of products are
chosen and attention is planned, while the main thread prepares words and noise; plans are kept for the
thread that made them, so the one that records does that. Results do not matter.

The decoder's convolutions are planned anew for every size, too. The engine's own thread decodes, so it calls
them one by one while the device is busy with a step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.leaves import Conv2d, TorchLeaves
from backends.torch_cuda.memory import free_and_total_bytes
from flux_core.catalog import AutoencoderConfig, ModelSpec
from flux_core.models.autoencoder import Decoder, ImageAttention
from flux_core.models.clip import ClipText
from flux_core.models.t5 import T5Encoder, relative_buckets
from flux_core.models.transformer import Transformer
from flux_core.ops import HeadStream, Ops
from flux_core.pipeline.job import WHOLE_PX
from flux_core.request import SIZE_MULTIPLE_PX, GenerationRequest, Precision, StepCache, Task

MIN_FREE_BYTES = 40 * 2**30
"""On a device with less there may be no room beside the model for what this needs for a moment."""
MOST_PLANNED_BYTES = 500_000_000
"""That a convolution may read and write beside a step; larger ones are planned when they are needed."""
OTHER_LATENTS = 144, 112
"""Of a picture whose tokens fill no whole tiles of a product: most sizes have that one's kernels."""

_log = logging.getLogger(__name__)
Size = tuple[int, int]


class WarmUp:
    """What is done for the first time in one engine, before it is waited for.

    Args:
        backend: Of the engine.
    """

    def __init__(self, backend: TorchBackend) -> None:
        self._backend = backend
        self._beside = ThreadPoolExecutor(2, "warm-up")
        self._kinds: dict[AutoencoderConfig, Sequence[Convolution]] = {}
        self._watched: set[AutoencoderConfig] = set()
        self._planned: set[tuple[AutoencoderConfig, Size]] = set()
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
        backend.graphs.meanwhile = None  # of an earlier job
        if backend.device.type != "cuda" or free_and_total_bytes(backend.device)[0] < MIN_FREE_BYTES:
            return []
        sides = request.height_px, request.width_px
        is_whole = sides[0] * sides[1] <= WHOLE_PX and request.task is not Task.UPSCALE
        if not is_whole:  # a piece of it
            sides = min(sides[0], spec.working_side_px), min(sides[1], spec.working_side_px)
        height, width = (max(side // SIZE_MULTIPLE_PX, 1) * 2 for side in sides)
        size, length = (height, width), height * width
        has_long_steps = request.step_cache is StepCache.OFF
        if (spec.autoencoder, size) not in self._planned and is_whole and has_long_steps:
            backend.graphs.meanwhile = self._decoder_plans(precision, spec, size)
        given = backend, precision, spec
        sizes = [size] if self._lengths else [size, OTHER_LATENTS]
        begun: list[Future[None]] = []
        beside: list[Callable[[], None]] = []
        if not self._lengths:
            beside.append(partial(encode, *given))
        if length not in self._lengths:
            self._lengths.add(length)
            begun.append(backend.graphs.aside(partial(_tried, backend, partial(attend, *given, size))))
            beside.append(partial(multiply, *given, sizes))
        if spec.autoencoder not in self._watched:
            self._watched.add(spec.autoencoder)
            beside.append(partial(self._decode, precision, spec, sizes))
        return begun + [self._beside.submit(_tried, backend, work) for work in beside]

    def end(self) -> None:
        """Begins with nothing more; what is going on is done when the process ends."""
        self._beside.shutdown(wait=False, cancel_futures=True)

    def _decode(self, precision: Precision, spec: ModelSpec, sizes: Sequence[Size]) -> None:
        self._kinds[spec.autoencoder] = decode(self._backend, precision, spec, sizes)

    def _decoder_plans(self, precision: Precision, spec: ModelSpec, size: Size) -> Generator[None]:
        kinds = self._kinds.get(spec.autoencoder)
        if kinds is not None:
            yield from decoder_plans(self._backend, precision, spec, size, kinds)
            self._planned.add((spec.autoencoder, size))


def _tried(backend: TorchBackend, work: Callable[[], None]) -> None:
    try:
        with backend.session():
            work()
    except Exception as err:  # noqa: BLE001 # the job itself will say what is wrong, if anything is
        _log.info("Warming up went wrong: %s", err)


def encode(backend: TorchBackend, precision: Precision, like: ModelSpec) -> None:
    """Calls a block of each text encoder."""
    device, words = backend.device, like.t5_tokens
    t5 = replace(like.t5, num_layers=1, vocab_size=1)
    clip = replace(like.clip, num_layers=1, vocab_size=1)
    make = _Zeros(None, device, _dtype(backend, precision))
    ids = torch.zeros((1, words), dtype=torch.int32, device=device)
    T5Encoder(backend.ops, make, t5)(ids, backend.from_numpy(relative_buckets(words, t5)))
    places = torch.arange(like.clip_tokens, dtype=torch.int32, device=device)
    ClipText(backend.ops, make, clip)(ids[:, : like.clip_tokens], places, ids[0, :1])


def multiply(backend: TorchBackend, precision: Precision, like: ModelSpec, sizes: Sequence[Size]) -> None:
    """Calls a transformer with a block of each kind, but not its attention.

    Args:
        backend: Where it runs.
        precision: Of the transformer.
        like: The model whose widths it has.
        sizes: Heights and widths in latents, even, in this order.
    """
    device, dtype, words = backend.device, _dtype(backend, precision), like.t5_tokens
    config = replace(like.transformer, depth=1, depth_single=1)
    make = _Zeros(
        None,
        device,
        dtype,
        make_linear=backend.linear_maker(precision),
        norms_feed_codes=backend.norms_feed_codes(precision),
    )
    ops: Any = _WithoutAttention(backend.ops)
    model = Transformer(ops, make, config)
    one = torch.ones(1, device=device)
    rows = model.modulations(torch.zeros((1, config.vec_in_dim), dtype=dtype, device=device), one, one)
    txt = torch.zeros((1, words, config.context_in_dim), dtype=dtype, device=device)
    for height, width in sizes:
        img = torch.zeros((1, height * width // 4, config.in_channels), dtype=dtype, device=device)
        angles = torch.zeros((words + img.shape[1], sum(config.axes_dim) // 2, 2), device=device)
        model.modulated(img, txt, rows, angles)
    backend.graphs.is_warm = True


def attend(backend: TorchBackend, precision: Precision, like: ModelSpec, size: Size) -> None:
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


class _WithoutAttention:
    """Operations that do not attend."""

    def __init__(self, ops: Ops) -> None:
        self._ops = ops

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def joint_attention(self, streams: Sequence[HeadStream], *given: Any, **options: Any) -> Tensor:
        batch, _, width = streams[0].qkv.shape
        return streams[0].qkv.new_zeros((batch, sum(each.qkv.shape[1] for each in streams), width // 3))


class Convolution(NamedTuple):
    """A kind of convolution in a decoder.

    Attributes:
        weight: Shape of its weight.
        padding: On each side.
        factor: Height of its input over that of the latents.
    """

    weight: tuple[int, ...]
    padding: int
    factor: int


def decode(
    backend: TorchBackend, precision: Precision, like: ModelSpec, sizes: Sequence[Size]
) -> Sequence[Convolution]:
    """Calls a decoder with one block a level.

    Returns:
        Every kind of convolution of the whole one outside its attention.
    """
    notes = _Notes()
    make = _Watched(notes, backend.device, _dtype(backend, precision))
    config = replace(like.autoencoder, num_res_blocks=0)
    decoder = Decoder(backend.ops, make, config)
    for height, width in sizes:
        notes.height = height
        decoder(make.empty((1, height, width, config.latent_channels)))
    return list(notes.kinds)


def decoder_plans(
    backend: TorchBackend, precision: Precision, like: ModelSpec, size: Size, kinds: Iterable[Convolution]
) -> Generator[None]:
    """Calls a decoder's attention and then each kind of convolution, one after the other.

    One at a time needs less memory than a decoder does, and the next may wait for another step. Those that
    would need much are left out.
    """
    config, (height, width), dtype = like.autoencoder, size, _dtype(backend, precision)
    make = _Zeros(None, backend.device, dtype)
    channels = config.channels * config.channel_multipliers[-1]
    attention = ImageAttention(backend.ops, make, "", channels, config)
    attention(make.empty((1, height, width, channels)))
    yield
    for kind in kinds:
        rows, columns = kind.factor * height, kind.factor * width
        channels_out, channels_in = kind.weight[:2]
        if rows * columns * (channels_in + channels_out) * dtype.itemsize > MOST_PLANNED_BYTES:
            continue
        conv = Conv2d(make.zeros(kind.weight), None, 1, (kind.padding, kind.padding))
        conv(make.empty((1, rows, columns, channels_in)))
        yield


def _dtype(backend: TorchBackend, precision: Precision) -> torch.dtype:
    return backend.cast(torch.zeros(1), precision).dtype


class _Zeros(TorchLeaves):
    """Leaves of zeros, which need no time to be made."""

    def zeros(self, shape: tuple[int, ...]) -> nn.Parameter:
        values = torch.zeros(shape, device=self._device, dtype=self._dtype)
        if len(shape) == 4:
            values = values.contiguous(memory_format=torch.channels_last)
        return nn.Parameter(values, requires_grad=False)

    def empty(self, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, device=self._device, dtype=self._dtype)

    def _parameter(self, name: str, shape: tuple[int, ...], deviation: float | None) -> nn.Parameter:
        return self.zeros(shape)


@dataclass
class _Notes:
    """Which convolutions are called.

    Attributes:
        height: Of the latents that are decoded.
        kinds: In the order in which they were met.
    """

    height: int = 0
    kinds: dict[Convolution, None] = field(default_factory=dict[Convolution, None])


class _Watched(_Zeros):
    """Leaves whose convolutions are noted, but those of an attention."""

    def __init__(self, notes: _Notes, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(None, device, dtype)
        self._notes = notes

    def conv2d(self, name: str, *given: Any, **options: Any) -> nn.Module:
        conv = super().conv2d(name, *given, **options)
        if ".attn_" in name or not isinstance(conv, Conv2d):
            return conv
        return self._keep(name, _WatchedConv2d(self._notes, conv))


class _WatchedConv2d(Conv2d):
    def __init__(self, notes: _Notes, conv: Conv2d) -> None:
        super().__init__(conv.weight, conv.bias, conv.stride, (conv.symmetric, conv.symmetric))
        self._notes = notes

    def _convolved(self, x: Tensor, bias: Tensor | None) -> Tensor:
        factor = x.shape[1] // self._notes.height
        self._notes.kinds.setdefault(Convolution(tuple(self.weight.shape), self.symmetric, factor))
        return super()._convolved(x, bias)
