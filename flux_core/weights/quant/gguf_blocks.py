"""The ten block types of GGUF: 32 or 256 neighbouring values share scales, and a row is whole blocks.

Each function takes rows of blocks apart with shifts and masks on bytes, so the only arrays wider than a
byte are the values and their scales. Products and differences come in the order of ggml's own reference,
so results are equal to the last bit.

Source: ggml-org/llama.cpp ggml-quants.c (dequantize_row_*) and gguf-py quants.py; checked against the latter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flux_core.weights.quant.bits import Bits


def decode_q8_0(bits: Bits, rows: Any, companions: Mapping[str, Any]) -> Any:
    """d f16; 32 x int8. Value d * q."""
    blocks = _blocks(rows, 34)
    return _flat(bits.halves(blocks[:, :, :2]) * bits.floats(bits.signed(blocks[:, :, 2:])))


def decode_q4_0(bits: Bits, rows: Any, companions: Mapping[str, Any]) -> Any:
    """d f16; 16 bytes of nibbles. Value d * (q - 8)."""
    blocks = _blocks(rows, 18)
    codes = _nibbles(bits, blocks[:, :, 2:])
    return _flat(bits.halves(blocks[:, :, :2]) * (bits.floats(codes) - 8.0))


def decode_q4_1(bits: Bits, rows: Any, companions: Mapping[str, Any]) -> Any:
    """d, m f16; 16 bytes of nibbles. Value d * q + m."""
    blocks = _blocks(rows, 20)
    codes = _nibbles(bits, blocks[:, :, 4:])
    return _flat(bits.halves(blocks[:, :, :2]) * bits.floats(codes) + bits.halves(blocks[:, :, 2:4]))


def decode_q5_0(bits: Bits, rows: Any, companions: Mapping[str, Any]) -> Any:
    """d f16; 32 fifth bits; 16 bytes of nibbles. Value d * (q - 16)."""
    blocks = _blocks(rows, 22)
    codes = _five_bits(bits, blocks[:, :, 2:6], blocks[:, :, 6:])
    return _flat(bits.halves(blocks[:, :, :2]) * (bits.floats(codes) - 16.0))


def decode_q5_1(bits: Bits, rows: Any, companions: Mapping[str, Any]) -> Any:
    """d, m f16; 32 fifth bits; 16 bytes of nibbles. Value d * q + m."""
    blocks = _blocks(rows, 24)
    codes = _five_bits(bits, blocks[:, :, 4:8], blocks[:, :, 8:])
    return _flat(bits.halves(blocks[:, :, :2]) * bits.floats(codes) + bits.halves(blocks[:, :, 2:4]))


def decode_q2_k(bits: Bits, rows: Any, companions: Mapping[str, Any]) -> Any:
    """16 bytes of (scale, min) nibbles; 64 bytes of 2-bit codes; d, dmin f16. d * sc * q - dmin * mn."""
    blocks = _blocks(rows, 84)
    scales = blocks[:, :, :16]
    codes = _two_bits(bits, blocks[:, :, 16:80])  # [R, n, 8, 32]
    scale = bits.halves(blocks[:, :, 80:82]) * bits.floats(scales & 15)  # [R, n, 16]
    minimum = bits.halves(blocks[:, :, 82:84]) * bits.floats(scales >> 4)
    return _scaled(bits, codes, scale, minimum)


def decode_q3_k(bits: Bits, rows: Any, companions: Mapping[str, Any]) -> Any:
    """32 bytes of third bits; 64 of 2-bit codes; 12 of 6-bit scales; d f16. d * (scale - 32) * (q - 4)."""
    blocks = _blocks(rows, 110)
    high = _bit_planes(bits, blocks[:, :, :32])  # [R, n, 8, 32]
    codes = _two_bits(bits, blocks[:, :, 32:96]) | (high << 2)
    packed = blocks[:, :, 96:108]
    low_scale = bits.concat([packed[:, :, :8] & 15, packed[:, :, :8] >> 4], axis=2)
    high_scale = bits.concat([(packed[:, :, 8:] >> shift) & 3 for shift in (0, 2, 4, 6)], axis=2)
    scale = bits.floats(low_scale | (high_scale << 4)) - 32.0  # [R, n, 16]
    groups = (bits.floats(codes) - 4.0).reshape(*scale.shape, 16)
    return _flat((bits.halves(blocks[:, :, 108:]) * scale)[..., None] * groups)


def decode_q4_k(bits: Bits, rows: Any, companions: Mapping[str, Any]) -> Any:
    """d, dmin f16; 12 bytes of 6-bit scales and mins; 128 bytes of nibbles. d * sc * q - dmin * mn."""
    blocks = _blocks(rows, 144)
    scale, minimum = _scales_and_mins(bits, blocks)
    return _scaled(bits, _wide_nibbles(bits, blocks[:, :, 16:]), scale, minimum)


def decode_q5_k(bits: Bits, rows: Any, companions: Mapping[str, Any]) -> Any:
    """As Q4_K, with 32 bytes of fifth bits before the nibbles."""
    blocks = _blocks(rows, 176)
    scale, minimum = _scales_and_mins(bits, blocks)
    codes = _wide_nibbles(bits, blocks[:, :, 48:]) | (_bit_planes(bits, blocks[:, :, 16:48]) << 4)
    return _scaled(bits, codes, scale, minimum)


def decode_q6_k(bits: Bits, rows: Any, companions: Mapping[str, Any]) -> Any:
    """128 bytes of nibbles; 64 of 2 high bits; 16 int8 scales; d f16. d * scale * (q - 32)."""
    blocks = _blocks(rows, 210)
    low = blocks[:, :, :128].reshape(*blocks.shape[:2], 2, 64)
    high = blocks[:, :, 128:192].reshape(*blocks.shape[:2], 2, 32)
    codes = bits.concat([low & 15, low >> 4], axis=3)  # [R, n, 2, 128]
    codes = codes | (bits.concat([(high >> shift) & 3 for shift in (0, 2, 4, 6)], axis=3) << 4)
    scale = bits.halves(blocks[:, :, 208:]) * bits.floats(bits.signed(blocks[:, :, 192:208]))  # [R, n, 16]
    groups = (bits.floats(codes) - 32.0).reshape(*scale.shape, 16)
    return _flat(scale[..., None] * groups)


def _blocks(rows: Any, block_bytes: int) -> Any:
    """[R, row_bytes] -> [R, n, block_bytes]."""
    return rows.reshape(rows.shape[0], -1, block_bytes)


def _flat(values: Any) -> Any:
    """[R, ...] -> [R, columns]."""
    return values.reshape(values.shape[0], -1)


def _scaled(bits: Bits, codes: Any, scale: Any, minimum: Any) -> Any:
    """codes [R, n, 8, 32] in equal groups, scale and minimum [R, n, groups] -> scale * code - minimum."""
    groups = bits.floats(codes).reshape(*scale.shape, -1)
    return _flat(scale[..., None] * groups - minimum[..., None])


def _nibbles(bits: Bits, packed: Any) -> Any:
    """[R, n, 16] -> [R, n, 32]: the low nibbles, then the high ones."""
    return bits.concat([packed & 15, packed >> 4], axis=2)


def _five_bits(bits: Bits, fifth: Any, packed: Any) -> Any:
    """Fifth bits [R, n, 4] in order and nibbles [R, n, 16] -> [R, n, 32]."""
    planes = bits.stack([(fifth >> shift) & 1 for shift in range(8)], axis=3)  # [R, n, 4, 8]
    return _nibbles(bits, packed) | (planes.reshape(*planes.shape[:2], 32) << 4)


def _bit_planes(bits: Bits, packed: Any) -> Any:
    """[R, n, 32] -> [R, n, 8, 32]: bit j of every byte."""
    return bits.stack([(packed >> shift) & 1 for shift in range(8)], axis=2)


def _two_bits(bits: Bits, packed: Any) -> Any:
    """[R, n, 64] -> [R, n, 8, 32]: four 2-bit planes of each half."""
    halves = packed.reshape(*packed.shape[:2], 2, 32)
    planes = bits.stack([(halves >> shift) & 3 for shift in (0, 2, 4, 6)], axis=3)  # [R, n, 2, 4, 32]
    return planes.reshape(*planes.shape[:2], 8, 32)


def _wide_nibbles(bits: Bits, packed: Any) -> Any:
    """[R, n, 128] -> [R, n, 8, 32]: of each 32 bytes the low nibbles, then the high ones."""
    groups = packed.reshape(*packed.shape[:2], 4, 32)
    pairs = bits.stack([groups & 15, groups >> 4], axis=3)  # [R, n, 4, 2, 32]
    return pairs.reshape(*pairs.shape[:2], 8, 32)


def _scales_and_mins(bits: Bits, blocks: Any) -> tuple[Any, Any]:
    """The head of a Q4_K or Q5_K block -> d * scale and dmin * min, [R, n, 8] each."""
    first, second, third = blocks[:, :, 4:8], blocks[:, :, 8:12], blocks[:, :, 12:16]
    scale = bits.concat([first & 63, (third & 15) | ((first >> 6) << 4)], axis=2)
    minimum = bits.concat([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=2)
    return (
        bits.halves(blocks[:, :, :2]) * bits.floats(scale),
        bits.halves(blocks[:, :, 2:4]) * bits.floats(minimum),
    )
