"""Operations whose attention goes over all ranks, on whatever operations a device has otherwise.

Queries, keys and values of a rank's tokens are laid out by receiver when they are made; rank 0 may still
evaluate alone, and then everything is as before.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backends.torch_cuda.ops import TorchOps
from backends.torch_cuda.split.links import Links
from flux_core.ops import HeadStream


class Packed(NamedTuple):
    """A rank's queries, keys and values on their way to the ranks that attend with them.

    Attributes:
        rows: [(N-1) * L_r + L, 3, H/N, D]: for each other rank in order, what its heads need of this rank's
            tokens; then what this rank's heads need, of its own tokens and, to be filled, of the others'.
    """

    rows: Tensor


class Exchange:
    """One evaluation's exchanges.

    Args:
        links: To the other ranks.
        counts: Tokens of each rank.
        num_heads: Of the model; a multiple of the number of ranks.
    """

    def __init__(self, links: Links, counts: Sequence[int], num_heads: int) -> None:
        self.links = links
        self.counts = counts
        self.num_ranks = links.size
        self.heads = num_heads // links.size
        self.own = counts[links.rank]

    def empty(self, like: Tensor, head_dim: int) -> Tensor:
        """The memory of a Packed, with this rank's rows still to be written."""
        count = (self.num_ranks - 1) * self.own + sum(self.counts)
        return like.new_empty((count, 3, self.heads, head_dim))

    def heads_of_all(self, packed: Packed) -> list[Tensor]:
        """q, k and v [1, H/N, L, D] of this rank's heads, its own tokens first."""
        given = (self.num_ranks - 1) * self.own
        rows = packed.rows
        self.links.exchange(rows[:given], rows[given + self.own :], [self.own] * self.num_ranks, self.counts)
        return [part.transpose(0, 1)[None] for part in rows[given:].unbind(1)]

    def tokens_back(self, out: Tensor) -> Tensor:
        """What all heads made of this rank's tokens [1, L_r, H*D], of what its heads made of all [1, L, H/N*D]."""
        rows = out[0].contiguous()
        others = rows.new_empty((self.num_ranks - 1, self.own, rows.shape[1]))
        self.links.exchange(rows[self.own :], others.flatten(0, 1), self.counts, [self.own] * self.num_ranks)
        parts = list(others)
        parts.insert(self.links.rank, rows[: self.own])
        return torch.cat(parts, dim=1)[None]


class SplitOps(TorchOps):
    """What `split` puts before a device's own operations."""

    _now: threading.local

    @contextmanager
    def over(self, exchange: Exchange) -> Generator[None]:
        """Attention of this thread goes over all ranks meanwhile."""
        self._now.exchange = exchange
        try:
            yield
        finally:
            self._now.exchange = None

    def joint_heads(self, streams: Sequence[HeadStream], num_heads: int, pe: Tensor) -> Any:
        exchange: Exchange | None = getattr(self._now, "exchange", None)
        if exchange is None:
            return super().joint_heads(streams, num_heads, pe)
        head_dim = int(streams[0].qkv.shape[2]) // 3 // num_heads
        packed = Packed(exchange.empty(streams[0].qkv, head_dim))
        self.heads_by_rank(streams, num_heads, pe, packed.rows, exchange.links.rank)
        return packed, packed, packed

    def attention(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        scale: float,
        bias: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        if not isinstance(q, Packed):
            return super().attention(q, k, v, scale=scale, bias=bias, is_causal=is_causal)
        exchange: Exchange = self._now.exchange
        out = super().attention(*exchange.heads_of_all(q), scale=scale)
        return exchange.tokens_back(out)


def split(ops: TorchOps) -> SplitOps:
    """The same operations, able to attend over several ranks."""
    kind = type(ops)
    made: SplitOps = type(f"Split{kind.__name__}", (SplitOps, kind), {})()
    made._now = threading.local()
    return made
