"""Rows of numbers as eight-bit codes with a scale for each row, and the product of two such matrices.

This is the arithmetic in plain torch: what runs where there are no kernels, and what kernels are tested with.

Source: Micikevicius et al. 2022 (FP8 formats); torch._scaled_mm with row-wise scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

LARGEST = 448.0
"""The largest e4m3 number."""
SMALLEST_SCALE = 1e-12
"""So that a row of zeros divides by something."""

LARGEST_BEFORE_TAIL = LARGEST / 16
"""The largest code of an input with a tail, in which LoRAs make larger numbers of it."""

ARRIVALS = 132
"""How many blocks of rows a kernel can count the parts of that are done."""

Coded = tuple[Tensor, Tensor]
"""Codes [..., D] float8_e4m3fn and what they are multiplied by [..., 1] float32."""
_LINE_BYTES = 128


class Coder(Protocol):
    """Makes codes of an input that no fused operation has coded; flux_core knows nothing of it."""

    def code(self, x: Tensor, tail: int = 0) -> Coded:
        """As `coded`."""
        ...

    def project(self, codes: Tensor, scales: Tensor, down: Tensor, gains: Tensor, arrivals: Tensor) -> None:
        """As `project`; it may count with `arrivals`, [ARRIVALS] int32 zeros, and leaves zeros there."""
        ...


class PlainCoder(Coder):
    """In plain torch."""

    def code(self, x: Tensor, tail: int = 0) -> Coded:
        return coded(x, tail)

    def project(self, codes: Tensor, scales: Tensor, down: Tensor, gains: Tensor, arrivals: Tensor) -> None:
        project(codes, scales, down, gains)


def coded(x: Tensor, tail: int = 0) -> Coded:
    """Rows [..., D] as codes [..., D + tail], each row's largest value on the largest code.

    Args:
        x: The rows.
        tail: How many columns are left behind them for `project`.
    """
    x = x.float()
    scales = (x.abs().amax(-1, keepdim=True) / largest_code(tail)).clamp_min(SMALLEST_SCALE)
    codes = empty_codes(x.shape, tail, x.device)
    codes[..., : x.shape[-1]] = (x * (1.0 / scales)).clamp(-LARGEST, LARGEST)
    return codes, scales


def largest_code(tail: int) -> float:
    """Of an input with so many columns behind it."""
    return LARGEST_BEFORE_TAIL if tail else LARGEST


def empty_codes(shape: Sequence[int], tail: int, device: torch.device) -> Tensor:
    """Codes [..., D + tail] for rows [..., D].

    With a tail their rows begin on lines of a GPU's cache; where they do not, products take a fifth longer.
    """
    if not tail:
        return torch.empty(shape, dtype=torch.float8_e4m3fn, device=device)
    *places, own = shape
    row = -(-(own + tail) // _LINE_BYTES) * _LINE_BYTES
    return torch.empty((*places, row), dtype=torch.float8_e4m3fn, device=device)[..., : own + tail]


def in_two_parts(x: Tensor) -> Tensor:
    """x [...] float32, up to LARGEST, as codes [2, ...] float8_e4m3fn; the second are what the first lack.

    Their sum is as near to it as bfloat16 is. A GPU multiplies codes with codes as they lie; casting them to
    a wider kind takes it longer than twice as many.
    """
    first = x.to(torch.float8_e4m3fn)
    return torch.stack((first, (x - first.float()).to(torch.float8_e4m3fn)))


def project(codes: Tensor, scales: Tensor, down: Tensor, gains: Tensor) -> None:
    """Writes gains * (down @ codes) behind an input's codes; where that is too large, the row's codes shrink.

    One of the two is as near as bfloat16: `down`, or what it makes.

    Args:
        codes: [..., K + tail] float8_e4m3fn. The first K are the input's; the tail gets T columns, or 2 * T
            where `down` has one part, the two parts one behind the other, and zeros behind them.
        scales: [..., 1] float32, what a row's codes are multiplied by.
        down: [1, T, K] or [2, T, K] float8_e4m3fn, whose sum counts.
        gains: [T] float32.
    """
    own = down.shape[2]
    values = codes[..., :own].float()
    sums = (values @ down.float().sum(0).t()) * gains
    over = (sums.abs().amax(-1, keepdim=True) / LARGEST).clamp_min(1.0)
    shrink = torch.exp2(-torch.ceil(torch.log2(over)))
    sums *= shrink
    made = torch.cat(tuple(in_two_parts(sums)), -1) if len(down) == 1 else sums.to(codes.dtype)
    codes[..., own : own + made.shape[-1]] = made
    codes[..., own + made.shape[-1] :] = 0.0
    codes[..., :own] = (values * shrink).to(codes.dtype)
    scales /= shrink


def multiplied(
    codes: Tensor,
    scales: Tensor,
    weight: Tensor,
    weight_scales: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Rows of codes times a weight of codes.

    Args:
        codes: [..., K] float8_e4m3fn.
        scales: [..., 1] float32.
        weight: [N, K] float8_e4m3fn.
        weight_scales: [N, 1] float32.
        bias: [N] in `dtype`, or None.
        dtype: Of the result [..., N]; bfloat16 on CUDA.
    """
    rows, row_scales = codes.reshape(-1, codes.shape[-1]), scales.reshape(-1, 1)
    if codes.is_cuda:
        out = torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
            rows,
            weight.t(),
            scale_a=row_scales,
            scale_b=weight_scales.t(),
            bias=bias,
            out_dtype=dtype,
            use_fast_accum=True,
        )
    else:  # the same codes and scales in exact arithmetic: what tests compare with
        out = (rows.float() @ weight.float().t()) * row_scales * weight_scales.t()
        out = (out if bias is None else out + bias.float()).to(dtype)
    return out.unflatten(0, codes.shape[:-1])
