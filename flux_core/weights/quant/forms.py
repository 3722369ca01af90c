"""How the codes that Flowbrush writes lie in a file: names, shapes and dtypes of each scheme's tensors.

Each form is one that other programs write, too: per-row scales as `weight_scale`, bitsandbytes' flat
codes, MLX's three tensors. So no reader is needed that was made for our files alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.weights.quant.encode import to_bf16
from flux_core.weights.quant.four_bit import NF4_VALUES
from flux_core.weights.safetensors_writer import Planned

Shape = tuple[int, ...]
"""Rows and columns; in fp8 any shape, of which the first axis are the rows."""
Companions = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Form:
    """How a scheme's codes lie in a file.

    Attributes:
        scheme: Name in SCHEMES.
        title: For people.
        plan: (name of the weight, its shape) -> the tensors to write.
        arrays: (shape, codes, companions) -> their contents, in the same order.
        metadata: What this form's readers look for in the header.
    """

    scheme: str
    title: str
    plan: Callable[[str, Shape], list[Planned]]
    arrays: Callable[[Shape, NDArray[np.uint8], Companions], list[NDArray[Any]]]
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


def _fp8_plan(name: str, shape: Shape) -> list[Planned]:
    scale = f"{name.removesuffix('.weight')}.weight_scale"
    return [Planned(name, "F8_E4M3", shape), Planned(scale, "F32", (shape[0], 1))]


def _fp8_arrays(shape: Shape, codes: NDArray[np.uint8], companions: Companions) -> list[NDArray[Any]]:
    return [codes, companions["scale"]]


def _nf4_plan(name: str, shape: Shape) -> list[Planned]:
    count = prod(shape)
    return [
        Planned(name, "U8", (count // 2, 1)),
        Planned(f"{name}.absmax", "F32", (count // 64,)),
        Planned(f"{name}.quant_map", "F32", (16,)),
        Planned(f"{name}.quant_state.bitsandbytes__nf4", "U8", (len(_nf4_note(shape)),)),
    ]


def _nf4_arrays(shape: Shape, codes: NDArray[np.uint8], companions: Companions) -> list[NDArray[Any]]:
    note = np.frombuffer(_nf4_note(shape), np.uint8)
    return [codes, companions["absmax"], NF4_VALUES, note]


def _nf4_note(shape: Shape) -> bytes:
    note = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(shape)}
    text = json.dumps(note).encode()
    return text + b" " * (-len(text) % 8)


def _mlx_plan(width: int, name: str, shape: Shape) -> list[Planned]:
    rows, columns = shape
    layer = name.removesuffix(".weight")
    return [
        Planned(name, "U32", (rows, columns * width // 32)),
        Planned(f"{layer}.scales", "BF16", (rows, columns // 64)),
        Planned(f"{layer}.biases", "BF16", (rows, columns // 64)),
    ]


def _mlx_arrays(shape: Shape, codes: NDArray[np.uint8], companions: Companions) -> list[NDArray[Any]]:
    return [codes, to_bf16(companions["scales"]), to_bf16(companions["biases"])]


def _mlx(width: int) -> Form:
    return Form(
        f"MLX{width}_G64",
        f"MLX {width}-bit",
        partial(_mlx_plan, width),
        _mlx_arrays,
        {"quantization_level": str(width)},
    )


FORMS: dict[str, Form] = {
    "fp8": Form("F8_E4M3_SCALED", "fp8 with a scale for each row", _fp8_plan, _fp8_arrays),
    "nf4": Form("NF4", "bitsandbytes NF4", _nf4_plan, _nf4_arrays),
    "mlx4": _mlx(4),
    "mlx8": _mlx(8),
}
"""By the word that the command line knows them by."""
