"""Eight-bit float weights with a scale beside them, as ComfyUI first saved them.

`<layer>.weight` holds codes and `<layer>.scale_weight` one number (or one a row) to multiply them by; a
tensor called `scaled_fp8` marks the file. `scale_input` is for rounding activations too, which is a way
to be faster and never part of what the weights mean, so it is left out.

Source: comfyanonymous/ComfyUI comfy/ops.py (behaviour).
"""

from __future__ import annotations

from functools import partial
from math import prod

import numpy as np

from flux_core.errors import Corrupt
from flux_core.weights.formats.assembled import Assembly, replaced
from flux_core.weights.formats.notes import AGAIN
from flux_core.weights.header import shown
from flux_core.weights.tensors import RawTensor, TensorInfo, TensorSource

_SCALE = ".scale_weight"
_MARKER = "scaled_fp8"
_PLAIN = ("F32", "F16", "BF16")


def unpack(source: TensorSource) -> TensorSource | None:
    """The file's logical tensors, or None where it has neither scales nor the marker.

    Raises:
        Corrupt: A scale has no fp8 weight, or does not fit it.
    """
    found = source.names()
    layers = [name.removesuffix(_SCALE) for name in found if name.endswith(_SCALE)]
    markers = {name for name in found if name.rpartition(".")[2] == _MARKER}
    if not layers and not markers:
        return None
    assemblies = {
        f"{layer}.weight": scaled_weight(source, f"{layer}.weight", f"{layer}{_SCALE}") for layer in layers
    }
    used = markers | {name for name in found if name.endswith((_SCALE, ".scale_input"))}
    return replaced(source, assemblies, used)


def scaled_weight(source: TensorSource, weight: str, scale: str, kind: str | None = None) -> Assembly:
    """An fp8 weight with its scale as one tensor.

    Args:
        source: The file.
        weight: Name of the codes.
        scale: Name of the scale: one number for the tensor, or one for each row.
        kind: "F8_E4M3" or "F8_E5M2" where the file says so itself; else the codes' own dtype.

    Raises:
        Corrupt: The two do not fit together.
    """
    found = source.names()
    codes = found.get(weight)
    kind = kind or (codes.dtype if codes else None)
    if (
        codes is None
        or not codes.shape
        or kind not in ("F8_E4M3", "F8_E5M2")
        or codes.dtype not in (kind, "U8")
    ):
        what = "is not there" if codes is None else f"is {codes.dtype} of shape {list(codes.shape)}"
        raise Corrupt(f"{shown(scale)} is the scale of an fp8 weight, but {shown(weight)} {what}.", AGAIN)
    count = prod(found[scale].shape)
    dtype, rows = found[scale].dtype, codes.shape[0]
    if dtype not in _PLAIN or count not in (1, rows):
        raise Corrupt(f"{shown(scale)} holds {count} numbers ({dtype}) for {rows} rows of weights.", AGAIN)
    info = TensorInfo(f"{kind}_SCALED", codes.shape)
    return Assembly(info, partial(_read, source, weight, scale, info))


def _read(source: TensorSource, weight: str, scale: str, info: TensorInfo) -> RawTensor:
    numbers = source.read(scale).to_numpy().reshape(-1, 1)
    rows = np.ascontiguousarray(np.broadcast_to(numbers, (info.shape[0], 1)))
    return RawTensor(weight, info.dtype, info.shape, source.read(weight).data, {"scale": rows})
