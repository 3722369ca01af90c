"""bitsandbytes' four-bit weights (NF4 and FP4), alone in a file or in a diffusers or transformers folder.

The codes of a weight lie flat beside a largest magnitude for each block of 64; those may be quantised
once more ("double quantisation") and are resolved to float32 here. Codes and magnitudes become rows, so
that cutting and stacking need no arithmetic; where a block crosses rows, the weight is decoded instead.

Source: bitsandbytes functional.py QuantState.as_dict (names) and dequantize_4bit; checked against both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil, prod
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import Corrupt
from flux_core.weights.formats.assembled import Assembly, replaced
from flux_core.weights.formats.notes import AGAIN, tensor_note
from flux_core.weights.header import shown
from flux_core.weights.quant.four_bit import FP4_VALUES, NF4_VALUES
from flux_core.weights.tensors import RawTensor, TensorInfo, TensorSource

_STATE = ".quant_state.bitsandbytes__"
_TABLES = {"nf4": NF4_VALUES, "fp4": FP4_VALUES}
_TABLE_TOLERANCE = 1e-5
_MAX_ELEMENTS = 2**40


def unpack(source: TensorSource) -> TensorSource | None:
    """The file's logical tensors, or None where no weight is quantised in this way.

    Raises:
        Corrupt: A weight's tensors do not fit together, or its table of values is not the usual one.
    """
    found = source.names()
    states = {name.partition(_STATE)[0]: name for name in found if _STATE in name}
    if not states:
        return None
    assemblies = {weight: _assembly(source, _State.read(source, weight, n)) for weight, n in states.items()}
    parts = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
    used = set(states.values()) | {f"{weight}.{part}" for weight in states for part in parts}
    return replaced(source, assemblies, used)


@dataclass(frozen=True, slots=True)
class _State:
    """What the note of one weight says, checked against the tensors beside it."""

    weight: str
    kind: str
    shape: tuple[int, ...]
    block: int
    nested_block: int
    nested_offset: float

    @classmethod
    def read(cls, source: TensorSource, weight: str, note: str) -> _State:
        values = tensor_note(source, note)
        kind = note.rpartition("__")[2]
        raw_shape: object = values.get("shape")
        shape = tuple(cast("list[Any]", raw_shape)) if isinstance(raw_shape, list) else ()
        numbers: list[Any] = [values.get("blocksize"), values.get("nested_blocksize", 256), *shape]
        offset: object = values.get("nested_offset", 0.0) or 0.0  # 0 where a writer wrote no fraction
        if (
            kind not in _TABLES
            or not shape
            or not all(isinstance(x, int) and 0 < x < _MAX_ELEMENTS for x in numbers)
            or prod(shape) >= _MAX_ELEMENTS
            or not isinstance(offset, float)
        ):
            raise Corrupt(f"The note {shown(note)} does not describe a four-bit weight.", AGAIN)
        state = cls(weight, kind, shape, numbers[0], numbers[1], offset)
        state.check(source)
        return state

    @property
    def num_blocks(self) -> int:
        return ceil(prod(self.shape) / self.block)

    def check(self, source: TensorSource) -> None:
        """Raises Corrupt unless every part is there, of the right dtype and length."""
        found = source.names()
        absmax = found.get(f"{self.weight}.absmax")
        is_nested = absmax is not None and absmax.dtype == "U8"
        expected = {
            self.weight: ("U8", ceil(prod(self.shape) / 2)),
            f"{self.weight}.absmax": ("U8" if is_nested else "F32", self.num_blocks),
        }
        if f"{self.weight}.quant_map" in found:
            expected[f"{self.weight}.quant_map"] = ("F32", 16)
        if is_nested:
            expected[f"{self.weight}.nested_absmax"] = ("F32", ceil(self.num_blocks / self.nested_block))
            expected[f"{self.weight}.nested_quant_map"] = ("F32", 256)
        for name, (dtype, count) in expected.items():
            info = found.get(name)
            if info is None or info.dtype != dtype or prod(info.shape) != count:
                has = "is not there" if info is None else f"is {info.dtype} of shape {list(info.shape)}"
                raise Corrupt(f"{shown(name)} should be {count} numbers ({dtype}) and {has}.", AGAIN)
        if f"{self.weight}.quant_map" in found:
            table = source.read(f"{self.weight}.quant_map").to_numpy()
            if not np.allclose(table, _TABLES[self.kind], rtol=0, atol=_TABLE_TOLERANCE):
                raise Corrupt(
                    f"{shown(self.weight)} has a table of values of its own, which is not read here.",
                    f"Export it with bitsandbytes' usual {self.kind.upper()} table.",
                )


def _assembly(source: TensorSource, state: _State) -> Assembly:
    fits = prod(state.shape[1:]) % state.block == 0
    info = TensorInfo(state.kind.upper() if fits else "F32", state.shape)
    return Assembly(info, partial(_read_rows if fits else _read_values, source, state, info))


def _read_rows(source: TensorSource, state: _State, info: TensorInfo) -> RawTensor:
    absmax = _absmax(source, state).reshape(state.shape[0], -1)
    return RawTensor(state.weight, info.dtype, info.shape, source.read(state.weight).data, {"absmax": absmax})


def _read_values(source: TensorSource, state: _State, info: TensorInfo) -> RawTensor:
    codes = source.read(state.weight).data
    count = prod(state.shape)
    nibbles = np.stack([codes >> 4, codes & 15], axis=1).reshape(-1)[:count]
    values = _TABLES[state.kind][nibbles] * _spread(_absmax(source, state), state.block, count)
    return RawTensor(state.weight, info.dtype, info.shape, values.view(np.uint8))


def _absmax(source: TensorSource, state: _State) -> NDArray[np.float32]:
    """[num_blocks] the largest magnitude of each block."""
    raw = source.read(f"{state.weight}.absmax")
    if raw.dtype == "F32":
        return raw.to_numpy().reshape(-1)
    table = source.read(f"{state.weight}.nested_quant_map").to_numpy().reshape(-1)
    outer = source.read(f"{state.weight}.nested_absmax").to_numpy().reshape(-1)
    scale = _spread(outer, state.nested_block, state.num_blocks)
    return table[raw.data] * scale + np.float32(state.nested_offset)


def _spread(scales: NDArray[np.float32], block: int, count: int) -> NDArray[np.float32]:
    """One scale for each of `count` values; a block that claims to be longer costs no more."""
    return np.repeat(scales, min(block, count))[:count]
