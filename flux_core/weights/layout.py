"""A file's names and shapes, asked the questions that tell what it is: prefixes, blocks, true shapes.

Quantised files pack several weights into one number, and put scales beside them under names of their
own; a shape here is the shape of the weights before that. What the file says in bytes is never read.

Source: research on bitsandbytes, ComfyUI, MLX and Nunchaku layouts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping

from flux_core.weights.tensors import BITS_OF_DTYPE, TensorInfo

_NF4 = re.compile(r"\.quant_state\.bitsandbytes__(nf4|fp4)$")
_BESIDE = re.compile(
    r"\.(?:absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..+|scale_weight|scale_input"
    r"|weight_scale|weight_scale_2|input_scale|comfy_quant|scales|wscales|wzeros|wcscales|wtscale"
    r"|smooth|smooth_orig|smooth_factor|smooth_factor_orig)$|(?:^|\.)scaled_fp8$"
)
_MLX_GROUP = 64
_DTYPE_NAMES = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F64": "float64",
    "F8_E4M3": "fp8 (e4m3)",
    "F8_E5M2": "fp8 (e5m2)",
}


class Names(Mapping[str, TensorInfo]):
    """Tensors by name, with questions.

    Args:
        infos: Every tensor, with its shape as the reader gives it.
        metadata: The file's free text.
    """

    def __init__(self, infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> None:
        self._infos = infos
        self.metadata = metadata

    def __getitem__(self, name: str) -> TensorInfo:
        return self._infos[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def has_prefix(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self._infos)

    def has_suffix(self, suffix: str) -> bool:
        return any(name.endswith(suffix) for name in self._infos)

    def has_part(self, part: str) -> bool:
        return any(part in name for name in self._infos)

    def count_blocks(self, prefix: str) -> int:
        """How many different numbers follow the prefix; blocks that were cut out do not count."""
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
        return len({match[1] for name in self._infos if (match := pattern.match(name))})

    def without(self, prefix: str) -> Names:
        """The tensors behind a prefix, under the rest of their names; all of them if none has it."""
        if not prefix or not self.has_prefix(prefix):
            return self
        inner = {
            name.removeprefix(prefix): info for name, info in self._infos.items() if name.startswith(prefix)
        }
        return Names(inner, self.metadata)

    def logical_shape(self, name: str) -> tuple[int, ...] | None:
        """The weight's shape before quantisation packed it; None if there is no such tensor."""
        info = self.get(name)
        if info is None:
            return None
        layer = name.removesuffix(".weight")
        if f"{name}.absmax" in self:  # two weights a byte, in one column
            rows = self.get(f"{layer}.bias")
            count = 2 * math.prod(info.shape)
            num_rows = rows.shape[0] if rows is not None and rows.shape else 0
            return (num_rows, count // num_rows) if num_rows else (count,)
        scales = self.get(f"{layer}.scales")
        if info.dtype == "U32" and scales is not None and scales.shape:
            return (*scales.shape[:-1], scales.shape[-1] * _MLX_GROUP)
        if info.dtype == "U8" and f"{layer}.weight_scale_2" in self and len(info.shape) == 2:
            return info.shape[0], 2 * info.shape[1]
        return info.shape

    def matrix(self, name: str) -> tuple[int, int] | None:
        """As logical_shape, where that is rows and columns; else None."""
        shape = self.logical_shape(name)
        return (shape[0], shape[1]) if shape is not None and len(shape) == 2 else None

    def num_parameters(self) -> int:
        """Weights, without the scales and tables that quantisation adds."""
        return sum(
            math.prod(self.logical_shape(name) or ()) for name in self._infos if not self._is_beside(name)
        )

    def _is_beside(self, name: str) -> bool:
        if name.endswith(".biases"):
            return f"{name.removesuffix('biases')}scales" in self
        return _BESIDE.search(name) is not None


def strip_prefix(tensors: Names, prefixes: Iterable[str], wanted: Iterable[str]) -> tuple[str, Names]:
    """The first prefix behind which a wanted beginning is found, and the tensors behind it."""
    starts = tuple(wanted)
    for prefix in prefixes:
        if any(tensors.has_prefix(prefix + start) for start in starts):
            return prefix, tensors.without(prefix)
    return "", tensors


def storage_of(tensors: Names) -> str:
    """How the weights are stored, in a person's words."""
    if match := next((m for name in tensors if (m := _NF4.search(name))), None):
        nested = " (double quantised)" if tensors.has_suffix(".nested_absmax") else ""
        return f"bitsandbytes {match[1].upper()}{nested}"
    if tensors.has_suffix(".qweight") and tensors.has_suffix(".wscales"):
        return "Nunchaku SVDQuant"
    if tensors.has_suffix(".weight_scale_2"):
        return "nvfp4"
    if tensors.has_suffix(".comfy_quant") or "_quantization_metadata" in tensors.metadata:
        return "ComfyUI quantised (comfy_quant)"
    if any(name.rpartition(".")[2] == "scaled_fp8" for name in tensors) or tensors.has_suffix(
        ".scale_weight"
    ):
        return "ComfyUI scaled fp8"
    if bits := next(filter(None, (_mlx_bits(tensors, name) for name in tensors)), 0):
        return f"MLX {bits}-bit"
    return _main_dtype(tensors)


def _mlx_bits(tensors: Names, name: str) -> int:
    """Bits a weight of a tensor that MLX packed into 32-bit words; 0 for any other tensor."""
    info, shape = tensors[name], tensors.matrix(name)
    if info.dtype != "U32" or not name.endswith(".weight") or shape is None or len(info.shape) != 2:
        return 0
    return 32 * info.shape[1] // max(shape[1], 1)


def _main_dtype(tensors: Names) -> str:
    """The dtype of most values, and that there are others if they are more than a hundredth."""
    counts: dict[str, int] = {}
    for info in tensors.values():
        counts[info.dtype] = counts.get(info.dtype, 0) + math.prod(info.shape)
    if not counts:
        return "empty"
    main = max(counts, key=lambda dtype: counts[dtype])
    is_mixed = sum(counts.values()) - counts[main] > sum(counts.values()) / 100
    name = _DTYPE_NAMES.get(main, main if main not in BITS_OF_DTYPE else main.lower())
    return f"{name}, mixed" if is_mixed else name
