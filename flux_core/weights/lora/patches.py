"""What a LoRA does to a model, in one form, whatever its file called it.

A file of any family becomes a list of patches: which layer, which of its output rows, and what is added
to them. The arrays are float32 on the host; each class says by its formula what a backend must compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flux_core.plan import Component

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """delta = scale * up @ down, and a bias.

    Attributes:
        up: [rows, r].
        down: [r, columns].
        scale: alpha / r, or 1.
        bias: [rows], or None; counted once, without `scale`.
    """

    up: Floats
    down: Floats
    scale: float = 1.0
    bias: Floats | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def swapped(self) -> Delta:
        return LowRank(halves_swapped(self.up), self.down, self.scale, _swapped_bias(self.bias))


@dataclass(frozen=True, slots=True, eq=False)
class Hadamard:
    """LoHa: delta = scale * (w1_a @ w1_b) * (w2_a @ w2_b), the middle product element by element.

    Attributes:
        w1_a, w2_a: [rows, r].
        w1_b, w2_b: [r, columns].
        scale: alpha / r, or 1.

    Source: KohakuBlueleaf/LyCORIS, functional/loha.py; Hyeon-Woo et al. 2021 (FedPara).
    """

    w1_a: Floats
    w1_b: Floats
    w2_a: Floats
    w2_b: Floats
    scale: float = 1.0

    @property
    def rank(self) -> int:
        return self.w1_b.shape[0]

    def swapped(self) -> Delta:
        return Hadamard(
            halves_swapped(self.w1_a), self.w1_b, halves_swapped(self.w2_a), self.w2_b, self.scale
        )


@dataclass(frozen=True, slots=True, eq=False)
class Kronecker:
    """LoKr: delta = scale * kron(w1, w2_a @ w2_b), where w2_b is None for a full w2.

    Attributes:
        w1: [a, b]; what was stored as two factors is multiplied out, it is small.
        w2_a: [c, r], or the full [c, d]; rows = a * c, columns = b * d.
        w2_b: [r, d], or None.
        scale: alpha / r; 1 where both were stored in full, whatever alpha says.

    Source: KohakuBlueleaf/LyCORIS, functional/lokr.py.
    """

    w1: Floats
    w2_a: Floats
    w2_b: Floats | None = None
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """Of the decomposed w2; of a full one, the most it can have."""
        return min(self.w2_a.shape) if self.w2_b is None else self.w2_b.shape[0]

    def dense(self) -> Floats:
        """[rows, columns]."""
        w2 = self.w2_a if self.w2_b is None else self.w2_a @ self.w2_b
        product: NDArray[Any] = np.kron(self.w1, w2)
        return (self.scale * product).astype(np.float32)

    def swapped(self) -> Delta:
        return Difference(halves_swapped(self.dense()))  # the halves of a product are no product in general


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """delta = weight, and a bias; either may be missing.

    Attributes:
        weight: [rows, columns], or None.
        bias: [rows], or None.
    """

    weight: Floats | None
    bias: Floats | None = None

    @property
    def rank(self) -> int:
        """The most a full matrix can have; 0 for a bias alone."""
        return 0 if self.weight is None else min(self.weight.shape)

    def swapped(self) -> Delta:
        weight = None if self.weight is None else halves_swapped(self.weight)
        return Difference(weight, _swapped_bias(self.bias))


@dataclass(frozen=True, slots=True, eq=False)
class NormChange:
    """Another weight (and bias) of a norm: in its place, or added to it.

    Attributes:
        weight, bias: [dim], or None.
        is_replacement: In its place, whatever the strength; else added, times the strength.
    """

    weight: Floats | None
    bias: Floats | None
    is_replacement: bool

    @property
    def rank(self) -> int:
        return 0

    def swapped(self) -> Delta:
        return self


Delta: TypeAlias = LowRank | Hadamard | Kronecker | Difference | NormChange


class Axis(StrEnum):
    """Which vectors of a weight have the lengths that DoRA gives."""

    ROWS = "rows"  # one for each output
    COLUMNS = "columns"  # one for each input: LyCORIS with wd_on_output off


@dataclass(frozen=True, slots=True, eq=False)
class Magnitude:
    """DoRA: W' = m * (W + delta) / |W + delta|, the length taken along the other axis.

    With a strength s the layer becomes W + s * (W' - W), so that 0 is off and 1 is what was trained. Peers
    agree at 1 only: LyCORIS leaves the whole delta in at 0, peft weakens the delta but not the lengths.

    Attributes:
        values: [rows] or [columns].
        axis: Which of them.

    Source: Liu et al. 2024 (DoRA), equation 5; KohakuBlueleaf/LyCORIS functional/general.py.
    """

    values: Floats
    axis: Axis


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """One change of one layer.

    Attributes:
        component: TRANSFORMER, T5 or CLIP.
        layer: Its checkpoint name, without ".weight".
        rows: First and last-plus-one output row that it changes.
        columns: How many input columns it reads, from the first; more than the layer has where a
            control LoRA widens img_in. 0 for a norm.
        delta: What is added.
        magnitude: DoRA's lengths, or None.
    """

    component: Component
    layer: str
    rows: tuple[int, int]
    columns: int
    delta: Delta
    magnitude: Magnitude | None = None


def halves_swapped(array: Floats) -> Floats:
    """The second half of the rows before the first."""
    return np.roll(array, array.shape[0] // 2, axis=0)


def _swapped_bias(bias: Floats | None) -> Floats | None:
    return None if bias is None else halves_swapped(bias)
