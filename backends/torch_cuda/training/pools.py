"""Latents of many scenes, kept ready and slowly renewed, and which of them a step sees.

Drawing and encoding a scene costs more than a training step on it, so each is used several times; the
pools are large enough that no scene is learnt by heart.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor

from backends.torch_cuda.training.flow import batch_of
from backends.torch_cuda.training.plan import Plan
from backends.torch_cuda.training.scenes import Captions

_LOG = logging.getLogger("training")


RARE = ((512, 512), (128, 256), (384, 384), (256, 512), (256, 128), (512, 256))
"""Heights and widths in pixels that take turns in every `rare_every`-th of the later steps."""

_RARE_AT = 2  # of every `rare_every` steps; no other size has that turn


class Batches:
    """Which sizes a step sees: 128 px first, then mostly 256 px with some smaller, oblong and larger ones.

    Args:
        plan: Batch and pool sizes.
        latents: (count, size in pixels) -> tokens [count, L, 64] of new scenes, and their captions.
    """

    SMALL, LARGE, WIDE, TALL = (128, 128), (256, 256), (192, 256), (256, 192)

    def __init__(
        self, plan: Plan, latents: Callable[[int, tuple[int, int]], tuple[Tensor, Captions]]
    ) -> None:
        self._plan = plan
        self._latents = latents
        self._pools: dict[tuple[int, int], LatentPool] = {}

    def prepare(self, is_large: bool) -> None:
        """Fills the pools that the next steps need."""
        for size in (self.LARGE, self.SMALL, self.WIDE, self.TALL) if is_large else (self.SMALL,):
            self._pool(size)

    def draw(self, step: int, fraction: float) -> tuple[Tensor, Captions, tuple[int, int]]:
        """A batch for this step; renews the pool now and then."""
        size = self._size(step, fraction)
        pool = self._pool(size)
        if step % self._plan.renew_every == self._plan.renew_every - 1:
            pool.renew()
        count = batch_of(size, self._plan.batch_small, self._plan.batch_large)
        tokens, captions = pool.draw(count)
        return tokens, captions, (size[0] // 8, size[1] // 8)

    def _size(self, step: int, fraction: float) -> tuple[int, int]:
        if fraction < self._plan.small_until or step % 8 == 0:
            return self.SMALL
        if step % 8 == 4:
            return self.WIDE if step % 16 == 4 else self.TALL
        turn, rest = divmod(step, self._plan.rare_every)
        if rest == _RARE_AT and fraction >= self._plan.rare_from:
            return RARE[turn % len(RARE)]
        return self.LARGE

    def _pool(self, size: tuple[int, int]) -> LatentPool:
        if size not in self._pools:
            plan = self._plan
            capacity = {self.SMALL: plan.pool_small, self.LARGE: plan.pool_large}.get(size, plan.pool_wide)
            capacity = plan.pool_rare if size in RARE else capacity
            start = time.monotonic()
            self._pools[size] = LatentPool(
                lambda count: self._latents(count, size), capacity, plan.pool_chunk
            )
            _LOG.info("pool of %d at %s in %.0f s", capacity, size, time.monotonic() - start)
        return self._pools[size]


class LatentPool:
    """Normalised, packed latents of many scenes of one size, slowly renewed.

    Args:
        make: count -> (tokens [count, L, 64], captions); called to fill and to renew.
        capacity: Scenes held.
        chunk: Scenes made at a time.
    """

    def __init__(self, make: Callable[[int], tuple[Tensor, Captions]], capacity: int, chunk: int) -> None:
        self._make = make
        self._chunk = chunk
        parts = [make(chunk) for _ in range(max(1, capacity // chunk))]
        self._tokens = torch.cat([tokens.to(torch.bfloat16) for tokens, _ in parts])
        self._captions = Captions(
            *(torch.cat(columns) for columns in zip(*(c for _, c in parts), strict=True))
        )
        self._next = 0

    def renew(self) -> None:
        """Replaces the oldest chunk by new scenes."""
        tokens, captions = self._make(self._chunk)
        place = slice(self._next, self._next + self._chunk)
        self._tokens[place] = tokens.to(torch.bfloat16)
        for held, new in zip(self._captions, captions, strict=True):
            held[place] = new
        self._next = (self._next + self._chunk) % len(self._tokens)

    def draw(self, count: int) -> tuple[Tensor, Captions]:
        """A random batch."""
        index = torch.randint(0, len(self._tokens), (count,), device=self._tokens.device)
        return self._tokens[index], self._captions.select(index)
