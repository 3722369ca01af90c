"""Pairs of scenes that differ in one thing, with the sentence that asks for it: what an editor learns from.

The second scene is the first one with the change and nothing else, so every pixel that differs had to; the
words are those that people use, and everything that stays is left unsaid.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import NamedTuple

from backends.torch_cuda.training.data import word_ids
from backends.torch_cuda.training.data.captions import background_text, place_text, with_article
from backends.torch_cuda.training.data.objects import THINGS
from backends.torch_cuda.training.data.palette import COLOURS, contrasts, luma
from backends.torch_cuda.training.data.scenes import (
    BACKGROUNDS,
    FLAT,
    LINE,
    PIXEL,
    PLACES,
    THREE_D,
    Item,
    Sampler,
    Scene,
    jittered,
)

KINDS: tuple[str, ...] = ("recolour", "replace", "add", "remove", "background", "style")
_WEIGHTS = (20, 20, 13, 13, 20, 16)

_RECOLOUR = (
    "make the {0} {1}",
    "change the {0} to {1}",
    "change the color of the {0} to {1}",
    "turn the {0} {1}",
)
_REPLACE = ("replace the {0} with {1}", "change the {0} to {1}", "turn the {0} into {1}")
_ADD = "add {0} {1}"
_REMOVE = ("remove the {0}", "remove the {0} from the picture")
_BACKGROUND = (
    "change the background to {1}",
    "make the background {0}",
    "replace the background with {1}",
    "put it on {1}",
)
_STYLE = {
    THREE_D: ("a 3D render", "3D style"),
    FLAT: ("flat style", "a flat illustration", "a flat icon"),
    LINE: ("line art", "a line drawing", "a line art drawing"),
    PIXEL: ("pixel art", "a pixel art icon"),
}
_STYLED = ("make it {0}", "turn it into {0}", "change the style to {0}", "change it to {0}")
_LUMA_OF_LINES = 0.28


class Edit(NamedTuple):
    """Two scenes and the instruction that leads from the first to the second.

    Attributes:
        before, after: Scenes.
        text: The instruction.
        kind: Index into KINDS.
        asked: What the instruction says: names of data.feed.LABELS and their classes, the object that is
            meant first and the new one second.
    """

    before: Scene
    after: Scene
    text: str
    kind: int
    asked: dict[str, int]


def edit(sampler: Sampler, rng: Random, kind: str | None = None) -> Edit:
    """Draws a scene and a change of it that both text encoders can hold; of any kind where none is given."""
    while True:
        name = kind or rng.choices(KINDS, _WEIGHTS)[0]
        made = _MAKERS[name](sampler, sampler.scene(rng), rng)
        if made is not None and word_ids.committed().fits(made.text):
            return made


def words() -> list[str]:
    """Every word of the instructions beside those of captions."""
    sentences = [*_RECOLOUR, *_REPLACE, _ADD, *_REMOVE, *_BACKGROUND, *_STYLED]
    found = (word for text in sentences for word in text.split() if not word.startswith("{"))
    return list(dict.fromkeys(found))


def stands_out(sampler: Sampler, scene: Scene, item: Item) -> bool:
    """Whether an item can be seen on the scene's background."""
    own = COLOURS[sampler.visible_colour(item, scene.style)]
    behind = scene.colours if BACKGROUNDS[scene.background] != "solid" else scene.colours[:1]
    return all(
        contrasts(own, COLOURS[each])
        and (scene.style != LINE or abs(luma(own) - luma(COLOURS[each])) > _LUMA_OF_LINES)
        for each in behind
    )


def emptied(scene: Scene) -> Scene:
    """The scene's background alone."""
    return replace(scene, items=[], is_same=False, place=0, shadow=0.0)


def _recolour(sampler: Sampler, scene: Scene, rng: Random) -> Edit | None:
    number = rng.randrange(len(scene.items))
    item = scene.items[number]
    if scene.is_same or not (THINGS[item.thing].recolour or scene.style == LINE):
        return None
    colour = rng.randrange(len(COLOURS))
    if not contrasts(COLOURS[colour], COLOURS[sampler.visible_colour(item, scene.style)]):
        return None
    rgb = jittered(colour, rng, is_body=scene.style != LINE)
    after = _with_item(scene, number, replace(item, colour=colour, rgb=rgb))
    if not stands_out(sampler, after, after.items[number]):
        return None
    text = rng.choice(_RECOLOUR).format(_noun(item.thing, rng), COLOURS[colour])
    asked = {"object": item.thing, "colour": colour}
    return Edit(scene, after, text, KINDS.index("recolour"), asked)


def _replace(sampler: Sampler, scene: Scene, rng: Random) -> Edit | None:
    number, thing = rng.randrange(len(scene.items)), rng.randrange(len(THINGS))
    item = scene.items[number]
    if scene.is_same or any(each.thing == thing for each in scene.items):
        return None
    new = sampler.item(rng, thing, scene.style, item.size, is_upright=True)
    new.cx, new.cy = item.cx, item.cy
    if BACKGROUNDS[scene.background] == "ground":
        new.cy = sampler.standing_height(new, scene.style)
    after = _shaded(_with_item(scene, number, new))
    if not stands_out(sampler, after, new):
        return None
    text = rng.choice(_REPLACE).format(_noun(item.thing, rng), described(new, rng, new.colour))
    asked = {"object": item.thing, "second": thing, "second_colour": new.colour}
    return Edit(scene, after, text, KINDS.index("replace"), asked)


