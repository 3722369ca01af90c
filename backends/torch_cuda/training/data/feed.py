"""Turns scenes into columns of numbers, and keeps worker processes ahead of the device that trains.

A batch is a dictionary of NumPy arrays that share their first axis: what the composer draws, the exact
labels, and the caption's tokens. Workers are spawned, each with its own seed; nothing but arrays
passes between the processes.
"""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from backends.torch_cuda.training.data.captions import caption
from backends.torch_cuda.training.data.objects import THINGS
from backends.torch_cuda.training.data.pack import Pack
from backends.torch_cuda.training.data.palette import COLOURS
from backends.torch_cuda.training.data.scenes import (
    BACKGROUNDS,
    MAX_ITEMS,
    NUM_STYLES,
    PLACES,
    Sampler,
    Scene,
)
from backends.torch_cuda.training.data.word_ids import Words
from flux_core.errors import Internal

LABELS: dict[str, int] = {
    "object": len(THINGS),
    "second": len(THINGS),
    "style": NUM_STYLES,
    "colour": len(COLOURS),
    "second_colour": len(COLOURS),
    "background": len(BACKGROUNDS),
    "background_colour": len(COLOURS),
    "background_second": len(COLOURS),
    "place": len(PLACES),
    "count": MAX_ITEMS,
}
"""Label name -> number of classes; -1 in a batch means that the label does not apply."""

LEARNT_PAIR_SHARE = 0.25
"""Of the scenes to learn from that show two different things: those are the harder ones."""

_PLAIN_SEED = 1

Arrays = dict[str, np.ndarray[Any, Any]]
Make = Callable[[Sampler, Words, Random, int], Arrays]
"""(sampler, word table, chance, count) -> columns of that many; a function of a module, for spawning."""


def arrays(sampler: Sampler, scenes: list[Scene], captions: list[str], words: Words) -> Arrays:
    """Columns for `len(scenes)` = B scenes.

    Returns:
        sprite: int16 [B, 3], sprite index or -1. geometry: float32 [B, 3, 5], centre x and y (fractions
        of the sides), size (fraction of the shorter side), rotation (radians), -1 where mirrored.
        recolour: uint8 [B, 3, 4], RGB and 255 where it applies. kind: uint8 [B]. ground: uint8 [B, 2, 3].
        pattern: float32 [B, 3], angle (radians), repeats or horizon, shadow. label: int8 [B, 10] in the
        order of LABELS. t5, clip: int16 [B, 32]. clip_end: int16 [B].
    """
    count = len(scenes)
    sprite = np.full((count, MAX_ITEMS), -1, np.int16)
    geometry = np.zeros((count, MAX_ITEMS, 5), np.float32)
    recolour = np.zeros((count, MAX_ITEMS, 4), np.uint8)
    styles = sampler.num_styles
    for row, scene in enumerate(scenes):
        for slot, item in enumerate(scene.items):
            sprite[row, slot] = item.thing * styles + scene.style
            geometry[row, slot] = (item.cx, item.cy, item.size, item.rotation, -1.0 if item.flip else 1.0)
            if item.colour >= 0:
                recolour[row, slot] = (*item.rgb, 255)
    encoded = [words.encode(text) for text in captions]
    return {
        "sprite": sprite,
        "geometry": geometry,
        "recolour": recolour,
        "kind": np.array([scene.background for scene in scenes], np.uint8),
        "ground": np.array([scene.rgb for scene in scenes], np.uint8),
        "pattern": np.array([(scene.angle, scene.pattern, scene.shadow) for scene in scenes], np.float32),
        "label": np.array([_labels(sampler, scene) for scene in scenes], np.int8),
        "t5": np.array([t5 for t5, _, _ in encoded], np.int16),
        "clip": np.array([clip for _, clip, _ in encoded], np.int16),
        "clip_end": np.array([end for _, _, end in encoded], np.int16),
    }


def _labels(sampler: Sampler, scene: Scene) -> tuple[int, ...]:
    if not scene.items:
        behind = scene.colours[1] if BACKGROUNDS[scene.background] != "solid" else -1
        return -1, -1, -1, -1, -1, scene.background, scene.colours[0], behind, -1, -1
    first = scene.items[0]
    is_pair = len(scene.items) == 2 and not scene.is_same
    second = scene.items[1] if is_pair else None
    return (
        first.thing,
        second.thing if second else -1,
        scene.style,
        sampler.named_colour(first, scene.style),
        sampler.named_colour(second, scene.style) if second else -1,
        scene.background,
        scene.colours[0],
        scene.colours[1] if BACKGROUNDS[scene.background] != "solid" else -1,
        scene.place if len(scene.items) == 1 else -1,
        len(scene.items) - 1,
    )


class Feed:
    """Batches without end from spawned processes.

    Args:
        pack: The pack file.
        num_workers: Processes.
        seed: Worker i draws from seed + i.
        batch_size: Scenes in a batch.
        make: What a worker makes of its sampler; data.pairs has others than plain scenes.
    """

    def __init__(
        self, pack: Path, num_workers: int, seed: int, batch_size: int = 2048, make: Make | None = None
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._queue = context.Queue(maxsize=3 * num_workers)
        self._workers = [
            context.Process(
                target=_work,
                args=(self._queue, str(pack), seed + i, batch_size, make or captioned),
                daemon=True,
            )
            for i in range(num_workers)
        ]
        for worker in self._workers:
            worker.start()

    def get(self) -> Arrays:
        """The next batch; see `arrays` for its columns.

        Raises:
            Internal: A worker died.
        """
        while True:
            try:
                return self._queue.get(timeout=1.0)
            except queue.Empty:
                if not all(worker.is_alive() for worker in self._workers):
                    raise Internal(
                        "A process that samples scenes has died.", "See its message above."
                    ) from None

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.join()
        self._queue.cancel_join_thread()
        self._queue.close()


def captioned(sampler: Sampler, words: Words, rng: Random, count: int) -> Arrays:
    """Columns of plain scenes with their captions."""
    scenes = [sampler.scene(rng) for _ in range(count)]
    return arrays(sampler, scenes, [caption(scene, rng) for scene in scenes], words)


def plainly_captioned(sampler: Sampler, words: Words, rng: Random, count: int) -> Arrays:
    """Columns of plain scenes with captions that leave nothing out and are worded alike for scenes alike."""
    scenes = [sampler.scene(rng) for _ in range(count)]
    captions = [caption(scene, Random(_PLAIN_SEED), is_complete=True) for scene in scenes]
    return arrays(sampler, scenes, captions, words)


def _work(out: Any, pack: str, seed: int, batch_size: int, make: Make) -> None:
    sampler = Sampler(Pack.load(pack), LEARNT_PAIR_SHARE)
    words = Words()
    rng = Random(seed)
    while True:
        out.put(make(sampler, words, rng, batch_size))
