"""Products in eight-bit floats: a scale for each row of the input and for each row of the weight.

Weights lie as e4m3 codes, inputs become e4m3 on their way in (by the operation before, where that is fused),
sums are exact enough in the tensor cores. Twice as fast as bfloat16 where the hardware has it (sm89 and
later); elsewhere such weights are decoded, as any others (`packed.py`). LoRAs go into the same product
(`folded.py`), and the weight's own codes stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from backends.torch_cuda.adapters import Adapter
from backends.torch_cuda.codes import Coded, Coder, PlainCoder, coded, multiplied
from backends.torch_cuda.folded import MOST_COLUMNS, MOST_REACH, Columns, Folded, columns_of
from backends.torch_cuda.leaves import Linear, LinearMaker
from backends.torch_cuda.packed import PackedWeight
from flux_core.models.transformer import BLOCK_MATRIX

_SCHEMES = ("F8_E4M3", "F8_E4M3_SCALED")
_CODED_VALUES = 2**23  # of a weight, at once
_MULTIPLE = 16  # what the product wants both sides of a weight to be a multiple of


def computes_in_eight_bits(device: torch.device) -> bool:
    """Whether a device multiplies e4m3 numbers."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def _coded_weight(weight: Tensor) -> Coded:
    """`coded`, some rows at a time: what it needs for a moment is eight times what it gives."""
    codes = torch.empty(weight.shape, dtype=torch.float8_e4m3fn, device=weight.device)
    scales = torch.empty((weight.shape[0], 1), dtype=torch.float32, device=weight.device)
    step = max(1, _CODED_VALUES // weight.shape[1])
    for start in range(0, weight.shape[0], step):
        rows = slice(start, start + step)
        codes[rows], scales[rows] = coded(weight[rows])
    return codes, scales


class EightBitWeight(PackedWeight):
    """A weight [N, K] that is computed with as it lies: e4m3 codes with a scale for each row."""

    @classmethod
    def made_of(cls, weight: Tensor | PackedWeight, dtype: torch.dtype = torch.bfloat16) -> Self:
        """Of any weight [N, K]: its own codes where it is e4m3 already, else what it rounds to.

        Args:
            weight: On its device.
            dtype: In which other packed weights are decoded before.
        """
        if isinstance(weight, PackedWeight) and weight.scheme in _SCHEMES:
            codes, scale = weight.get_buffer("codes"), getattr(weight, "scale", None)
            if scale is None:
                scale = torch.ones((codes.shape[0], 1), dtype=torch.float32, device=codes.device)
        else:
            values, scale = _coded_weight(weight(dtype) if isinstance(weight, PackedWeight) else weight)
            codes = values.view(torch.uint8)
        return cls("F8_E4M3_SCALED", tuple(weight.shape), codes, {"scale": scale})

    def operands(self) -> Coded:
        """Codes [N, K] float8_e4m3fn and scales [N, 1] float32."""
        return self.part("codes").view(torch.float8_e4m3fn), self.part("scale")

    @property
    def stays(self) -> bool:
        """Whether its codes lie on the device all the time, in memory that is its own."""
        return "codes" in dict(self.named_buffers(recurse=False))

    def lie_in(self, codes: Tensor) -> None:
        """Keeps its codes [N, K] float8_e4m3fn, which are the same, elsewhere from now on."""
        self.codes = codes.view(torch.uint8)


class EightBitLinear(Linear):
    """[..., K] -> [..., N] from an eight-bit weight.

    Args:
        weight: [N, K].
        bias: [N], or None.
        coder: Makes codes of an input that no fused operation has coded.
    """

    def __init__(self, weight: EightBitWeight, bias: nn.Parameter | None, coder: Coder | None = None) -> None:
        super().__init__(weight, bias)
        self._coder = coder or PlainCoder()
        self._folded: Folded | None = None
        self._reach: dict[nn.Module, float] = {}

    @property
    def takes_codes(self) -> bool:
        """Whether it still has the weight that it was made with."""
        return isinstance(self.weight, EightBitWeight)

    @property
    def tail(self) -> int:
        """How many columns an input's codes have behind its own, for LoRAs; `multiplied` writes them."""
        return 0 if self._folded is None else self._folded.tail

    @property
    def beside(self) -> Sequence[nn.Module]:
        """The adapters that are called with the input as it was."""
        if self._folded is None:
            return list(self.adapters)
        return [adapter for adapter in self.adapters if adapter not in self._folded.adapters]

    def forward(self, x: Tensor) -> Tensor:
        if not self.takes_codes:
            return super().forward(x)
        y = self.multiplied(*self._coder.code(x, self.tail), x.dtype)
        for adapter in self.beside:
            y = adapter(self, x, y)
        return y

    def multiplied(
        self, codes: Tensor, scales: Tensor, dtype: torch.dtype, columns: slice | None = None
    ) -> Tensor:
        """What a coded input [..., K + tail] gives, or some columns of it; of LoRAs those in the product.

        The input's tail is written anew by each call.
        """
        leaf, folded, bias = self.weight, self._folded, self.bias
        assert isinstance(leaf, EightBitWeight)
        weight, weight_scales = leaf.operands()
        if folded is not None:
            weight = folded.codes
            self._coder.project(codes, scales, folded.down, folded.gains, folded.arrivals)
        if columns is not None:
            weight, weight_scales = weight[columns], weight_scales[columns]
            bias = None if bias is None else bias[columns]
        return multiplied(codes, scales, weight, weight_scales, bias, dtype)

    def settle(self) -> bool:
        if not isinstance(self.weight, EightBitWeight) or not self.weight.stays:
            return False
        with torch.inference_mode(False), torch.no_grad():  # so that a strength may be written in any mode
            made = self._meet_new(self.weight)
            fitting = self._fitting()
            before = () if self._folded is None else self._folded.adapters
            if fitting == before:
                if self._folded is not None:
                    self._folded.weigh()
                return False
            codes, scales = self.weight.operands()
            self._folded = Folded(codes, scales, fitting, made) if fitting else None
            self.weight.lie_in(codes.contiguous() if self._folded is None else self._folded.own)
        return True

    def _meet_new(self, weight: EightBitWeight) -> dict[nn.Module, Columns]:
        """The columns of adapters that came since the last time, which are asked for their reach once."""
        scales, columns = weight.get_buffer("scale"), weight.shape[1]
        new = [each for each in self.adapters if each not in self._reach]
        made = {each: columns_of(each, scales, columns) for each in new}
        fit = {each: parts for each, parts in made.items() if parts is not None}
        found = torch.stack([parts.reach for parts in fit.values()]).tolist() if fit else []  # waits once
        reached = dict(zip(fit, found, strict=True))
        known = self._reach | {each: reached.get(each, math.inf) for each in new}
        self._reach = {each: known[each] for each in self.adapters}
        return fit

    def _fitting(self) -> tuple[Adapter, ...]:
        """The adapters that go into the product, with the strengths that they have now."""
        fitting: list[Adapter] = []
        room = MOST_COLUMNS
        for each, reached in self._reach.items():
            if isinstance(each, Adapter) and reached * abs(each.factor) <= MOST_REACH and each.rank <= room:
                fitting.append(each)
                room -= each.rank
        return tuple(fitting)


def lies_in_eight_bits(name: str, shape: tuple[int, ...]) -> bool:
    """Whether the weight of a layer becomes e4m3 codes with a scale for each row."""
    return BLOCK_MATRIX.search(name) is not None and all(side % _MULTIPLE == 0 for side in shape)


def block_matrices_in_eight_bits(coder: Coder | None = None) -> LinearMaker:
    """Makes leaves: eight-bit ones of the matrices of a transformer's blocks, plain ones of all others.

    Embedders, modulation and the final layer, through which every value passes, stay as they are.
    """

    def make(name: str, weight: nn.Parameter | PackedWeight, bias: nn.Parameter | None) -> Linear:
        if lies_in_eight_bits(name, tuple(weight.shape)):
            return EightBitLinear(EightBitWeight.made_of(weight), bias, coder)
        return Linear(weight, bias)

    return make
