"""ComfyUI's newer quantised files: every layer says its format, by a note of its own or in the header.

The formats that mean one number for each code are read (both eight-bit floats, and nvfp4); the others
are refused by name, because a wrong guess would paint noise without a word. A weight with a
`weight_scale` that no note speaks of is read by its form alone, which also covers files of other writers.

Source: comfyanonymous/ComfyUI comfy/ops.py and comfy-kitchen (behaviour); cuBLAS block-scaling layout.
"""

from __future__ import annotations

from functools import partial
from math import ceil, prod
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import Corrupt
from flux_core.weights.formats.assembled import Assembly, replaced
from flux_core.weights.formats.notes import AGAIN, metadata_note, tensor_note
from flux_core.weights.formats.scaled_fp8 import scaled_weight
from flux_core.weights.header import shown
from flux_core.weights.tensors import RawTensor, TensorInfo, TensorSource

_NOTE = ".comfy_quant"
_SCALE = ".weight_scale"
_METADATA = "_quantization_metadata"
_FP8 = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
_NVFP4 = "nvfp4"
_PREFIXES = (
    "",
    "model.diffusion_model.",
    "diffusion_model.",
    "text_encoders.t5xxl.transformer.",
    "text_encoders.clip_l.transformer.",
)
"""What may stand before a layer's name in the file and not in its header."""
_GROUP = 16


def unpack(source: TensorSource) -> TensorSource | None:
    """The file's logical tensors, or None where no layer is quantised in this way.

    Raises:
        Corrupt: A layer's format is not read here, or its tensors do not fit together.
    """
    found = source.names()
    layers = _declared(source)
    for name in found:
        layer = name.removesuffix(_SCALE)
        if layer != name and layer not in layers:
            weight = found.get(f"{layer}.weight")
            if weight is not None and weight.dtype in _FP8.values():
                layers[layer] = next(key for key, dtype in _FP8.items() if dtype == weight.dtype)
            elif weight is not None and weight.dtype == "U8" and f"{name}_2" in found:
                layers[layer] = _NVFP4
    if not layers:
        return None
    used = {name for name in found if name.endswith((_NOTE, ".input_scale"))}
    used |= {f"{layer}{suffix}" for layer in layers for suffix in (_SCALE, f"{_SCALE}_2")}
    assemblies = {f"{layer}.weight": _assembly(source, layer, kind) for layer, kind in layers.items()}
    return replaced(source, assemblies, used)


def _declared(source: TensorSource) -> dict[str, str]:
    """Layer -> format, from the notes beside the tensors and from the header."""
    found = source.names()
    layers = {
        name.removesuffix(_NOTE): _format(name, tensor_note(source, name))
        for name in found
        if name.endswith(_NOTE)
    }
    listed: object = metadata_note(source.metadata, _METADATA).get("layers", {})
    if not isinstance(listed, dict):
        raise Corrupt(f"The file's metadata {_METADATA!r} does not list layers.", AGAIN)
    for layer, note in cast("dict[str, Any]", listed).items():
        for prefix in _PREFIXES:
            if f"{prefix}{layer}.weight" in found:
                layers.setdefault(f"{prefix}{layer}", _format(layer, note))
                break
    return layers


def _format(where: str, note: object) -> str:
    values = cast("dict[str, Any]", note) if isinstance(note, dict) else {}
    kind = values.get("format")
    if not isinstance(kind, str):
        raise Corrupt(f"The note on {shown(where)} does not say in which format the layer is.", AGAIN)
    if values.get("convrot"):  # the codes are of rotated weights
        kind = f"{kind} with convrot"
    if kind not in _FP8 and kind != _NVFP4:
        raise Corrupt(
            f"{shown(where.removesuffix(_NOTE))} is stored in ComfyUI's format {shown(kind)}, "
            "which is not read here.",
            "Get the file in bfloat16, fp8, nvfp4, NF4 or GGUF.",
        )
    return kind


def _assembly(source: TensorSource, layer: str, kind: str) -> Assembly:
    weight, scale = f"{layer}.weight", f"{layer}{_SCALE}"
    found = source.names()
    if kind == _NVFP4:
        return _nvfp4(source, weight, scale)
    if scale in found:
        return scaled_weight(source, weight, scale, _FP8[kind])
    if weight not in found or found[weight].dtype != _FP8[kind]:
        raise Corrupt(f"The file says that {shown(weight)} is {kind}, which it is not.", AGAIN)
    return Assembly(found[weight], partial(source.read, weight))


def _nvfp4(source: TensorSource, weight: str, scale: str) -> Assembly:
    found = source.names()
    parts = [found.get(name) for name in (weight, scale, f"{scale}_2")]
    if None in parts:
        raise Corrupt(f"The nvfp4 weight {shown(weight)} lacks its codes or one of its scales.", AGAIN)
    codes, tiled, total = cast("list[TensorInfo]", parts)
    if codes.dtype != "U8" or len(codes.shape) != 2 or codes.shape[1] * 2 % _GROUP:
        raise Corrupt(f"{shown(weight)} is not nvfp4: {codes.dtype} of shape {list(codes.shape)}.", AGAIN)
    rows, columns = codes.shape[0], codes.shape[1] * 2
    padded = _padded(rows, columns // _GROUP)
    if tiled.dtype not in ("F8_E4M3", "U8") or prod(tiled.shape) != prod(padded):
        raise Corrupt(
            f"{shown(scale)} should be {list(padded)} and is {tiled.dtype} of shape {list(tiled.shape)}.",
            AGAIN,
        )
    if total.dtype != "F32" or prod(total.shape) != 1:
        raise Corrupt(f"{shown(f'{scale}_2')} should be one float32 number.", AGAIN)
    info = TensorInfo("NVFP4", (rows, columns))
    return Assembly(info, partial(_read_nvfp4, source, weight, scale, info))


def _read_nvfp4(source: TensorSource, weight: str, scale: str, info: TensorInfo) -> RawTensor:
    rows, columns = info.shape
    total = source.read(f"{scale}_2").to_numpy().reshape(1, 1)
    companions = {
        "scale": untiled(source.read(scale).data, rows, columns // _GROUP),
        "tensor_scale": np.ascontiguousarray(np.broadcast_to(total, (rows, 1))),
    }
    return RawTensor(weight, info.dtype, info.shape, source.read(weight).data, companions)


def untiled(data: NDArray[np.uint8], rows: int, groups: int) -> NDArray[np.uint8]:
    """Scales in the order of cuBLAS's tiles -> row order.

    Args:
        data: [bytes] of tiles of 128 rows x 4 groups, each [32][4][4]: row % 32, row // 32, group.
        rows: Of the weight.
        groups: Of 16 values in a row.

    Returns:
        [rows, groups], without what fills up the last tiles.
    """
    padded_rows, padded_groups = _padded(rows, groups)
    tiles = data.reshape(padded_rows // 128, padded_groups // 4, 32, 4, 4)
    in_order = tiles.transpose(0, 3, 2, 1, 4).reshape(padded_rows, padded_groups)
    return np.ascontiguousarray(in_order[:rows, :groups])


def _padded(rows: int, groups: int) -> tuple[int, int]:
    return 128 * ceil(rows / 128), 4 * ceil(groups / 4)