def _add(sampler: Sampler, scene: Scene, rng: Random) -> Edit | None:
    """An item comes beside the other; a single one comes to an empty background, where the words say."""
    if scene.is_same:
        return None
    number = rng.randrange(len(scene.items))
    new = scene.items[number]
    before = _without_item(scene, number)
    place = scene.place
    if before.items:
        place = PLACES.index("left" if number == 0 else "right")
    is_told = before.items or place or rng.random() < 0.5  # alone and unsaid means the middle
    where = place_text(place, rng) if is_told else ""
    text = _ADD.format(described(new, rng, new.colour), where).strip()
    asked = {"second": new.thing, "second_colour": new.colour}
    if is_told:
        asked["place"] = place
    return Edit(before, scene, text, KINDS.index("add"), asked)


def _remove(sampler: Sampler, scene: Scene, rng: Random) -> Edit | None:
    if scene.is_same:
        return None
    number = rng.randrange(len(scene.items))
    text = rng.choice(_REMOVE).format(_noun(scene.items[number].thing, rng))
    asked = {"object": scene.items[number].thing}
    return Edit(scene, _without_item(scene, number), text, KINDS.index("remove"), asked)


def _new_background(sampler: Sampler, scene: Scene, rng: Random) -> Edit | None:
    other = sampler.scene(rng)
    is_ground = BACKGROUNDS[other.background] == "ground"
    is_same = (other.background, other.colours[0]) == (scene.background, scene.colours[0])
    if is_ground or is_same or not contrasts(COLOURS[other.colours[0]], COLOURS[scene.colours[0]]):
        return None
    after = replace(
        scene,
        background=other.background,
        colours=other.colours,
        rgb=other.rgb,
        direction=other.direction,
        pattern=other.pattern,
    )
    after = _shaded(after)
    if not all(stands_out(sampler, after, item) for item in after.items):
        return None
    is_plain = BACKGROUNDS[other.background] == "solid"
    sentence = rng.choice(_BACKGROUND if is_plain else _BACKGROUND[2:])
    colour = COLOURS[other.colours[0]]
    what = colour if sentence == _BACKGROUND[0] else background_text(after, rng, has_article=True)
    text = sentence.format(colour, what)
    asked = {"background_colour": other.colours[0]}
    if sentence not in _BACKGROUND[:2]:
        asked["background"] = other.background
    return Edit(scene, after, text, KINDS.index("background"), asked)


def _new_style(sampler: Sampler, scene: Scene, rng: Random) -> Edit | None:
    style = rng.choice([each for each in _STYLE if each != scene.style])
    for item in scene.items:
        if item.colour >= 0 and not THINGS[item.thing].recolour and style != LINE:
            return None
    after = _shaded(replace(scene, style=style, items=copy.deepcopy(scene.items)))
    if style == PIXEL:
        for item in after.items:
            item.rotation = 0.0
    if not all(stands_out(sampler, after, item) for item in after.items):
        return None
    text = rng.choice(_STYLED).format(rng.choice(_STYLE[style]))
    return Edit(scene, after, text, KINDS.index("style"), {"style": style})


_Maker = Callable[[Sampler, Scene, Random], Edit | None]
_MAKERS: dict[str, _Maker] = {
    "recolour": _recolour,
    "replace": _replace,
    "add": _add,
    "remove": _remove,
    "background": _new_background,
    "style": _new_style,
}


def _with_item(scene: Scene, number: int, item: Item) -> Scene:
    items = list(scene.items)
    items[number] = item
    return replace(scene, items=items)


def _without_item(scene: Scene, number: int) -> Scene:
    items = [item for index, item in enumerate(scene.items) if index != number]
    return replace(scene, items=items, place=0) if items else emptied(scene)


def _shaded(scene: Scene) -> Scene:
    """The scene with the shadow that its style and its things throw."""
    is_floating = all(THINGS[item.thing].floats for item in scene.items)
    if is_floating or scene.style == LINE:
        return replace(scene, shadow=0.0)
    return replace(
        scene, shadow=0.3 if BACKGROUNDS[scene.background] == "ground" else 0.22 * (scene.style == THREE_D)
    )


def _noun(thing: int, rng: Random) -> str:
    forms = THINGS[thing].words
    return (forms[0] if rng.random() < 0.7 else rng.choice(forms))[0]


def described(item: Item, rng: Random, colour: int) -> str:
    """An object with its article: "a cat", "a red apple"; `colour` is an index into COLOURS, or -1."""
    noun = _noun(item.thing, rng)
    return with_article(f"{COLOURS[colour]} {noun}" if colour >= 0 else noun, item.thing)
