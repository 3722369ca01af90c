"""Every way of storing weights in fewer bits that this project computes from, by name.

A scheme is a pure function from rows of codes to float32 rows, written over `Bits`; readers produce its
rows, leaves keep them in memory and decode when they compute. A new scheme is one file and one row here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flux_core.weights.quant import four_bit, fp8, gguf_blocks, mlx_affine
from flux_core.weights.quant.bits import Bits, NumpyBits

Decode = Callable[[Bits, Any, Mapping[str, Any]], Any]
"""(bits, codes [rows, row_bytes] uint8, companions) -> float32 [rows, columns]."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """A way of storing rows of numbers.

    Attributes:
        block: Values that are coded together; a row is a whole number of blocks.
        block_bytes: Bytes of codes in a block.
        decode: From codes to values.
        companions: Names of what lies beside the codes.
    """

    block: int
    block_bytes: int
    decode: Decode
    companions: tuple[str, ...] = ()

    def row_bytes(self, columns: int) -> int:
        """Bytes of codes in a row of so many values.

        Raises:
            ValueError: Such a row is not a whole number of blocks.
        """
        if columns % self.block:
            raise ValueError(f"rows of {columns} values do not divide into blocks of {self.block}")
        return columns // self.block * self.block_bytes


SCHEMES: dict[str, Scheme] = {
    "F8_E4M3": Scheme(1, 1, fp8.decode_e4m3),
    "F8_E5M2": Scheme(1, 1, fp8.decode_e5m2),
    "F8_E4M3_SCALED": Scheme(1, 1, fp8.decode_e4m3_scaled, ("scale",)),
    "F8_E5M2_SCALED": Scheme(1, 1, fp8.decode_e5m2_scaled, ("scale",)),
    "Q8_0": Scheme(32, 34, gguf_blocks.decode_q8_0),
    "Q4_0": Scheme(32, 18, gguf_blocks.decode_q4_0),
    "Q4_1": Scheme(32, 20, gguf_blocks.decode_q4_1),
    "Q5_0": Scheme(32, 22, gguf_blocks.decode_q5_0),
    "Q5_1": Scheme(32, 24, gguf_blocks.decode_q5_1),
    "Q2_K": Scheme(256, 84, gguf_blocks.decode_q2_k),
    "Q3_K": Scheme(256, 110, gguf_blocks.decode_q3_k),
    "Q4_K": Scheme(256, 144, gguf_blocks.decode_q4_k),
    "Q5_K": Scheme(256, 176, gguf_blocks.decode_q5_k),
    "Q6_K": Scheme(256, 210, gguf_blocks.decode_q6_k),
    "NF4": Scheme(64, 32, four_bit.decode_nf4, ("absmax",)),
    "FP4": Scheme(64, 32, four_bit.decode_fp4, ("absmax",)),
    "NVFP4": Scheme(16, 8, four_bit.decode_nvfp4, ("scale", "tensor_scale")),
} | {
    f"MLX{width}_G{group}": Scheme(group, group * width // 8, mlx_affine.decoder(width), ("scales", "biases"))
    for width in mlx_affine.WIDTHS
    for group in mlx_affine.GROUPS
}

_NUMPY = NumpyBits()


def decode(dtype: str, rows: Any, companions: Mapping[str, Any], bits: Bits = _NUMPY) -> Any:
    """Codes [rows, row_bytes] of the scheme `dtype` -> float32 [rows, columns]."""
    return SCHEMES[dtype].decode(bits, rows, companions)
