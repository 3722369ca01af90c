"""Columns for the tasks that see two pictures: holes to fill with what belongs in them, and edits.

A pair is two sets of the composer's columns under the prefixes below, and the words. Where things are is
decided here, in the workers; the device that trains draws both pictures and makes masks of them.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

import numpy as np

from backends.torch_cuda.training.data import edits, word_ids
from backends.torch_cuda.training.data.captions import background_text, caption
from backends.torch_cuda.training.data.feed import LABELS, Arrays, arrays
from backends.torch_cuda.training.data.scenes import BACKGROUNDS, Sampler, Scene
from backends.torch_cuda.training.data.word_ids import Words
from flux_core.imaging.intents import Intent, row_of

AFTER, OTHER = "after/", "other/"
"""Prefixes of the picture to learn, and of the one beside it: what hides in a hole, or the picture before."""

BOX, OBJECT, AROUND_OBJECT, BORDER = range(4)
"""Kinds of holes: a box, an object's shape grown, a box around an object, everything but a box."""

FILL_WAYS = ("object", "around", "remove", "box", "border")
_FILL_WEIGHTS = (24, 26, 20, 15, 15)


def edit_pairs(sampler: Sampler, words: Words, rng: Random, count: int, kind: str | None = None) -> Arrays:
    """Edits: the composer's columns `after/` and `other/` (before), the instruction's tokens, and `edit`."""
    return edit_columns(sampler, words, [edits.edit(sampler, rng, kind) for _ in range(count)])


def edit_columns(sampler: Sampler, words: Words, made: list[edits.Edit]) -> Arrays:
    """The columns of edits that were drawn already."""
    texts = [each.text for each in made]
    after = arrays(sampler, [each.after for each in made], texts, words)
    before = arrays(sampler, [each.before for each in made], texts, words)
    return _joined(after, before) | {"edit": np.array([each.kind for each in made], np.uint8)}


def instructions(sampler: Sampler, words: Words, rng: Random, count: int) -> Arrays:
    """Instructions without pictures: tokens as in data.feed.arrays, `label` int8 [B, 10] of what they say
    (-1 where they say nothing of it), and `edit` uint8 [B], the kind of change.
    """
    made = [edits.edit(sampler, rng) for _ in range(count)]
    encoded = [words.encode(each.text) for each in made]
    return {
        "t5": np.array([t5 for t5, _, _ in encoded], np.int16),
        "clip": np.array([clip for _, clip, _ in encoded], np.int16),
        "clip_end": np.array([end for _, _, end in encoded], np.int16),
        "label": np.array([[each.asked.get(name, -1) for name in LABELS] for each in made], np.int8),
        "edit": np.array([each.kind for each in made], np.uint8),
    }


class Hole(NamedTuple):
    """The whole picture, what the hole is shaped after, the prompt, and the kind of hole."""

    whole: Scene
    shape: Scene
    text: str
    kind: int


def fill_pairs(sampler: Sampler, words: Words, rng: Random, count: int, way: str | None = None) -> Arrays:
    """Holes: `after/` is the whole picture, `other/` what the hole is shaped after; the prompt's tokens.

    Besides: `hole` uint8 [B], the kind of hole; `box` float32 [B, 4], left, top, right and bottom as
    fractions; `grow` float32 [B] in [0, 1], how far a hole goes beyond its object; `way`, of FILL_WAYS.
    """
    wanted = [way or rng.choices(FILL_WAYS, _FILL_WEIGHTS)[0] for _ in range(count)]
    ways = np.array([FILL_WAYS.index(each) for each in wanted], np.uint8)
    return hole_columns(sampler, words, rng, [hole(sampler, rng, each) for each in wanted]) | {"way": ways}


