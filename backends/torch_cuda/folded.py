"""LoRAs inside an eight-bit product: a few more columns of codes, so that nothing is added afterwards.

A weight W [N, K] gets the LoRAs' `up` as codes behind its own, a coded input gets as many columns with what
their `down` makes of it, and one product gives (W + strength * up @ down) x. The weight's own codes stay as
they are. A strength is a factor on the input's columns, so another one writes a few numbers.

Ranges: each rank's column of the input is as large as the input, if its codes in the weight have room for the
rest; they may be from 1 to the largest there is. What a column reaches depends on the input; where it is too
large for a code, the whole row of codes is made smaller by a power of two (`codes.project`), which costs only
what is near zero. A LoRA for which that would be usual, because it is many times larger than the weight,
stays beside the product.

Roundings: a LoRA's share hears those of the input and of `up`, as the product hears two, and a third one, of
`down` or of what it makes. The other of these lies in two parts, the second of which is what the first lacks.
Up to MOST_SPLIT ranks that is what `down` makes: then `down` is multiplied once, and both parts, each with an
`up` of its own, fit into the one tile of columns that any LoRA costs. With more ranks it is `down`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from backends.torch_cuda.adapters import Adapter, LowRankDelta
from backends.torch_cuda.codes import ARRIVALS, LARGEST, empty_codes, in_two_parts

MOST_REACH = 32.0
"""How large the columns for a LoRA may be against its input, both in codes; usual ones are up to 6."""
MOST_COLUMNS = 256
"""For all LoRAs of a leaf; those that find no room stay beside the product."""
MOST_SPLIT = 64
"""Ranks, with zeros for what they lack to a multiple; twice as many columns are one tile of the product."""
_MULTIPLE = 16  # what the product wants both sides of a weight to be a multiple of
_TILE = 128  # columns that a product computes at once; it has slower kernels for what is no multiple of them
_TINY = torch.finfo(torch.float32).tiny


class Folded(nn.Module):
    """What a weight's codes become with LoRAs among them.

    Args:
        codes: [N, K] float8_e4m3fn, the weight's own.
        scales: [N, 1] float32, of the weight.
        adapters: Whose `Columns.reach` is found to fit; at least one.
        made: The columns of those whose are known already.

    Attributes:
        adapters: As given.
        tail: How many columns there are for them: T or 2 * T, T being their ranks and a few zeros, and zeros
            to whole tiles.
    """

    codes: Tensor
    """[N, K + tail] float8_e4m3fn, with `up` once or twice behind the weight's own."""
    down: Tensor
    """[1, T, K] float8_e4m3fn if `up` is there twice, else [2, T, K], the sum of two; of each rank
    the largest is LARGEST."""
    gains: Tensor
    """[T] float32, what down @ codes is multiplied by to be codes."""
    arrivals: Tensor
    """[ARRIVALS] int32 zeros, with which a kernel counts."""

    def __init__(
        self,
        codes: Tensor,
        scales: Tensor,
        adapters: Sequence[Adapter],
        made: Mapping[nn.Module, Columns],
    ) -> None:
        super().__init__()
        self.adapters = tuple(adapters)
        found = [made.get(each) or _columns(each, scales) for each in adapters]
        ups, downs, self._gains, _ = zip(*found, strict=True)
        (rows, own), rank = codes.shape, sum(map(len, downs))
        ranks = -(-rank // _MULTIPLE) * _MULTIPLE
        is_split = ranks <= MOST_SPLIT
        taken = 2 * ranks if is_split else ranks
        self.tail = -(-taken // _TILE) * _TILE
        wide = empty_codes((rows, own), self.tail, codes.device)
        wide[:, :own] = codes
        wide[:, own:] = 0.0
        up, down = torch.cat(ups, dim=1).to(codes.dtype), torch.cat(downs)
        for start in range(own, own + taken, ranks):
            wide[:, start : start + rank] = up
        parts = down.to(codes.dtype)[None] if is_split else in_two_parts(down)
        down = torch.zeros((len(parts), ranks, own), dtype=codes.dtype, device=codes.device)
        down[:, :rank] = parts
        self.register_buffer("codes", wide)
        self.register_buffer("down", down)
        self.register_buffer("gains", torch.zeros(ranks, dtype=torch.float32, device=codes.device))
        self.register_buffer("arrivals", torch.zeros(ARRIVALS, dtype=torch.int32, device=codes.device))
        self.weigh()

    @property
    def own(self) -> Tensor:
        """The weight's own codes [N, K], where they lie now."""
        return self.codes[:, : self.down.shape[2]]

    @torch.no_grad()
    def weigh(self) -> None:
        """Takes over the strengths that the adapters have now."""
        start = 0
        for adapter, gains in zip(self.adapters, self._gains, strict=True):
            torch.mul(gains, adapter.strength, out=self.gains[start : start + len(gains)])
            start += len(gains)


class Columns(NamedTuple):
    """One LoRA in the units of a weight's codes.

    Attributes:
        up: [N, r] float32.
        down: [r, K] float32.
        gains: [r] float32.
        reach: [] float32, the longest row of gains * down with strength 1.
    """

    up: Tensor
    down: Tensor
    gains: Tensor
    reach: Tensor


def columns_of(adapter: nn.Module, scales: Tensor, columns: int) -> Columns | None:
    """What a LoRA adds to a product's columns; None of an adapter that is no plain low-rank matrix.

    Args:
        adapter: Of a linear leaf.
        scales: [N, 1] float32, of the leaf's weight.
        columns: K of the weight.
    """
    if not isinstance(adapter, Adapter) or not isinstance(adapter.delta, LowRankDelta):
        return None
    if adapter.gain is not None or adapter.bias is not None or adapter.columns != columns:
        return None
    return _columns(adapter, scales)


def _columns(adapter: Adapter, scales: Tensor) -> Columns:
    delta, (first, last) = adapter.delta, adapter.rows
    down = delta.down.float()
    up = torch.zeros((scales.shape[0], len(down)), dtype=torch.float32, device=scales.device)
    torch.div(delta.up, scales[first:last], out=up[first:last])
    up_peaks, down_peaks = up[first:last].abs().amax(0), down.abs().amax(1)
    down = down / down_peaks.clamp_min(_TINY)[:, None] * LARGEST
    gains = up_peaks * down_peaks / LARGEST**2
    reached = gains * torch.linalg.vector_norm(down, dim=1)
    spare = (1.0 / reached.clamp_min(_TINY)).clamp(1.0, LARGEST)
    up = up / up_peaks.clamp_min(_TINY) * (LARGEST / spare)
    return Columns(up, down, gains * spare, (reached * spare).max())
