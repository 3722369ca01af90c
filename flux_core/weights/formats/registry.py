"""The quantised formats that are laid over a container, in the order they are looked for.

A format is a function from the container's source to a source of logical tensors, or None where the
file is not of its kind. Adding a format is one file and one row. Plain fp8 files need no row: their
dtype is a scheme already.
"""

from __future__ import annotations

from collections.abc import Callable

from flux_core.weights.formats import (
    bitsandbytes_4bit,
    comfy_quant,
    mflux,
    mlx_triplets,
    refused,
    scaled_fp8,
)
from flux_core.weights.tensors import TensorSource

Unpack = Callable[[TensorSource], TensorSource | None]

FORMATS: dict[str, Unpack] = {
    "forms that are not read": refused.refuse,
    "bitsandbytes 4-bit": bitsandbytes_4bit.unpack,
    "ComfyUI comfy_quant": comfy_quant.unpack,
    "ComfyUI fp8_scaled": scaled_fp8.unpack,
    "MLX affine": mlx_triplets.unpack,
    "mflux": mflux.unpack,
}


def unpacked(source: TensorSource) -> TensorSource:
    """The source as logical tensors: quantised weights under their own name, dtype a scheme.

    Every format is tried, because an all-in-one file may hold components in several.

    Args:
        source: A whole file, or the joined shards of one component (a layer's parts may lie in two).

    Raises:
        Corrupt: The file claims a format and does not keep to it, or a format that is known and refused.
    """
    for unpack in FORMATS.values():
        source = unpack(source) or source
    return source


def formats_of(source: TensorSource) -> list[str]:
    """Names of the formats that a file's quantised tensors are in; for people.

    Raises:
        Corrupt: As `unpacked`.
    """
    names: list[str] = []
    for name, unpack in FORMATS.items():
        found = unpack(source)
        if found is not None:
            names.append(name)
            source = found
    return names
