"""Operations whose attention goes over all ranks, on whatever operations a device has otherwise.

Queries, keys and values of a rank's tokens are laid out by receiver when they are made; rank 0 may still
evaluate alone, and then everything is as before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

from backends.torch_cuda.ops import TorchOps, nothing
from backends.torch_cuda.split.links import Links, Passage
from flux_core.ops import HeadStream


class Packed(NamedTuple):
    """A rank's queries, keys and values on their way to the ranks that attend with them.

    Attributes:
        rows: [(N-1) * L_r + L, 3, H/N, D]: for each other rank in order, what its heads need of this rank's
            tokens; then what this rank's heads need, of its own tokens and of the others'.
        arrive: To be called before the others' rows are read.
    """

    rows: Tensor
    arrive: Callable[[], None]


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
        # A rank gives its own tokens to everybody, and takes what others made of them.
        num, begins = self.num_ranks, [self.num_ranks * count for count in counts]
        self._heads = Passage("heads", [[count] * num for count in counts], begins)

    def empty(self, like: Tensor, head_dim: int) -> Tensor:
        """The rows of a Packed, with this rank's still to be written."""
        rows = [(self.num_ranks - 1) * count + sum(self.counts) for count in self.counts]
        return self.links.landing("heads", rows, (3, self.heads, head_dim), like)

    def sent(self, rows: Tensor, is_awaited: bool) -> Packed:
        """The rows on their way; `is_awaited` as for Links.give."""
        given = rows[: (self.num_ranks - 1) * self.own]
        return Packed(rows, self.links.give(self._heads, given, rows, is_awaited))

    def received(self, packed: Packed) -> list[Tensor]:
        """q, k and v [1, H/N, L, D] of this rank's heads, its own tokens first."""
        packed.arrive()
        own = packed.rows[(self.num_ranks - 1) * self.own :]
        return [part.transpose(0, 1)[None] for part in own.unbind(1)]

    def returned(self, out: Tensor, meanwhile: Callable[[], None]) -> Tensor:
        """What all heads made of this rank's tokens, [1, L_r, H*D].

        Args:
            out: What this rank's heads made of all tokens, [1, L, H/N*D].
            meanwhile: Computes something else.
        """
        rows = out[0].contiguous()  # kept until they are there
        take = self.links.joined("answers", rows, self.counts, meanwhile is nothing)
        meanwhile()
        return take()[None]


class SplitOps(TorchOps):
    """What `split` puts before a device's own operations."""

    _now: _Now

    @contextmanager
    def over(self, exchange: Exchange) -> Generator[None]:
        """Attention of this thread goes over all ranks meanwhile."""
        self._now.exchange = exchange
        try:
            yield
        finally:
            self._now.exchange = None

    @property
    def attends_elsewhere(self) -> bool:
        return self._now.exchange is not None

    def attended(
        self,
        attend: Callable[[Any], Any],
        qkv: Tensor,
        beside: Callable[[], None],
        behind: Callable[[], None] = nothing,
    ) -> Tensor:
        if self._now.exchange is None:
            return super().attended(attend, qkv, beside, behind)
        self._now.beside, self._now.behind = beside, behind
        try:
            return attend(qkv)
        finally:
            self._now.beside = self._now.behind = nothing

    def joint_heads(self, streams: Sequence[HeadStream], num_heads: int, pe: Tensor) -> Any:
        exchange = self._now.exchange
        if exchange is None:
            return super().joint_heads(streams, num_heads, pe)
        head_dim = int(streams[0].qkv.shape[2]) // 3 // num_heads
        rows = exchange.empty(streams[0].qkv, head_dim)
        self.heads_by_rank(streams, num_heads, pe, rows, exchange.links.rank)
        packed = exchange.sent(rows, self._now.beside is nothing)
        return packed, packed, packed

    def joint_attention(
        self,
        streams: Sequence[HeadStream],
        num_heads: int,
        pe: Tensor,
        *,
        scale: float,
        bias: Tensor | None = None,
    ) -> Any:
        if self._now.exchange is None:
            return super().joint_attention(streams, num_heads, pe, scale=scale, bias=bias)
        return self.attention(*self.joint_heads(streams, num_heads, pe), scale=scale, bias=bias)

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
        exchange = self._now.exchange
        assert exchange is not None
        self._now.beside()
        out = super().attention(*exchange.received(q), scale=scale, bias=bias)
        return exchange.returned(out, self._now.behind)


class _Now(threading.local):
    """What a thread is in the middle of.

    Attributes:
        exchange: Of the evaluation that goes over all ranks.
        beside: What can be computed while queries, keys and values travel.
        behind: What can be computed while the answers do.
    """

    exchange: Exchange | None = None
    beside: Callable[[], None]
    behind: Callable[[], None]

    def __init__(self) -> None:
        self.beside = self.behind = nothing


def split(ops: TorchOps) -> SplitOps:
    """The same operations, able to attend over several ranks."""
    kind = type(ops)
    made: SplitOps = type(f"Split{kind.__name__}", (SplitOps, kind), {})()
    made._now = _Now()
    return made
