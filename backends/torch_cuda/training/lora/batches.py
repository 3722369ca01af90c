"""What a step learns from: which pictures, at which noise levels, with which noise.

Everything follows from the seed and the number of the step alone, by a counter-based generator. So a training
that goes on needs no state of a generator, and gives what an uncut one gives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flux_core.sampling.schedule import time_shift

_ORDER = 2**63  # seeds of the order lie above the steps


class Batches:
    """An endless walk over pictures: each epoch sees each once, in an order of its own.

    Args:
        sizes: Of each picture; those of a batch are equal, since nothing is stretched or padded.
        batch_size: At most so many pictures; fewer where a size has no more.
        seed: Of the order.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], batch_size: int, seed: int) -> None:
        self._seed = seed
        self._batch_size = batch_size
        self._groups = [np.flatnonzero([other == size for other in sizes]) for size in dict.fromkeys(sizes)]
        self.steps_per_epoch = sum(-(-len(group) // batch_size) for group in self._groups)
        self._epoch = -1
        self._batches: list[NDArray[np.int64]] = []

    def at(self, step: int) -> list[int]:
        """Indices of the pictures of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            random = _random(self._seed, _ORDER + epoch)
            groups = [random.permutation(group) for group in self._groups]
            batches = [
                group[start : start + self._batch_size]
                for group in groups
                for start in range(0, len(group), self._batch_size)
            ]
            self._batches = [batches[i] for i in random.permutation(len(batches))]
            self._epoch = epoch
        return [int(index) for index in self._batches[place]]


def noise_of(
    seed: int, step: int, shape: tuple[int, int, int], has_time_shift: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Noise and noise levels of a step.

    Args:
        seed: Of the training.
        step: Its number.
        shape: [B, L, C] of packed latents.
        has_time_shift: Whether the model's schedule is shifted with the number of tokens.

    Returns:
        [B, L, C] standard normal, and [B] levels in (0, 1): logit-normal, then shifted as in sampling.

    Source: Esser et al. 2024, sections 3.1 and 5.3.2.
    """
    random = _random(seed, step)
    levels = 1.0 / (1.0 + np.exp(-random.standard_normal(shape[0])))
    if has_time_shift:
        levels = time_shift(levels, shape[1])
    return random.standard_normal(shape, dtype=np.float32), levels.astype(np.float32)


def _random(seed: int, counter: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, counter], np.uint64)))
