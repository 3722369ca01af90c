"""Says in English what a scene shows: never anything false, rarely twice in the same way.

The grammar is a handful of templates. A caption that names no style always belongs to a 3D picture,
so that the model has one steady look when nobody asks for another; parts that a person may leave out
(the background, the place, the object's own colour) are sometimes left out.
"""

from __future__ import annotations

import re
from random import Random

from backends.torch_cuda.training.data import word_ids
from backends.torch_cuda.training.data.objects import THINGS
from backends.torch_cuda.training.data.palette import COLOURS, OTHER_WORDS
from backends.torch_cuda.training.data.scenes import (
    BACKGROUNDS,
    FLAT,
    HELD_OUT_SEED,
    LINE,
    PIXEL,
    PLACES,
    STRIPE_DIRECTIONS,
    THREE_D,
    Item,
    Sampler,
    Scene,
    held_out,
)

# The nearest thing to a photo that this model can draw is a 3D picture, so "a photo of" means one.
_PLAIN = ("{s}", "{s}", "{s}", "{s}", "a picture of {s}", "an image of {s}", "a photo of {s}")
_STYLED = {
    THREE_D: (
        *("a 3D render of {s}", "3D render of {s}", "a 3D picture of {s}", "a 3D model of {s}"),
        *("{s}, 3D style", "{s}, 3D render", "3D style, {s}", "{s} in 3D"),
    ),
    FLAT: (
        *("a flat illustration of {s}", "flat illustration of {s}", "a flat picture of {s}"),
        *(
            "a flat icon of {s}",
            "{s}, flat style",
            "flat style, {s}",
            "{s} in flat style",
            "flat design of {s}",
        ),
    ),
    LINE: (
        *(
            "line art of {s}",
            "a line art drawing of {s}",
            "a line drawing of {s}",
            "a line art picture of {s}",
        ),
        *("{s}, line art", "line art, {s}", "{s} in line art style", "an outline drawing of {s}"),
    ),
    PIXEL: (
        *("pixel art of {s}", "a pixel art picture of {s}", "a pixel art icon of {s}"),
        *("{s}, pixel art", "pixel art, {s}", "{s} in pixel art style", "{s}, pixel style"),
    ),
}
_TAGS = {
    THREE_D: ("3D render", "3D style"),
    FLAT: ("flat style", "flat design"),
    LINE: ("line art",),
    PIXEL: ("pixel art",),
}
_QUALITY = ("high quality", "detailed", "beautiful", "nice", "sharp", "clean", "4k")
_ADJECTIVES = ("cute", "beautiful", "nice", "single")
_BIG = ("big", "large")
_SMALL = ("small", "little")
_AT = {
    "center": ("in the center", "in the middle"),
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "top left": ("at the top left", "in the top left corner"),
    "top right": ("at the top right", "in the top right corner"),
    "bottom left": ("at the bottom left", "in the bottom left corner"),
    "bottom right": ("at the bottom right", "in the bottom right corner"),
}
_ON = (" on {a}", " on {a}", " on {a}", " against {a}", ", {b}", ", {b}", " with {a}", " in front of {a}")
_GROUND_WORDS = {"green": ("grass",), "white": ("snow",), "yellow": ("sand",), "brown": ("dirt",)}
_SKY = ("on {0} ground under {1} sky", "on {0} ground with {1} sky")
_PAIRS = (
    *("{0} and {1}", "{0} next to {1}", "{0} beside {1}", "{0} on the left and {1} on the right"),
    *("{0} to the left of {1}", "{1} to the right of {0}", "{0} left of {1}"),
)
_NUMBERS = {2: ("two", "2"), 3: ("three", "3")}
_ROW = ("", "", " in a row", " side by side")


def caption(scene: Scene, rng: Random, is_complete: bool = False) -> str:
    """One caption for a scene, short enough for both text encoders.

    Args:
        scene: What to describe.
        rng: Source of chance for the wording.
        is_complete: Leave out nothing that the labels hold: style, colours, place and background.
    """
    while True:
        text = _caption(scene, rng, is_complete)
        if word_ids.committed().fits(text):
            return text


