"""Step caches of evaluations on all ranks: rank 0 decides by its sample of the picture, the others obey.

Each rank remembers what its own tokens need.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from flux_core.sampling.step_cache import BlockCache


class Deciding:
    """Rank 0's.

    Args:
        cache: Of the walk.
        ranks: How many ranks share the tokens.
        announce: Tells the others whether this evaluation is taken over.
    """

    def __init__(self, cache: BlockCache, ranks: int, announce: Callable[[bool], None]) -> None:
        self._cache = cache
        self._ranks = ranks
        self._announce = announce

    def through(self, before: Any, after: Any, heard: Hashable, rest: Callable[[], Any]) -> Any:
        """As BlockCache.through."""

        def announced() -> Any:
            self._announce(False)
            return rest()

        out = self._cache.through(before, after, heard, announced, self._ranks)
        if self._cache.is_hit:
            self._announce(True)
        return out


class Obeying:
    """A follower's.

    Args:
        kept: What it remembers, by cache, as it stands.
        number: Of the cache.
        is_taken_over: Waits for what rank 0 decides.
    """

    def __init__(self, kept: dict[int, Any], number: int, is_taken_over: Callable[[], bool]) -> None:
        self._kept = kept
        self._number = number
        self._is_taken_over = is_taken_over

    def through(self, before: Any, after: Any, heard: Hashable, rest: Callable[[], Any]) -> Any:
        """As BlockCache.through."""
        if self._is_taken_over():
            return after + self._kept[self._number]
        out = rest()
        self._kept[self._number] = out - after
        return out
