"""The tensors of one module of a LoRA file: what they are together, whether they fit, and their patches.

The rules for alpha live here: the factor is alpha / r with r as stored; without alpha it is 1; a LoKr
stored in full ignores alpha.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from flux_core.errors import Corrupt
from flux_core.plan import Component
from flux_core.weights.header import shown
from flux_core.weights.lora.metadata import Scale
from flux_core.weights.lora.patches import (
    Axis,
    Delta,
    Difference,
    Floats,
    Hadamard,
    Kronecker,
    LowRank,
    Magnitude,
    NormChange,
    Patch,
)
from flux_core.weights.lora.roles import Role
from flux_core.weights.lora.target import Target
from flux_core.weights.tensors import TensorInfo, TensorSource

MAX_IMG_IN_COLUMNS = 512  # published models have 64, 128 and 384
_INTEGERS = {"I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U8": "u1"}

_LORA = frozenset({Role.DOWN, Role.UP})
_LOHA = frozenset({Role.HADA_W1_A, Role.HADA_W1_B, Role.HADA_W2_A, Role.HADA_W2_B})
_W1 = (frozenset({Role.LOKR_W1}), frozenset({Role.LOKR_W1_A, Role.LOKR_W1_B}))
_W2 = (frozenset({Role.LOKR_W2}), frozenset({Role.LOKR_W2_A, Role.LOKR_W2_B}))
_FORMS = {
    "LoRA": (_LORA,),
    "LoHa": (_LOHA,),
    "LoKr": tuple(one | two for one in _W1 for two in _W2),
}
_BESIDE = frozenset({Role.ALPHA, Role.MAGNITUDE})
_BESIDE_LORA = _BESIDE | {Role.UP_BIAS, Role.RESHAPE}
_ADDED = frozenset({Role.DIFF, Role.DIFF_BIAS})


@dataclass(slots=True)
class Bundle:
    """One module.

    Attributes:
        what: The file, for messages.
        source: Where the tensors lie.
        infos: Its names().
        family: Whose spelling their names are.
        target: What they change.
        header_scale: What the header says about the factor, or None.
        keys: Name of the tensor of each role.
        left_out: Names that turned out to be of no use.
        form: "LoRA", "LoHa", "LoKr" or "" for a difference or a norm alone; known once settled.
    """

    what: str
    source: TensorSource
    infos: Mapping[str, TensorInfo]
    family: str
    target: Target
    header_scale: Scale | None
    keys: dict[Role, str] = field(default_factory=dict[Role, str])
    left_out: list[str] = field(default_factory=list[str])
    form: str = ""

    # Names

    def settle(self) -> bool:
        """Decides what the tensors are together and drops those without a partner; False if none stays."""
        used: frozenset[Role] = frozenset()
        present = frozenset(self.keys)
        if self.target.layer.is_norm:
            added = _ADDED if self.target.layer.has_bias else frozenset({Role.DIFF})
            used = present & ({Role.WHOLE} if Role.WHOLE in present else added)
        else:
            for form, ways in _FORMS.items():
                needed = next((roles for roles in ways if roles <= present), None)
                if needed is not None:
                    self.form = form
                    used = needed | (present & (_BESIDE_LORA if form == "LoRA" else _BESIDE))
                    break
            used |= present & _ADDED
        self.left_out += [name for role, name in self.keys.items() if role not in used]
        self.keys = {role: name for role, name in self.keys.items() if role in used}
        return bool(self.keys)

    @property
    def kinds(self) -> tuple[str, ...]:
        """For the report."""
        if self.target.layer.is_norm:
            return ("norm",)
        kinds = [("DoRA " if Role.MAGNITUDE in self.keys else "") + self.form] if self.form else []
        return (*kinds, "difference") if _ADDED & frozenset(self.keys) else tuple(kinds)

    # Shapes

    @property
    def rank(self) -> int:
        """As stored; 0 for a bias or a norm."""
        match self.form:
            case "LoRA":
                return self._shape(Role.DOWN)[0]
            case "LoHa":
                return self._shape(Role.HADA_W1_B)[0]
            case "LoKr":
                return self._kronecker_rank() or min(self._product("W2"))
            case _:
                is_matrix = Role.DIFF in self.keys and not self.target.layer.is_norm
                return min(self._shape(Role.DIFF)) if is_matrix else 0

    @property
    def columns(self) -> int:
        """Input columns that the matrices read."""
        match self.form:
            case "LoRA":
                return self._shape(Role.DOWN)[-1]
            case "LoHa":
                return self._shape(Role.HADA_W1_B)[-1]
            case "LoKr":
                return self._product("W1")[-1] * self._product("W2")[-1]
            case _:
                is_matrix = Role.DIFF in self.keys and not self.target.layer.is_norm
                return self._shape(Role.DIFF)[-1] if is_matrix else self.target.layer.columns

    def misfit(self) -> str | None:
        """What is wrong with the shapes, as the rest of a sentence; None if all is well."""
        rows, columns = self.target.rows[1] - self.target.rows[0], self.columns
        if not self._may_have(columns):
            return self._wrong(f"reads {columns} inputs, but the layer has {self.target.layer.columns}")
        for role, expected in self._expected(rows, columns).items():
            if role in self.keys and self._shape(role) != expected:
                name, found = shown(self.keys[role]), list(self._shape(role))
                return f"the tensor {name} has the shape {found} and should have {list(expected)}"
        if any(0 in self._shape(role) for role in self.keys):
            return self._wrong("has an empty tensor")
        if self.form == "LoKr" and self._product("W1")[0] * self._product("W2")[0] != rows:
            return self._wrong(f"does not have {rows} outputs")
        if Role.MAGNITUDE in self.keys and self._axis() is None:
            return self._wrong(f"has DoRA lengths of the shape {list(self._shape(Role.MAGNITUDE))}")
        return None

    def _may_have(self, columns: int) -> bool:
        layer = self.target.layer
        if layer.component is Component.TRANSFORMER and layer.name == "img_in":
            return 0 < columns <= MAX_IMG_IN_COLUMNS
        return columns == layer.columns

    def _expected(self, rows: int, columns: int) -> dict[Role, tuple[int, ...]]:
        vector = (rows,)
        shapes: dict[Role, tuple[int, ...]] = {
            Role.ALPHA: (1,),
            Role.UP_BIAS: vector,
            Role.DIFF_BIAS: vector,
            Role.WHOLE: vector,
            Role.DIFF: vector if self.target.layer.is_norm else (rows, columns),
        }
        if self.form == "LoRA":
            shapes |= {Role.DOWN: (self.rank, columns), Role.UP: (rows, self.rank)}
        elif self.form == "LoHa":
            second = self._shape(Role.HADA_W2_B)[0]
            shapes |= {Role.HADA_W1_A: (rows, self.rank), Role.HADA_W1_B: (self.rank, columns)}
            shapes |= {Role.HADA_W2_A: (rows, second), Role.HADA_W2_B: (second, columns)}
        elif self.form == "LoKr":
            for number in ("W1", "W2"):
                shapes |= self._expected_factors(number)
        return shapes

    def _expected_factors(self, number: str) -> dict[Role, tuple[int, ...]]:
        """What makes a LoKr factor a matrix: two axes, and one inner length where it has two parts."""
        full, a, b = (Role[f"LOKR_{number}{side}"] for side in ("", "_A", "_B"))
        if full in self.keys:
            return {full: self._product(number)}
        outer, inner = self._product(number), self._shape(b)[0]
        return {a: (outer[0], inner), b: (inner, outer[1])}

    def _product(self, number: str) -> tuple[int, int]:
        """Shape of a LoKr factor, multiplied out."""
        full, a, b = (Role[f"LOKR_{number}{side}"] for side in ("", "_A", "_B"))
        if full in self.keys:
            return self._shape(full)[0], self._shape(full)[-1]
        return self._shape(a)[0], self._shape(b)[-1]

    def _kronecker_rank(self) -> int:
        """Of what is decomposed; 0 where both factors are stored in full."""
        for role in (Role.LOKR_W2_B, Role.LOKR_W1_B):
            if role in self.keys:
                return self._shape(role)[0]
        return 0

    def _axis(self) -> Axis | None:
        """[rows], [rows, 1] or [1, columns]."""
        shape, rows = self._shape(Role.MAGNITUDE), self.target.rows[1] - self.target.rows[0]
        if shape in ((rows,), (rows, 1)):
            return Axis.ROWS
        return Axis.COLUMNS if shape == (1, self.columns) else None

    def _shape(self, role: Role) -> tuple[int, ...]:
        """Without the two ones of a 1x1 convolution; a scalar is a vector of one, as alpha always is."""
        shape = self.infos[self.keys[role]].shape
        if role is Role.ALPHA and math.prod(shape) == 1:
            return (1,)
        return (shape[:2] if shape[2:] == (1, 1) else shape) or (1,)

    def _wrong(self, fault: str) -> str:
        return f"the module of {shown(next(iter(self.keys.values())))} {fault}"

    # Values

    def patches(self) -> Iterator[Patch]:
        """Reads the values.

        Raises:
            Corrupt: One is not a number, or a tensor is of no floating kind.
        """
        if self.target.layer.is_norm:
            is_whole = Role.WHOLE in self.keys
            weight = self._values(Role.WHOLE if is_whole else Role.DIFF)
            yield self._patch(NormChange(weight, self._values(Role.DIFF_BIAS), is_whole))
            return
        if self.form:
            yield self._patch(self._main(), self._magnitude())
        if _ADDED & frozenset(self.keys):
            yield self._patch(Difference(self._values(Role.DIFF), self._values(Role.DIFF_BIAS)))

    def _patch(self, delta: Delta, magnitude: Magnitude | None = None) -> Patch:
        layer = self.target.layer
        if self.target.is_swapped:
            delta = delta.swapped()
        return Patch(layer.component, layer.name, self.target.rows, self.columns, delta, magnitude)

    def _main(self) -> Delta:
        if self.form == "LoRA":
            up, down = self._needed(Role.UP), self._needed(Role.DOWN)
            return LowRank(up, down, self._scale(self.rank), self._values(Role.UP_BIAS))
        if self.form == "LoHa":
            w1_a, w1_b = self._needed(Role.HADA_W1_A), self._needed(Role.HADA_W1_B)
            w2_a, w2_b = self._needed(Role.HADA_W2_A), self._needed(Role.HADA_W2_B)
            return Hadamard(w1_a, w1_b, w2_a, w2_b, self._scale(self.rank))
        rank = self._kronecker_rank()
        scale = self._scale(rank) if rank else 1.0
        if Role.LOKR_W1 in self.keys:
            w1 = self._needed(Role.LOKR_W1)
        else:
            w1 = self._needed(Role.LOKR_W1_A) @ self._needed(Role.LOKR_W1_B)
        if Role.LOKR_W2 in self.keys:
            return Kronecker(w1, self._needed(Role.LOKR_W2), None, scale)
        return Kronecker(w1, self._needed(Role.LOKR_W2_A), self._needed(Role.LOKR_W2_B), scale)

    def _magnitude(self) -> Magnitude | None:
        axis = self._axis() if Role.MAGNITUDE in self.keys else None
        if axis is None:
            return None
        values = self._needed(Role.MAGNITUDE).reshape(-1)
        if self.target.is_swapped and axis is Axis.ROWS:
            values = np.roll(values, len(values) // 2)
        return Magnitude(values, axis)

    def _scale(self, rank: int) -> float:
        """The factor before the product: alpha / rank, 1 without alpha."""
        if Role.ALPHA in self.keys:
            return float(self._needed(Role.ALPHA).reshape(())) / rank
        return 1.0 if self.header_scale is None else self.header_scale(rank)

    def _needed(self, role: Role) -> Floats:
        values = self._values(role)
        if values is None:
            raise ValueError(f"{role} is not here")
        return values

    def _values(self, role: Role) -> Floats | None:
        """[...] float32, or None where there is no such tensor."""
        if role not in self.keys:
            return None
        raw = self.source.read(self.keys[role])
        if role is Role.ALPHA and raw.dtype in _INTEGERS:
            values = raw.data.view(_INTEGERS[raw.dtype]).astype(np.float32)
        else:
            values = raw.to_numpy().reshape(self._shape(role))
        if not all(math.isfinite(edge) for edge in (values.min(), values.max())):
            raise Corrupt(
                f"{self.what} has values that are not numbers, in the tensor {shown(raw.name)}.",
                "Get the file again.",
            )
        return values