def _caption(scene: Scene, rng: Random, is_complete: bool) -> str:
    is_grey = rng.random() < 0.3
    is_tags = len(scene.items) == 1 and not is_complete and rng.random() < 0.12
    subject = _subject(scene, rng, is_complete, has_article=not is_tags)
    if is_complete or rng.random() >= 0.08:
        subject += _background(scene, rng, is_tags)
    text = _tagged(scene, subject, rng) if is_tags else _styled(scene, subject, rng, is_complete)
    if not is_complete and rng.random() < 0.08:
        text += ", " + rng.choice(_QUALITY)
    if rng.random() < 0.06:
        text += "."
    return text.replace("gray", OTHER_WORDS["gray"]) if is_grey else text


def held_out_captions(sampler: Sampler, count: int, seed: int = HELD_OUT_SEED) -> list[tuple[Scene, str]]:
    """The fixed evaluation list: scenes with complete captions."""
    rng = Random(seed + 1)
    return [(scene, caption(scene, rng, is_complete=True)) for scene in held_out(sampler, count, seed)]


def named(thing: int) -> str:
    """An object's plain name with its article: "an apple", "scissors"."""
    return with_article(THINGS[thing].name, thing)


def place_text(place: int, rng: Random) -> str:
    """A place alone: "on the left side"."""
    return rng.choice(_AT[PLACES[place]])


def style_text(style: int, rng: Random) -> str:
    """A style alone: "line art"."""
    return rng.choice(_TAGS[style])


def words() -> list[str]:
    """Every word that captions can hold, without punctuation, in order of first use."""
    texts = [
        *_PLAIN,
        *_QUALITY,
        *_ADJECTIVES,
        *_BIG,
        *_SMALL,
        *_ON,
        *_SKY,
        *_PAIRS,
        *_ROW,
        *PLACES,
        "under",
        "sky",
    ]
    for table in (_STYLED, _TAGS, _AT, _GROUND_WORDS, _NUMBERS):
        for entries in table.values():
            texts.extend(entries)
    texts.extend(_PATTERN_TEXTS)
    texts.extend((*COLOURS, *OTHER_WORDS.values(), *STRIPE_DIRECTIONS, "a", "an", "the"))
    for thing in THINGS:
        for pair in thing.words:
            texts.extend(pair)
    found = (word for text in texts for word in re.sub(r"\{\w\}|,", " ", text).split())
    return list(dict.fromkeys(found))


def _tagged(scene: Scene, subject: str, rng: Random) -> str:
    """Without articles: "red apple, blue background, flat style"."""
    is_named = scene.style != THREE_D or rng.random() >= 0.64
    return f"{subject}, {rng.choice(_TAGS[scene.style])}" if is_named else subject


def _styled(scene: Scene, subject: str, rng: Random, is_complete: bool) -> str:
    is_named = scene.style != THREE_D or is_complete or rng.random() >= 0.64
    return rng.choice(_STYLED[scene.style] if is_named else _PLAIN).format(s=subject)


def _subject(scene: Scene, rng: Random, is_complete: bool, has_article: bool) -> str:
    items = scene.items
    if scene.is_same:
        plural = _noun(items[0], scene, rng, is_complete, is_plural=True)
        return f"{rng.choice(_NUMBERS[len(items)])} {plural}{rng.choice(_ROW)}"
    if len(items) == 2:
        return rng.choice(_PAIRS).format(
            *(with_article(_noun(i, scene, rng, is_complete), i.thing) for i in items)
        )
    noun = _noun(items[0], scene, rng, is_complete)
    size = items[0].size
    if size > 0.72 and rng.random() < 0.4:
        noun = f"{rng.choice(_BIG)} {noun}"
    elif size < 0.4 and rng.random() < 0.3:
        noun = f"{rng.choice(_SMALL)} {noun}"
    elif rng.random() < 0.05 and not is_complete:
        noun = f"{rng.choice(_ADJECTIVES)} {noun}"
    if has_article:
        noun = with_article(noun, items[0].thing)
    if scene.place == 0 and rng.random() < 0.85:
        return noun
    if scene.place and not is_complete and rng.random() < 0.08:
        return noun
    return f"{noun} {rng.choice(_AT[PLACES[scene.place]])}"


