"""What happens to an image [B, H, W, C] between convolutions but for norms: biases, shortcuts, doubling.

Torch adds a bias over the channels of such a layout, and doubles its pixels, at a third of memory's speed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096
_TILE_VALUES = 8192


def is_fit(x: Tensor) -> bool:
    """Whether the kernels take it: laid out [B, H, W, C], channels a power of two."""
    channels = x.shape[-1]
    return x.ndim == 4 and x.is_contiguous() and channels & (channels - 1) == 0 and channels <= _TILE_VALUES


def add_bias(x: Tensor, bias: Tensor, more: Tensor | None = None) -> Tensor:
    """x + bias + more, written over x; x and more: [B, H, W, C] that `is_fit`, bias: [C]."""
    grid = (triton.cdiv(x.numel(), _BLOCK),)
    _add_bias[grid](x, bias, x if more is None else more, x.numel(), x.shape[-1], more is not None, _BLOCK)
    return x


def doubled(x: Tensor) -> Tensor:
    """[B, H, W, C] that `is_fit` -> [B, 2H, 2W, C], every pixel four times."""
    batch, height, width, channels = x.shape
    out = torch.empty((batch, 2 * height, 2 * width, channels), dtype=x.dtype, device=x.device)
    rows = _TILE_VALUES // channels
    pixels = batch * height * width
    _double[(triton.cdiv(pixels, rows),)](x, out, pixels, width, channels, rows)
    return out


@triton.jit
def _add_bias(x, bias, more, count, channels: tl.constexpr, has_more: tl.constexpr, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    is_in = at < count
    y = tl.load(x + at, mask=is_in).to(tl.float32)
    y += tl.load(bias + at % channels, mask=is_in).to(tl.float32)
    if has_more:
        y += tl.load(more + at, mask=is_in).to(tl.float32)
    tl.store(x + at, y.to(x.dtype.element_ty), mask=is_in)


@triton.jit(do_not_specialize=["pixels", "width"])
def _double(x, out, pixels, width, channels: tl.constexpr, rows: tl.constexpr):
    pixel = tl.program_id(0) * rows + tl.arange(0, rows)
    is_in = (pixel < pixels)[:, None]
    channel = tl.arange(0, channels)[None, :]
    values = tl.load(x + pixel.to(tl.int64)[:, None] * channels + channel, mask=is_in)
    row, column = pixel // width, pixel % width  # rows of all images, one behind the other
    first = ((row * 2).to(tl.int64) * (2 * width) + column * 2)[:, None] * channels + channel
    below = 2 * width * channels
    tl.store(out + first, values, mask=is_in)
    tl.store(out + first + channels, values, mask=is_in)
    tl.store(out + first + below, values, mask=is_in)
    tl.store(out + first + below + channels, values, mask=is_in)
