"""Products in eight-bit floats: a scale for each row of the input and for each row of the weight.

Weights lie as e4m3 codes, inputs become e4m3 on their way in (by the operation before, where that is fused),
sums are exact enough in the tensor cores. Twice as fast as bfloat16 where the hardware has it (sm89 and
later); elsewhere such weights are decoded, as any others (`packed.py`). LoRAs see the input before it is
rounded, and the weight stays as it is.

Source: Micikevicius et al. 2022 (FP8 formats); torch._scaled_mm with row-wise scales.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from backends.torch_cuda.leaves import Linear, LinearMaker
from backends.torch_cuda.packed import PackedWeight
from flux_core.models.transformer import BLOCK_MATRIX

LARGEST = 448.0
"""The largest e4m3 number."""
SMALLEST_SCALE = 1e-12
"""So that a row of zeros divides by something."""
_SCHEMES = ("F8_E4M3", "F8_E4M3_SCALED")
_MULTIPLE = 16  # what the product wants both sides of a weight to be a multiple of

Coded = tuple[Tensor, Tensor]
"""Codes [..., D] float8_e4m3fn and what they are multiplied by [..., 1] float32."""


def coded(x: Tensor) -> Coded:
    """Rows [..., D] as codes, each row's largest value on the largest code."""
    x = x.float()
    scales = (x.abs().amax(-1, keepdim=True) / LARGEST).clamp_min(SMALLEST_SCALE)
    return (x * (1.0 / scales)).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scales


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


def computes_in_eight_bits(device: torch.device) -> bool:
    """Whether a device multiplies e4m3 numbers."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


class EightBitWeight(PackedWeight):
    """A weight [N, K] that is computed with as it lies: e4m3 codes with a scale for each row."""

    @classmethod
    def made_of(cls, weight: Tensor | PackedWeight, dtype: torch.dtype = torch.bfloat16) -> Self:
        """Of any weight [N, K]: its own codes where it is e4m3 already, else what it rounds to.

        Args:
            weight: On its device.
            dtype: In which other packed weights are decoded before.
        """
        if isinstance(weight, PackedWeight) and weight.scheme in _SCHEMES:
            codes, scale = weight.get_buffer("codes"), getattr(weight, "scale", None)
            if scale is None:
                scale = torch.ones((codes.shape[0], 1), dtype=torch.float32, device=codes.device)
        else:
            values, scale = coded(weight(dtype) if isinstance(weight, PackedWeight) else weight)
            codes = values.view(torch.uint8)
        return cls("F8_E4M3_SCALED", tuple(weight.shape), codes, {"scale": scale})

    def operands(self) -> Coded:
        """Codes [N, K] float8_e4m3fn and scales [N, 1] float32."""
        return self.get_buffer("codes").view(torch.float8_e4m3fn), self.get_buffer("scale")


class EightBitLinear(Linear):
    """[..., K] -> [..., N] from an eight-bit weight.

    Args:
        weight: [N, K].
        bias: [N], or None.
        code: Makes codes of an input that no fused operation has coded.
    """

    def __init__(
        self, weight: EightBitWeight, bias: nn.Parameter | None, code: Callable[[Tensor], Coded] = coded
    ) -> None:
        super().__init__(weight, bias)
        self._code = code

    @property
    def takes_codes(self) -> bool:
        """Whether it still has the weight that it was made with."""
        return isinstance(self.weight, EightBitWeight)

    def forward(self, x: Tensor) -> Tensor:
        if not self.takes_codes:
            return super().forward(x)
        y = self.multiplied(*self._code(x), x.dtype)
        for adapter in self.adapters:
            y = adapter(self, x, y)
        return y

    def multiplied(
        self, codes: Tensor, scales: Tensor, dtype: torch.dtype, columns: slice = slice(None)
    ) -> Tensor:
        """What a coded input gives, or some columns of it, without adapters."""
        assert isinstance(self.weight, EightBitWeight)
        weight, weight_scales = (part[columns] for part in self.weight.operands())
        bias = None if self.bias is None else self.bias[columns]
        return multiplied(codes, scales, weight, weight_scales, bias, dtype)


def block_matrices_in_eight_bits(code: Callable[[Tensor], Coded] = coded) -> LinearMaker:
    """Makes leaves: eight-bit ones of the matrices of a transformer's blocks, plain ones of all others.

    Embedders, modulation and the final layer, through which every value passes, stay as they are.
    """

    def make(name: str, weight: nn.Parameter | PackedWeight, bias: nn.Parameter | None) -> Linear:
        if BLOCK_MATRIX.search(name) and all(side % _MULTIPLE == 0 for side in weight.shape):
            return EightBitLinear(EightBitWeight.made_of(weight), bias, code)
        return Linear(weight, bias)

    return make
