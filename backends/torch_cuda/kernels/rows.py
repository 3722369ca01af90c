"""Kernels that take rows as they lie and give rows for a linear leaf: plain, as eight-bit codes, or both."""

# pyright: reportMissingImports=false, reportCallIssue=false, reportUnboundVariable=false
from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from backends.torch_cuda.eight_bit import LARGEST, SMALLEST_SCALE

_LARGEST = tl.constexpr(LARGEST)
_SMALLEST_SCALE = tl.constexpr(SMALLEST_SCALE)


class Forms(NamedTuple):
    """Which forms of its input somebody takes."""

    plain: bool = True
    codes: bool = False


class Rows(NamedTuple):
    """An input of a linear leaf, in the forms that were asked for.

    Attributes:
        plain: [B, L, D].
        codes: [B, L, D] float8_e4m3fn.
        scales: [B, L, 1] float32, what the codes are multiplied by.
    """

    plain: Tensor | None
    codes: Tensor | None
    scales: Tensor | None


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float, forms: Forms) -> Rows:
    """(1 + scale) * LayerNorm(x) + shift: x [B, L, D], shift and scale [B or 1, 1, D]."""
    return _norm(x, None, None, shift, scale, eps, forms)[1]


def gated_modulated(
    x: Tensor, gate: Tensor, y: Tensor, shift: Tensor, scale: Tensor, eps: float, forms: Forms
) -> tuple[Tensor, Rows]:
    """x + gate * y, and that modulated."""
    return _norm(x, gate, y, shift, scale, eps, forms)