def hole_columns(sampler: Sampler, words: Words, rng: Random, made: list[Hole]) -> Arrays:
    """The columns of holes that were drawn already; `rng` gives their boxes and how far they grow."""
    texts = [each.text for each in made]
    after = arrays(sampler, [each.whole for each in made], texts, words)
    other = arrays(sampler, [each.shape for each in made], texts, words)
    return _joined(after, other) | {
        "hole": np.array([each.kind for each in made], np.uint8),
        "box": np.array([_box(rng, each.kind) for each in made], np.float32),
        "grow": np.array([rng.random() for _ in made], np.float32),
    }


def hole(sampler: Sampler, rng: Random, way: str) -> Hole:
    """Draws a picture with a hole of one of FILL_WAYS."""
    while True:
        scene = sampler.scene(rng)
        if way in ("box", "border"):
            text = caption(scene, rng) if way == "box" else _border_text(scene, rng)
            return Hole(scene, scene, text, BOX if way == "box" else BORDER)
        number = rng.randrange(len(scene.items))
        hidden = edits.emptied(scene)
        hidden.items = [scene.items[number]]
        if way != "remove":
            is_whole = scene.is_same or len(scene.items) > 1 or rng.random() < 0.6
            text = caption(scene, rng) if is_whole else _object_text(sampler, hidden, rng)
            return Hole(scene, hidden, text, OBJECT if way == "object" else AROUND_OBJECT)
        if scene.is_same or BACKGROUNDS[scene.background] == "ground":
            continue
        kept = edits.emptied(scene)
        kept.items = [item for index, item in enumerate(scene.items) if index != number]
        text = _removal_text(kept, rng)
        return Hole(kept, hidden, text, rng.choice((OBJECT, AROUND_OBJECT, AROUND_OBJECT)))


def _object_text(sampler: Sampler, hidden: Scene, rng: Random) -> str:
    """What a person says of the hole alone: the object, without its background and place."""
    item = hidden.items[0]
    colour = sampler.named_colour(item, hidden.style)
    return edits.described(item, rng, colour if item.colour >= 0 or rng.random() < 0.3 else -1)


def _removal_text(kept: Scene, rng: Random) -> str:
    """What is said where nothing shall be: no word, the background, or the application's own words."""
    row, chance = row_of(Intent.REMOVE), rng.random()
    if chance < 0.25:
        return ""
    if chance < 0.45:
        return row.without_words
    background = background_text(kept, rng, has_article=chance < 0.7)
    return _fitting(f"{background}, {row.addition}", background) if chance < 0.6 else background


def _border_text(scene: Scene, rng: Random) -> str:
    """What is said where a picture grows: what it shows, perhaps with the application's own words."""
    row, text, chance = row_of(Intent.EXPAND), caption(scene, rng), rng.random()
    if chance < 0.15:
        return row.without_words
    return _fitting(f"{text.rstrip('.')}, {row.addition}", text) if chance < 0.4 else text


def _fitting(text: str, shorter: str) -> str:
    return text if word_ids.committed().fits(text) else shorter


def words() -> list[str]:
    """Every word of the application's own sentences."""
    rows = (row_of(Intent.REMOVE), row_of(Intent.EXPAND))
    text = " ".join(sentence for row in rows for sentence in (row.addition, row.without_words))
    return list(dict.fromkeys(text.replace(",", " ").split()))


def _box(rng: Random, hole: int) -> tuple[float, float, float, float]:
    """A box for a hole, or the one that stays inside a border; left, top, right, bottom."""
    low, high = (0.25, 0.7) if hole == BOX else (0.5, 0.85)
    width, height = rng.uniform(low, high), rng.uniform(low, high)
    if hole == BORDER and rng.random() < 0.5:  # the picture grows in one direction only
        width, height = (1.0, height) if rng.random() < 0.5 else (width, 1.0)
    left, top = rng.uniform(0.0, 1.0 - width), rng.uniform(0.0, 1.0 - height)
    return left, top, left + width, top + height


def _joined(after: Arrays, other: Arrays) -> Arrays:
    text = {key: after.pop(key) for key in ("t5", "clip", "clip_end")}
    others = {OTHER + key: value for key, value in other.items() if key not in text}
    return {AFTER + key: value for key, value in after.items()} | others | text
