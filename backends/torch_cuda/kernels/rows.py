"""Kernels that take rows as they lie and give rows for a linear leaf: plain, as eight-bit codes, or both."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from backends.torch_cuda.codes import SMALLEST_SCALE, empty_codes, largest_code


class Forms(NamedTuple):
    """Which forms of its input somebody takes.

    Attributes:
        plain: As it is.
        codes: As eight-bit codes.
        tail: How many columns of codes are left behind those of the input.
    """

    plain: bool = True
    codes: bool = False
    tail: int = 0


class Rows(NamedTuple):
    """An input of a linear leaf, in the forms that were asked for.

    Attributes:
        plain: [B, L, D].
        codes: [B, L, D + tail] float8_e4m3fn; the tail is not written.
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
    blocks = [size for dim in dims for size in _pieces(dim)]
    _activated[(batch * length,)](
        first, second, *_pointers(rows, first), length, *dims, _row(rows.codes), largest_code(forms.tail),
        *first.stride()[:2], *second.stride()[:2],
        plain is not None, inner is not None, forms.plain, forms.codes,
        first.is_cuda and first.element_size() < 4 and not forms.plain, *blocks, SMALLEST_SCALE,
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
    out = x if y is None else x.new_empty((batch, length, dim))
    rows = _empty_rows(x, dim, forms)
    _norm_kernel[(batch * length,)](
        x, other, gate, shift, scale, out, *_pointers(rows, x), length, dim,
        _row(rows.codes), largest_code(forms.tail),
        *x.stride()[:2], *other.stride()[:2],
        _batch_stride(gate, batch), _batch_stride(shift, batch), _batch_stride(scale, batch),
        eps, y is not None, forms.plain, forms.codes, *_pieces(dim),
        SMALLEST_SCALE,  # globals of a module are compared at every launch
        num_warps=_warps(dim),
    )  # fmt: skip
    return out, rows


def _empty_rows(like: Tensor, dim: int, forms: Forms) -> Rows:
    batch, length = like.shape[:2]
    return Rows(
        like.new_empty((batch, length, dim)) if forms.plain else None,
        empty_codes((batch, length, dim), forms.tail, like.device) if forms.codes else None,
        like.new_empty((batch, length, 1), dtype=torch.float32) if forms.codes else None,
    )


def _pointers(rows: Rows, instead: Tensor) -> list[Tensor]:
    """The tensors of rows; a kernel does not touch what stands in for those that are not wanted."""
    return [instead if each is None else each for each in rows]


def _row(codes: Tensor | None) -> int:
    """How far apart rows of codes lie."""
    return 0 if codes is None else codes.stride(1)


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


@cache  # triton's powers of two take as long as an allocation
def _pieces(dim: int) -> tuple[int, int]:
    """Two powers of two that hold a row with little left over: 2048 and 1024 for 3072."""
    first = max(triton.next_power_of_2(dim) // 2, 16)
    return first, triton.next_power_of_2(max(dim - first, 16))


def _warps(dim: int) -> int:
    return 8 if dim > 8192 else 4


@triton.jit
def _loaded(pointer, cols, mask):
    return tl.load(pointer + cols, mask, 0.0).to(tl.float32)


@triton.jit
def _stored(pointer, cols, mask, n):
    tl.store(pointer + cols, n.to(pointer.dtype.element_ty), mask)


@triton.jit
def _gelu(n, IS_ROUGH: tl.constexpr):
    """gelu_tanh(n), float32; roughly: with the GPU's own tanh, whose error is below a code's."""
    if IS_ROUGH:
        u = n * (0.7978845608028654 + 0.035677408136300125 * n * n)
        tanh = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [u], tl.float32, True, 1)
        half = 0.5 * n
        return half + half * tanh
    return n * tl.sigmoid(1.5957691216057308 * (n + 0.044715 * n * n * n))  # the same, by 2 sigmoid(2 u)


@triton.jit
def _added(x, gate, y, out, cols, mask, HAS_ADD: tl.constexpr):
    """x + gate * y as it is stored, or x alone."""
    v = _loaded(x, cols, mask)
    if HAS_ADD:
        v = (v + _loaded(gate, cols, mask) * _loaded(y, cols, mask)).to(out.dtype.element_ty)
        tl.store(out + cols, v, mask)
        v = v.to(tl.float32)
    return v


@triton.jit(do_not_specialize=["length"])  # one compilation for all sizes of picture
def _norm_kernel(
    x, y, gate, shift, scale, out, plain, codes, scales, length, dim, codes_row, top,
    x_batch, x_row, y_batch, y_row, gate_batch, shift_batch, scale_batch,
    eps, HAS_ADD: tl.constexpr, HAS_PLAIN: tl.constexpr, HAS_CODES: tl.constexpr,
    FIRST: tl.constexpr, REST: tl.constexpr, SMALLEST_SCALE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    batch, place = row // length, row % length
    cols1, cols2 = tl.arange(0, FIRST), FIRST + tl.arange(0, REST)
    mask1, mask2 = cols1 < dim, cols2 < dim
    x += batch * x_batch + place * x_row
    y += batch * y_batch + place * y_row
    gate, shift, scale = gate + batch * gate_batch, shift + batch * shift_batch, scale + batch * scale_batch
    out, plain, codes = out + row * dim, plain + row * dim, codes + row * codes_row

    v1 = _added(x, gate, y, out, cols1, mask1, HAS_ADD)
    v2 = _added(x, gate, y, out, cols2, mask2, HAS_ADD)
    mean = (tl.sum(v1, 0) + tl.sum(v2, 0)) / dim
    v1, v2 = tl.where(mask1, v1 - mean, 0.0), tl.where(mask2, v2 - mean, 0.0)
    spread = 1.0 / tl.sqrt((tl.sum(v1 * v1, 0) + tl.sum(v2 * v2, 0)) / dim + eps)
    n1 = v1 * spread * (1.0 + _loaded(scale, cols1, mask1)) + _loaded(shift, cols1, mask1)
    n2 = v2 * spread * (1.0 + _loaded(scale, cols2, mask2)) + _loaded(shift, cols2, mask2)
    if HAS_PLAIN:
        _stored(plain, cols1, mask1, n1)
        _stored(plain, cols2, mask2, n2)
    if HAS_CODES:
        largest = tl.maximum(tl.max(tl.abs(n1), 0), tl.max(tl.abs(n2), 0))
        s = tl.maximum(largest / top, SMALLEST_SCALE)
        _stored(codes, cols1, mask1, n1 * (1.0 / s))
        _stored(codes, cols2, mask2, n2 * (1.0 / s))
        tl.store(scales + row, s)


@triton.jit(do_not_specialize=["length"])
def _activated(
    a, b, plain, codes, scales, length, a_dim, b_dim, codes_row, top, a_batch, a_row, b_batch, b_row,
    HAS_A: tl.constexpr, HAS_B: tl.constexpr, HAS_PLAIN: tl.constexpr, HAS_CODES: tl.constexpr,
    IS_ROUGH: tl.constexpr,
    A_FIRST: tl.constexpr, A_REST: tl.constexpr, B_FIRST: tl.constexpr, B_REST: tl.constexpr,
    SMALLEST_SCALE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    batch, place = row // length, row % length
    plain += row * (a_dim + b_dim)
    codes += row * codes_row
    largest = 0.0
    if HAS_B:
        b += batch * b_batch + place * b_row
        cols3, cols4 = tl.arange(0, B_FIRST), B_FIRST + tl.arange(0, B_REST)
        mask3, mask4 = cols3 < b_dim, cols4 < b_dim
        n3, n4 = _gelu(_loaded(b, cols3, mask3), IS_ROUGH), _gelu(_loaded(b, cols4, mask4), IS_ROUGH)
        largest = tl.maximum(tl.max(tl.abs(n3), 0), tl.max(tl.abs(n4), 0))
        if HAS_PLAIN:
            _stored(plain + a_dim, cols3, mask3, n3)
            _stored(plain + a_dim, cols4, mask4, n4)
    if HAS_A:
        a += batch * a_batch + place * a_row
        cols1, cols2 = tl.arange(0, A_FIRST), A_FIRST + tl.arange(0, A_REST)
        mask1, mask2 = cols1 < a_dim, cols2 < a_dim
        n1, n2 = _loaded(a, cols1, mask1), _loaded(a, cols2, mask2)
        largest = tl.maximum(largest, tl.maximum(tl.max(tl.abs(n1), 0), tl.max(tl.abs(n2), 0)))
        if HAS_PLAIN:
            _stored(plain, cols1, mask1, n1)
            _stored(plain, cols2, mask2, n2)
    if HAS_CODES:
        s = tl.maximum(largest / top, SMALLEST_SCALE)
        tl.store(scales + row, s)
        if HAS_B:
            _stored(codes + a_dim, cols3, mask3, n3 * (1.0 / s))
            _stored(codes + a_dim, cols4, mask4, n4 * (1.0 / s))
        if HAS_A:
            _stored(codes, cols1, mask1, n1 * (1.0 / s))
            _stored(codes, cols2, mask2, n2 * (1.0 / s))


@triton.jit(do_not_specialize=["length"])
def _gated_add(x, y, gate, out, length, dim, x_batch, x_row, y_batch, y_row, gate_batch, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    batch, place = row // length, row % length
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < dim
    v = tl.load(x + batch * x_batch + place * x_row + cols, mask, 0.0).to(tl.float32)
    w = tl.load(y + batch * y_batch + place * y_row + cols, mask, 0.0).to(tl.float32)
    g = tl.load(gate + batch * gate_batch + cols, mask, 0.0).to(tl.float32)
    tl.store(out + row * dim + cols, (v + g * w).to(out.dtype.element_ty), mask)