def _noun(item: Item, scene: Scene, rng: Random, is_complete: bool, is_plural: bool = False) -> str:
    thing = THINGS[item.thing]
    forms = thing.words[0] if rng.random() < 0.6 else rng.choice(thing.words)
    noun = forms[is_plural]
    if item.colour >= 0:
        return f"{_colour(item.colour, rng)} {noun}"
    own = "black" if scene.style == LINE else thing.colour
    chance = 0.15 if scene.style == LINE else 0.4
    if own and (is_complete or rng.random() < chance):
        return f"{_colour(COLOURS.index(own), rng)} {noun}"
    return noun


def _colour(index: int, rng: Random) -> str:
    name = COLOURS[index]
    return OTHER_WORDS[name] if name in ("purple", "cyan") and rng.random() < 0.15 else name


def with_article(noun: str, thing: int) -> str:
    """A noun with what stands before it: "an apple", "a red apple", "scissors"."""
    return noun if THINGS[thing].is_bare else _article(noun)


def _article(noun: str) -> str:
    is_vowel = noun[0] in "aeiou" and not noun.startswith("uni")  # spoken as "you"
    return ("an " if is_vowel else "a ") + noun


_PATTERN_TEXTS = (
    *("{0} background", "plain {0} background", "solid {0} background"),
    *(
        "{0} and {1} gradient background",
        "gradient background from {0} to {1}",
        "{0} to {1} gradient background",
    ),
    *("{0} background with {g} glow", "{0} background with {g} light in the center"),
    *("{0} and {1} striped background", "background with {0} and {1} stripes", "{d} {0} and {1} stripes"),
    *("{0} and {1} checkered background", "{0} and {1} checkerboard background"),
    *("{0} background with {1} dots", "{0} background with {1} polka dots"),
)
_BY_KIND = {
    "solid": (*_PATTERN_TEXTS[0:1] * 8, *_PATTERN_TEXTS[1:3]),
    "gradient": _PATTERN_TEXTS[3:6],
    "glow": _PATTERN_TEXTS[6:8],
    "stripes": _PATTERN_TEXTS[8:11],
    "checker": _PATTERN_TEXTS[11:13],
    "dots": _PATTERN_TEXTS[13:15],
}


def _background(scene: Scene, rng: Random, is_tags: bool) -> str:
    """The words that follow the subject, with what joins them."""
    kind = BACKGROUNDS[scene.background]
    if kind == "ground":
        first, second = (_colour(colour, rng) for colour in scene.colours)
        below = COLOURS[scene.colours[1]]
        if below in _GROUND_WORDS and rng.random() < 0.5:
            where = f"on {below} {rng.choice(_GROUND_WORDS[below])} under {_article(first)} sky"
        else:
            where = rng.choice(_SKY).format(second, _article(first))
        return (", " if is_tags else " ") + where
    text = background_text(scene, rng)
    is_mass = text.endswith("stripes") and "background" not in text
    joined = ", {b}" if is_tags else " on {a}" if is_mass else rng.choice(_ON)
    if " with " in text:
        joined = joined.replace(" with ", " on ")
    return joined.format(a=text if is_mass else _article(text), b=text)


def background_text(scene: Scene, rng: Random, has_article: bool = False) -> str:
    """A background alone, of any kind but ground: "blue background", "a red background with white dots"."""
    first, second = (_colour(colour, rng) for colour in scene.colours)
    kind = BACKGROUNDS[scene.background]
    text = rng.choice(_BY_KIND[kind])
    if kind in ("stripes", "checker") and rng.random() < 0.5:
        first, second = second, first
    text = text.format(first, second, g=_article(second), d=STRIPE_DIRECTIONS[scene.direction])
    is_mass = text.endswith("stripes") and "background" not in text
    return _article(text) if has_article and not is_mass else text
