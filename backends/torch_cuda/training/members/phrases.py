"""Texts about a scene whose claims are known exactly, so that each can be held against any other picture.

Every scene gets a caption, a list of a few parts ("red apple, on the left, line art"), and one part alone.
What a text says is written as labels, -1 where it says nothing; see members.clip for how claims are judged.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

import numpy as np

from backends.torch_cuda.training.data import feed, word_ids
from backends.torch_cuda.training.data.captions import (
    background_text,
    caption,
    place_text,
    style_text,
    with_article,
)
from backends.torch_cuda.training.data.objects import THINGS
from backends.torch_cuda.training.data.palette import COLOURS, OTHER_WORDS
from backends.torch_cuda.training.data.scenes import BACKGROUNDS, Sampler, Scene
from backends.torch_cuda.training.data.word_ids import Words

KINDS: tuple[str, ...] = ("caption", "parts", "part")
_COMPLETE = 0.6  # share of captions that leave nothing out
_COLOURED = 0.65  # share of objects whose colour is said
_WEIGHTS = {"item": 5, "background": 3, "place": 2, "style": 1}
_COUNTED = {2: ("two", "2"), 3: ("three", "3")}
_GROUND = ("{0} ground", "{1} sky", "on {0} ground under {1} sky")


class Part(NamedTuple):
    """A phrase and what it claims: names of data.feed.LABELS and their classes."""

    kind: str
    text: str
    claims: dict[str, int]


def told(sampler: Sampler, words: Words, rng: Random, count: int) -> feed.Arrays:
    """Columns of plain scenes with the texts about them; a data.feed.Make.

    Returns:
        Those of data.feed.arrays, and said: int16 [B, 3, 32], CLIP's ids of a text of each of KINDS.
        claim: int8 [B, 3, 10], what it says, in the order of LABELS, -1 where nothing.
        is_loose: bool [B, 3], whether it leaves out what its claims hold.
    """
    scenes = [sampler.scene(rng) for _ in range(count)]
    is_complete = [rng.random() < _COMPLETE for _ in scenes]
    captions = [caption(scene, rng, whole) for scene, whole in zip(scenes, is_complete, strict=True)]
    columns = feed.arrays(sampler, scenes, captions, words)
    said = np.zeros((count, len(KINDS), columns["clip"].shape[1]), np.int16)
    claim = np.full((count, len(KINDS), len(feed.LABELS)), -1, np.int8)
    said[:, 0], claim[:, 0] = columns["clip"], columns["label"]
    for row, scene in enumerate(scenes):
        labels = dict(zip(feed.LABELS, map(int, columns["label"][row]), strict=True))
        for kind, (text, claims) in enumerate(_texts(scene, labels, rng), start=1):
            said[row, kind] = words.encode(text)[1]
            claim[row, kind] = [claims.get(name, -1) for name in feed.LABELS]
    is_loose = np.zeros((count, len(KINDS)), bool)
    is_loose[:, 0] = ~np.array(is_complete, bool)
    return columns | {"said": said, "claim": claim, "is_loose": is_loose}


def parts(scene: Scene, labels: dict[str, int], rng: Random) -> list[Part]:
    """Everything that can be said of a scene in a phrase, in the order in which a list says it."""
    found: list[Part] = []
    names = (("object", "colour"), ("second", "second_colour"))
    for thing, colour in names:
        if labels[thing] >= 0:
            found.append(_item(labels, thing, colour, len(scene.items) if scene.is_same else 1, rng))
    if labels["place"] >= 0:
        found.append(Part("place", place_text(scene.place, rng), {"place": labels["place"]}))
    found.append(_background(scene, labels, rng))
    found.append(Part("style", style_text(scene.style, rng), {"style": scene.style}))
    return found


def item_text(thing: int, colour: int, rng: Random, count: int = 1) -> str:
    """An object by one of its names: "a red apple", "apple", "two red apples"; -1 is no colour."""
    forms = rng.choice(THINGS[thing].words) if rng.random() < 0.4 else THINGS[thing].words[0]
    noun = forms[count > 1]
    if colour >= 0:
        noun = f"{_colour(colour, rng)} {noun}"
    if count > 1:
        return f"{rng.choice(_COUNTED[count])} {noun}"
    return with_article(noun, thing) if rng.random() < 0.6 else noun


def _texts(scene: Scene, labels: dict[str, int], rng: Random) -> tuple[tuple[str, dict[str, int]], ...]:
    """A list of two or more parts, and one part, with their claims."""
    known = parts(scene, labels, rng)
    alone = rng.choices(known, [_WEIGHTS[part.kind] for part in known])[0]
    while True:
        chosen = sorted(rng.sample(range(len(known)), rng.randint(2, len(known))))
        text = ", ".join(known[index].text for index in chosen)
        if word_ids.committed().fits(text):
            break
    claims = {name: value for index in chosen for name, value in known[index].claims.items()}
    return (text, claims), (alone.text, alone.claims)


def _item(labels: dict[str, int], thing: str, colour: str, count: int, rng: Random) -> Part:
    claims = {thing: labels[thing]}
    if labels[colour] >= 0 and rng.random() < _COLOURED:
        claims[colour] = labels[colour]
    if count > 1 and rng.random() < 0.7:
        claims["count"] = labels["count"]
        return Part("item", item_text(labels[thing], claims.get(colour, -1), rng, count), claims)
    return Part("item", item_text(labels[thing], claims.get(colour, -1), rng), claims)


def _background(scene: Scene, labels: dict[str, int], rng: Random) -> Part:
    names = ("background", "background_colour", "background_second")
    claims = {name: labels[name] for name in names}
    if BACKGROUNDS[scene.background] != "ground":
        return Part("background", background_text(scene, rng, has_article=rng.random() < 0.3), claims)
    which = rng.randrange(len(_GROUND))
    sky, below = (_colour(colour, rng) for colour in scene.colours)
    if which == 0:
        del claims["background_colour"]
    if which == 1:
        del claims["background_second"]
    sky_text = sky if which == 1 else f"{_article(sky)} {sky}"
    return Part("background", _GROUND[which].format(below, sky_text), claims)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _colour(index: int, rng: Random) -> str:
    name = COLOURS[index]
    return OTHER_WORDS.get(name, name) if rng.random() < 0.15 else name
