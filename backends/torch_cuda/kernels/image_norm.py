"""GroupNorm and SiLU of an image [B, H, W, C] in two passes over it, by Triton.

Torch's own group norm wants [B, C, H, W], so between two convolutions over [B, H, W, C] it copies the picture
twice, and SiLU reads and writes it once more. Here the first pass takes each channel's mean and squared
distances (merged as in Chan et al. 1983, so that a large mean costs no digits), the second norms and activates.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_PART_ROWS = 1024  # pixels that one program of the first pass looks at
_TILE_VALUES = 8192  # that one program holds at a time
_MIN_ROWS = 4


def is_fit(x: Tensor, groups: int) -> bool:
    """Whether the kernels take it: on a GPU, laid out [B, H, W, C], channels a power of two."""
    channels = x.shape[-1]
    return (
        x.is_cuda
        and x.ndim == 4
        and x.is_contiguous()
        and channels & (channels - 1) == 0
        and groups <= channels <= _TILE_VALUES // _MIN_ROWS
        and x.dtype in (torch.bfloat16, torch.float16, torch.float32)
    )


def group_norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, has_silu: bool = True
) -> Tensor:
    """silu(group_norm(x)), or without the SiLU; x: [B, H, W, C] that `is_fit`, weight and bias: [C]."""
    batch, height, width, channels = x.shape
    pixels = height * width
    parts = triton.cdiv(pixels, _PART_ROWS)
    rows = max(_TILE_VALUES // channels, _MIN_ROWS)
    found = torch.empty((2, batch, parts, channels), dtype=torch.float32, device=x.device)
    affine = torch.empty((2, batch, channels), dtype=torch.float32, device=x.device)
    out = torch.empty_like(x)
    _look[(parts, batch)](x, found, pixels, parts, batch, channels, rows, _PART_ROWS)
    per_group = channels // groups
    _merge[(groups, batch)](
        found, weight, bias, affine, pixels, parts, batch, channels, eps, per_group,
        max(1024 // per_group, 1), _PART_ROWS,
    )  # fmt: skip
    _apply[(triton.cdiv(pixels, rows), batch)](x, affine, out, pixels, batch, channels, rows, has_silu)
    return out


@triton.jit(do_not_specialize=["pixels", "parts", "batch"])
def _look(
    x, found, pixels, parts, batch,
    channels: tl.constexpr, rows: tl.constexpr, part_rows: tl.constexpr,
):  # fmt: skip
    """Of one part's pixels: each channel's mean and sum of squared distances from it, [2, B, parts, C]."""
    part, image = tl.program_id(0), tl.program_id(1)
    channel = tl.arange(0, channels)
    row = tl.arange(0, rows)
    base = x + image.to(tl.int64) * pixels * channels
    mean = tl.zeros([channels], tl.float32)
    squares = tl.zeros([channels], tl.float32)
    first = part * part_rows
    for start in range(0, part_rows, rows):
        at = first + start + row
        is_in = at < pixels
        values = tl.load(
            base + at.to(tl.int64)[:, None] * channels + channel[None, :], mask=is_in[:, None], other=0.0
        ).to(tl.float32)
        count = tl.sum(is_in.to(tl.float32), 0)
        before = tl.minimum(start, tl.maximum(pixels - first, 0)).to(tl.float32)
        here = tl.sum(values, 0) / tl.maximum(count, 1.0)
        away = tl.where(is_in[:, None], values - here[None, :], 0.0)
        share = count / tl.maximum(before + count, 1.0)
        delta = here - mean
        squares += tl.sum(away * away, 0) + delta * delta * before * share
        mean += delta * share
    at_found = (image * parts + part) * channels + channel
    tl.store(found + at_found, mean)
    tl.store(found + batch * parts * channels + at_found, squares)


@triton.jit(do_not_specialize=["pixels", "parts", "batch"])
def _merge(
    found, weight, bias, affine, pixels, parts, batch,
    channels: tl.constexpr, eps: tl.constexpr, per_group: tl.constexpr, step: tl.constexpr,
    part_rows: tl.constexpr,
):  # fmt: skip
    """Of one group: the factor and the offset of each of its channels, [2, B, C]."""
    group, image = tl.program_id(0), tl.program_id(1)
    channel = group * per_group + tl.arange(0, per_group)
    total = pixels.to(tl.float32) * per_group
    sums = tl.zeros([step, per_group], tl.float32)
    for start in range(0, parts, step):
        part = start + tl.arange(0, step)
        count = tl.minimum(pixels - part * part_rows, part_rows).to(tl.float32)
        at = (image * parts + part)[:, None] * channels + channel[None, :]
        is_in = (part < parts)[:, None]
        sums += tl.load(found + at, mask=is_in, other=0.0) * count[:, None]
    mean = tl.sum(sums) / total
    squares = tl.zeros([step, per_group], tl.float32)
    for start in range(0, parts, step):
        part = start + tl.arange(0, step)
        count = tl.minimum(pixels - part * part_rows, part_rows).to(tl.float32)
        at = (image * parts + part)[:, None] * channels + channel[None, :]
        is_in = (part < parts)[:, None]
        delta = tl.load(found + at, mask=is_in, other=0.0) - mean
        within = tl.load(found + batch * parts * channels + at, mask=is_in, other=0.0)
        squares += tl.where(is_in, within + delta * delta * count[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(squares) / total + eps)
    factor = tl.load(weight + channel).to(tl.float32) * rstd
    offset = tl.load(bias + channel).to(tl.float32) - mean * factor
    tl.store(affine + image * channels + channel, factor)
    tl.store(affine + (batch + image) * channels + channel, offset)


@triton.jit(do_not_specialize=["pixels", "batch"])
def _apply(
    x, affine, out, pixels, batch,
    channels: tl.constexpr, rows: tl.constexpr, has_silu: tl.constexpr,
):  # fmt: skip
    """The second pass."""
    image = tl.program_id(1)
    channel = tl.arange(0, channels)
    at = tl.program_id(0) * rows + tl.arange(0, rows)
    where = (image.to(tl.int64) * pixels + at)[:, None] * channels + channel[None, :]
    is_in = (at < pixels)[:, None]
    factor = tl.load(affine + image * channels + channel)
    offset = tl.load(affine + (batch + image) * channels + channel)
    y = tl.load(x + where, mask=is_in, other=0.0).to(tl.float32) * factor[None, :] + offset[None, :]
    if has_silu:
        y = y * tl.sigmoid(y)
    tl.store(out + where, y.to(out.dtype.element_ty), mask=is_in)