def gated_add(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    """x + gate * y: x and y [B, L, D], gate [B or 1, 1, D]."""
    batch, length, dim = x.shape
    x, y = _in_rows(x), _in_rows(y)
    out = torch.empty((batch, length, dim), dtype=x.dtype, device=x.device)
    block = min(1024, triton.next_power_of_2(dim))
    _gated_add[(batch * length, triton.cdiv(dim, block))](
        x, y, gate, out, length, dim, x.stride(0), x.stride(1), y.stride(0), y.stride(1),
        _batch_stride(gate, batch), block, num_warps=4,
    )  # fmt: skip
    return out


def activated(plain: Tensor | None, inner: Tensor | None, forms: Forms) -> Rows:
    """concat([plain, gelu_tanh(inner)]) along the last axis; either may be missing.

    Args:
        plain: [B, L, D1], any strides of batch and rows.
        inner: [B, L, D2], likewise.
        forms: Of the result [B, L, D1 + D2].
    """
    first = _in_rows(_one_of(plain, inner))
    second = _in_rows(_one_of(inner, plain))
    batch, length = first.shape[:2]
    dims = (0 if plain is None else plain.shape[2], 0 if inner is None else inner.shape[2])
    rows = _empty_rows(first, sum(dims), forms)
    blocks = [triton.next_power_of_2(max(dim, 16)) for dim in dims]
    _activated[(batch * length,)](
        first, second, *_pointers(rows, first), length, *dims,
        first.stride(0), first.stride(1), second.stride(0), second.stride(1),
        plain is not None, inner is not None, forms.plain, forms.codes, *blocks,
        num_warps=_warps(sum(dims)),
    )  # fmt: skip
    return rows


def _norm(
    x: Tensor,
    gate: Tensor | None,
    y: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    forms: Forms,
) -> tuple[Tensor, Rows]:
    batch, length, dim = x.shape
    x = _in_rows(x)
    other = x if y is None else _in_rows(y)
    gate = shift if gate is None else gate
    out = x if y is None else torch.empty((batch, length, dim), dtype=x.dtype, device=x.device)
    rows = _empty_rows(x, dim, forms)
    _norm_kernel[(batch * length,)](
        x, other, gate, shift, scale, out, *_pointers(rows, x), length, dim,
        x.stride(0), x.stride(1), other.stride(0), other.stride(1),
        *(_batch_stride(each, batch) for each in (gate, shift, scale)),
        eps, y is not None, forms.plain, forms.codes, triton.next_power_of_2(dim),
        num_warps=_warps(dim),
    )  # fmt: skip
    return out, rows


def _empty_rows(like: Tensor, dim: int, forms: Forms) -> Rows:
    batch, length = like.shape[:2]

    def empty(width: int, dtype: torch.dtype) -> Tensor:
        return torch.empty((batch, length, width), dtype=dtype, device=like.device)

    return Rows(
        empty(dim, like.dtype) if forms.plain else None,
        empty(dim, torch.float8_e4m3fn) if forms.codes else None,
        empty(1, torch.float32) if forms.codes else None,
    )


def _pointers(rows: Rows, instead: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors of rows; a kernel does not touch what stands in for those that are not wanted."""
    plain, codes, scales = (instead if each is None else each for each in rows)
    return plain, codes, scales


def _one_of(a: Tensor | None, b: Tensor | None) -> Tensor:
    found = b if a is None else a
    assert found is not None
    return found


def _in_rows(x: Tensor) -> Tensor:
    """With neighbouring values of a row beside each other."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _batch_stride(x: Tensor, batch: int) -> int:
    """Of a modulation [B or 1, 1, D], whose rows are contiguous."""
    return x.stride(0) if batch > 1 and x.shape[0] > 1 else 0


def _warps(dim: int) -> int:
    return 16 if dim > 8192 else 8 if dim > 1024 else 4


@triton.jit
def _store_row(n, mask, row, first, dim, cols, plain, HAS_PLAIN: tl.constexpr):
    """Part of a plain row that begins at column `first`."""
    if HAS_PLAIN:
        tl.store(plain + row * dim + first + cols, n.to(plain.dtype.element_ty), mask)


@triton.jit
def _coded(n, inverse):
    """Values as codes of one scale."""
    return tl.minimum(tl.maximum(n * inverse, -_LARGEST), _LARGEST).to(tl.float8e4nv)


@triton.jit
def _norm_kernel(
    x, y, gate, shift, scale, out, plain, codes, scales, length, dim,
    x_batch, x_row, y_batch, y_row, gate_batch, shift_batch, scale_batch,
    eps, HAS_ADD: tl.constexpr, HAS_PLAIN: tl.constexpr, HAS_CODES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    batch, place = row // length, row % length
    cols = tl.arange(0, BLOCK)
    mask = cols < dim
    v = tl.load(x + batch * x_batch + place * x_row + cols, mask, 0.0).to(tl.float32)
    if HAS_ADD:
        g = tl.load(gate + batch * gate_batch + cols, mask, 0.0).to(tl.float32)
        v += g * tl.load(y + batch * y_batch + place * y_row + cols, mask, 0.0).to(tl.float32)
        rounded = v.to(out.dtype.element_ty)
        tl.store(out + row * dim + cols, rounded, mask)
        v = rounded.to(tl.float32)
    centred = tl.where(mask, v - tl.sum(v, 0) / dim, 0.0)
    n = centred * (1.0 / tl.sqrt(tl.sum(centred * centred, 0) / dim + eps))
    n = n * (1.0 + tl.load(scale + batch * scale_batch + cols, mask, 0.0).to(tl.float32))
    n += tl.load(shift + batch * shift_batch + cols, mask, 0.0).to(tl.float32)
    _store_row(n, mask, row, 0, dim, cols, plain, HAS_PLAIN)
    if HAS_CODES:
        s = tl.maximum(tl.max(tl.abs(n), 0) / _LARGEST, _SMALLEST_SCALE)
        tl.store(codes + row * dim + cols, _coded(n, 1.0 / s), mask)
        tl.store(scales + row, s)


@triton.jit
def _activated(
    a, b, plain, codes, scales, length, a_dim, b_dim, a_batch, a_row, b_batch, b_row,
    HAS_A: tl.constexpr, HAS_B: tl.constexpr, HAS_PLAIN: tl.constexpr, HAS_CODES: tl.constexpr,
    A_BLOCK: tl.constexpr, B_BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    batch, place = row // length, row % length
    dim = a_dim + b_dim
    largest = 0.0
    if HAS_B:
        b_cols = tl.arange(0, B_BLOCK)
        b_mask = b_cols < b_dim
        n = tl.load(b + batch * b_batch + place * b_row + b_cols, b_mask, 0.0).to(tl.float32)
        # gelu_tanh(n) = n * sigmoid(2 u), u = sqrt(2 / pi) (n + 0.044715 n^3)
        n = n * tl.sigmoid(1.5957691216057308 * (n + 0.044715 * n * n * n))
        _store_row(n, b_mask, row, a_dim, dim, b_cols, plain, HAS_PLAIN)
        largest = tl.max(tl.abs(n), 0)
    if HAS_A:
        a_cols = tl.arange(0, A_BLOCK)
        a_mask = a_cols < a_dim
        m = tl.load(a + batch * a_batch + place * a_row + a_cols, a_mask, 0.0).to(tl.float32)
        _store_row(m, a_mask, row, 0, dim, a_cols, plain, HAS_PLAIN)
        largest = tl.maximum(largest, tl.max(tl.abs(m), 0))
    if HAS_CODES:
        s = tl.maximum(largest / _LARGEST, _SMALLEST_SCALE)
        tl.store(scales + row, s)
        if HAS_B:
            tl.store(codes + row * dim + a_dim + b_cols, _coded(n, 1.0 / s), b_mask)
        if HAS_A:
            tl.store(codes + row * dim + a_cols, _coded(m, 1.0 / s), a_mask)


@triton.jit
def _gated_add(x, y, gate, out, length, dim, x_batch, x_row, y_batch, y_row, gate_batch, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    batch, place = row // length, row % length
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < dim
    v = tl.load(x + batch * x_batch + place * x_row + cols, mask, 0.0).to(tl.float32)
    w = tl.load(y + batch * y_batch + place * y_row + cols, mask, 0.0).to(tl.float32)
    g = tl.load(gate + batch * gate_batch + cols, mask, 0.0).to(tl.float32)
    tl.store(out + row * dim + cols, (v + g * w).to(out.dtype.element_ty), mask)
