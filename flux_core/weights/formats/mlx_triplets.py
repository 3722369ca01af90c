"""MLX's quantised layers: codes, scales and offsets as three tensors beside each other.

`<layer>.weight` uint32 [rows, columns * bits / 32], `<layer>.scales` and `<layer>.biases` [rows, groups].
The shapes give the bits of a group and not its length; the length is 64 unless the header or an
impossible width says 32, as MLX and mflux write it.

Source: ml-explore/mlx nn/layers/quantized.py (names), mx.quantize (layout).
"""

from __future__ import annotations

from functools import partial

from flux_core.errors import Corrupt
from flux_core.weights.formats.assembled import Assembly, replaced
from flux_core.weights.formats.notes import AGAIN
from flux_core.weights.header import shown
from flux_core.weights.quant.mlx_affine import GROUPS, WIDTHS
from flux_core.weights.tensors import RawTensor, TensorInfo, TensorSource

WIDTH_KEYS = ("quantization_level", "bits")
"""Where writers put the width of a code in the header."""
_FLOATS = ("F16", "BF16", "F32")


def unpack(source: TensorSource) -> TensorSource | None:
    """The file's logical tensors, or None where no layer is quantised in this way.

    Raises:
        Corrupt: A layer's three tensors do not fit together.
    """
    found = source.names()
    layers = [
        layer
        for name, info in found.items()
        if info.dtype == "U32" and (layer := name.removesuffix(".weight")) != name
        if f"{layer}.scales" in found and f"{layer}.biases" in found
    ]
    if not layers:
        return None
    width = _stated_width(source)
    assemblies = {f"{layer}.weight": _assembly(source, layer, width) for layer in layers}
    used = {f"{layer}.{part}" for layer in layers for part in ("scales", "biases")}
    return replaced(source, assemblies, used)


def _stated_width(source: TensorSource) -> int | None:
    for key in WIDTH_KEYS:
        text = source.metadata.get(key, "")
        if text in map(str, WIDTHS):
            return int(text)
    return None


def _assembly(source: TensorSource, layer: str, stated_width: int | None) -> Assembly:
    found = source.names()
    weight, scales, biases = (found[f"{layer}.{part}"] for part in ("weight", "scales", "biases"))
    if (
        len(weight.shape) != 2
        or len(scales.shape) != 2
        or scales != biases
        or scales.dtype not in _FLOATS
        or scales.shape[0] != weight.shape[0]
        or not scales.shape[1]
    ):
        raise Corrupt(f"The three tensors of the MLX layer {shown(layer)} do not fit together.", AGAIN)
    group_bits, rest = divmod(weight.shape[1] * 32, scales.shape[1])
    kinds = [
        (group_bits // group, group) for group in sorted(GROUPS, reverse=True) if group_bits % group == 0
    ]
    kinds = [(width, group) for width, group in kinds if width in WIDTHS]
    if rest or not kinds:
        raise Corrupt(
            f"The MLX layer {shown(layer)} has {group_bits} bits in a group, a form that is not read here.",
            f"Quantise it with groups of 64 or 32 and {', '.join(map(str, WIDTHS))} bits.",
        )
    width, group = next((kind for kind in kinds if kind[0] == stated_width), kinds[0])
    info = TensorInfo(f"MLX{width}_G{group}", (weight.shape[0], scales.shape[1] * group))
    return Assembly(info, partial(_read, source, layer, info))


def _read(source: TensorSource, layer: str, info: TensorInfo) -> RawTensor:
    companions = {part: source.read(f"{layer}.{part}").to_numpy() for part in ("scales", "biases")}
    name = f"{layer}.weight"
    return RawTensor(name, info.dtype, info.shape, source.read(name).data, companions)
