"""A component that mflux saved, as its diffusers or Hugging Face folder would have it.

mflux keeps MLX's layout: names of its own for a few modules, convolution kernels [out, kh, kw, in], T5's
table of distances copied into every block. Turned back here, so that nobody else needs to know.

Source: filipstrand/mflux, models/flux/model (module names) and model_saver.py (metadata).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod

import numpy as np

from flux_core.weights import mflux_keys
from flux_core.weights.formats.assembled import AssembledSource, Assembly
from flux_core.weights.tensors import BITS_OF_DTYPE, RawTensor, TensorInfo, TensorSource


def unpack(source: TensorSource) -> TensorSource | None:
    """The component under its published names, or None where mflux did not write it."""
    if not mflux_keys.is_mflux(source):
        return None
    assemblies: dict[str, Assembly] = {}
    for name, info in source.names().items():
        new = mflux_keys.published_name(name)
        if new is not None:
            assemblies[new] = _assembly(source, name, new, info)
    return AssembledSource(assemblies, source.metadata)


def _assembly(source: TensorSource, name: str, new: str, info: TensorInfo) -> Assembly:
    if len(info.shape) == 4 and info.dtype in BITS_OF_DTYPE:
        out, high, wide, deep = info.shape
        info = TensorInfo(info.dtype, (out, deep, high, wide))
        return Assembly(info, partial(_read_kernel, source, name, new, info))
    return Assembly(info, lambda: replace(source.read(name), name=new))


def _read_kernel(source: TensorSource, name: str, new: str, info: TensorInfo) -> RawTensor:
    """[out, kh, kw, in] -> [out, in, kh, kw], whatever the numbers are."""
    out, deep, high, wide = info.shape
    size = BITS_OF_DTYPE[info.dtype] // 8
    kernel = source.read(name).data.reshape(out, high, wide, deep, size)
    turned = np.ascontiguousarray(kernel.transpose(0, 3, 1, 2, 4))
    return RawTensor(new, info.dtype, info.shape, turned.reshape(prod(info.shape) * size))
