"""MLX's affine codes: two to eight bits, with a scale and an offset for each 32 or 64 neighbours.

A row's codes are one stream of bits, lowest bit first, so 3, 5 and 6 bits cross bytes; eight codes (or
fewer) always end on a byte again, and that unit is what gets taken apart here.

Source: ml-explore/mlx, mx.quantize (packing and formula); checked against mx.dequantize.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from flux_core.weights.quant.bits import Bits

if TYPE_CHECKING:
    from flux_core.weights.quant.schemes import Decode

WIDTHS = (2, 3, 4, 5, 6, 8)
GROUPS = (32, 64)


def decoder(width: int) -> Decode:
    """Decodes codes of `width` bits: scale * code + bias.

    Companions: `scales` and `biases` [rows, groups] float32.
    """
    return partial(_decode, width)


def _decode(width: int, bits: Bits, rows: Any, companions: Mapping[str, Any]) -> Any:
    scales, biases = companions["scales"], companions["biases"]
    codes = bits.floats(unpacked(width, bits, rows)).reshape(*scales.shape, -1)  # [R, groups, group]
    return (scales[..., None] * codes + biases[..., None]).reshape(rows.shape[0], -1)


def unpacked(width: int, bits: Bits, rows: Any) -> Any:
    """Rows of bytes -> rows of codes, a byte each."""
    count = {2: 4, 4: 2, 6: 4, 8: 1}.get(width, 8)  # codes until the next byte begins
    units = rows.reshape(rows.shape[0], -1, count * width // 8)
    codes: list[Any] = []
    for i in range(count):
        byte, shift = divmod(i * width, 8)
        code = units[:, :, byte] >> shift
        if shift + width > 8:
            code = code | (units[:, :, byte + 1] << (8 - shift))
        codes.append(code & (2**width - 1))
    return bits.stack(codes, axis=2).reshape(rows.shape[0], -1)
