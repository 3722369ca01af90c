"""Samples scenes: plain specifications of what is in a picture, before any pixel exists.

A scene names its objects, colours, places and background, so that a caption can be exactly true of
it, labels are free, and the same seed gives the same scene everywhere. Most scenes show one object,
large and centred, because that is what the tiny model must do well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from backends.torch_cuda.training.data.objects import THINGS
from backends.torch_cuda.training.data.pack import Pack
from backends.torch_cuda.training.data.palette import COLOURS, NEUTRAL, PALETTE, contrasts, luma

THREE_D, FLAT, LINE, PIXEL = range(4)
NUM_STYLES = 4
BACKGROUNDS: tuple[str, ...] = ("solid", "gradient", "glow", "ground", "stripes", "checker", "dots")
PLACES: tuple[str, ...] = (
    *("center", "left", "right", "top", "bottom"),
    *("top left", "top right", "bottom left", "bottom right"),
)
_PLACE_STEPS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, -1), (-1, 1), (1, 1))
STRIPE_DIRECTIONS: tuple[str, ...] = ("vertical", "horizontal", "diagonal")
_STRIPE_ANGLES = (0.0, math.pi / 2, math.pi / 4)

MAX_ITEMS = 3
HELD_OUT_SEED = 7_777_777

PAIR_SHARE = 0.15
"""Of the scenes that show two different things, in the world that the held-out lists are drawn from."""

_STYLE_WEIGHTS = (46, 20, 17, 17)
_BACKGROUND_WEIGHTS = (50, 12, 8, 12, 7, 5, 6)
_BLACK_BODY = (50, 50, 53)  # lit black: its shading and features must stay visible


@dataclass(slots=True)
class Item:
    """One object of a scene.

    Attributes:
        thing: Index into objects.THINGS.
        colour: Index into COLOURS that the body is given, or -1 for the drawing's own colours.
        rgb: The exact colour given, 0 to 255; meaningless without `colour`.
        cx, cy: Centre, as fractions of the picture's width and height.
        size: Longer side of the object, as a fraction of the picture's shorter side.
        rotation: In radians, clockwise.
        flip: Mirrored left to right.
    """

    thing: int
    colour: int
    rgb: tuple[int, int, int]
    cx: float
    cy: float
    size: float
    rotation: float
    flip: bool


@dataclass(slots=True)
class Scene:
    """What is in one picture.

    Attributes:
        style: THREE_D, FLAT, LINE or PIXEL.
        items: Left to right; one, two different ones, or two or three of the same.
        is_same: Several items are the same object in the same colour.
        place: Index into PLACES of a single item; 0 otherwise.
        background: Index into BACKGROUNDS.
        colours: Indices into COLOURS of the background: the only, upper, outer or first one, and the other.
        rgb: The exact background colours, 0 to 255.
        direction: Index into STRIPE_DIRECTIONS; means something for stripes only.
        pattern: Repeats over the shorter side (stripes, checker, dots), or the horizon's height (ground).
        shadow: Strength of the contact shadow, 0 to 1.
    """

    style: int
    items: list[Item]
    is_same: bool
    place: int
    background: int
    colours: tuple[int, int]
    rgb: tuple[tuple[int, int, int], tuple[int, int, int]]
    direction: int
    pattern: float
    shadow: float

    @property
    def angle(self) -> float:
        """Direction across the stripes, in radians."""
        return _STRIPE_ANGLES[self.direction]


class Sampler:
    """Draws scenes for the sprites of one pack.

    Args:
        pack: The opened pack.
        pair_share: Of the scenes that show two different things.
    """

    def __init__(self, pack: Pack, pair_share: float = PAIR_SHARE) -> None:
        if pack.names != tuple(thing.name for thing in THINGS):
            raise ValueError("the pack was built from another list of objects")
        styles = len(pack.styles)
        self._measured = [COLOURS.index(info.colour) for info in pack.infos]
        sides = [(info.box[2] - info.box[0], info.box[3] - info.box[1]) for info in pack.infos]
        self._heights = [height / max(width, height) for width, height in sides]
        self.num_styles = styles
        self._pairs_from = 0.95 - pair_share
        self._indices = range(len(THINGS))
        self._against = [_backgrounds_for(colour, is_line=False) for colour in range(len(COLOURS))]
        self._against_line = [_backgrounds_for(colour, is_line=True) for colour in range(len(COLOURS))]

    def visible_colour(self, item: Item, style: int) -> int:
        """Index into COLOURS of the colour that an item mostly shows."""
        return item.colour if item.colour >= 0 else self._measured[item.thing * self.num_styles + style]

    def named_colour(self, item: Item, style: int) -> int:
        """Index into COLOURS of the colour that a caption may give an item, or -1 where none plainly fits."""
        if item.colour >= 0:
            return item.colour
        name = "black" if style == LINE else THINGS[item.thing].colour
        return COLOURS.index(name) if name else -1

    def scene(self, rng: Random) -> Scene:
        """Draws one scene; the same state of `rng` gives the same scene."""
        style = rng.choices((THREE_D, FLAT, LINE, PIXEL), _STYLE_WEIGHTS)[0]
        kind = rng.random()
        background = rng.choices(range(len(BACKGROUNDS)), _BACKGROUND_WEIGHTS)[0]
        place = 0
        if kind < self._pairs_from:
            item, place = self._single(rng, style, background)
            items = [item]
        elif kind < 0.95:
            first, second = rng.sample(self._indices, 2)
            items = self._row(rng, style, [first, second], background)
        else:
            items = self._row(rng, style, [rng.randrange(len(THINGS))] * rng.choice((2, 3)), background)
            for item in items[1:]:
                item.colour, item.rgb, item.flip = items[0].colour, items[0].rgb, items[0].flip
        colours = self._background_colours(rng, style, items, background)
        is_floating = all(THINGS[item.thing].floats for item in items)
        return Scene(
            style=style,
            items=items,
            is_same=len(items) > 1 and items[0].thing == items[1].thing,
            place=place,
            background=background,
            colours=colours,
            rgb=(jittered(colours[0], rng), jittered(colours[1], rng)),
            direction=rng.randrange(3),
            pattern=rng.uniform(0.5, 0.62) if BACKGROUNDS[background] == "ground" else rng.uniform(4.0, 8.0),
            shadow=0.0
            if is_floating or style == LINE
            else 0.3
            if background == 3
            else 0.22 * (style == THREE_D),
        )

    def _single(self, rng: Random, style: int, background: int) -> tuple[Item, int]:
        index = rng.randrange(len(THINGS))
        is_ground = BACKGROUNDS[background] == "ground"
        place = 0 if rng.random() < 0.65 else rng.randrange(1, 3 if is_ground else len(PLACES))
        size = rng.uniform(0.5, 0.85) if place == 0 else rng.uniform(0.32, 0.48)
        if is_ground:
            size = min(size, 0.7)
        right, down = _PLACE_STEPS[place]
        reach = 0.5 - 0.03 - size / 2
        item = self.item(rng, index, style, size, is_upright=is_ground)
        item.cx = 0.5 + right * reach + rng.uniform(-0.015, 0.015)
        item.cy = 0.5 + down * reach + rng.uniform(-0.015, 0.015)
        if is_ground:
            item.cy = self.standing_height(item, style)
        return item, place

    def _row(self, rng: Random, style: int, things: list[int], background: int) -> list[Item]:
        is_ground = BACKGROUNDS[background] == "ground"
        count = len(things)
        size = rng.uniform(0.36, 0.45) if count == 2 else rng.uniform(0.26, 0.30)
        height = 0.5 + rng.uniform(-0.06, 0.06)
        items: list[Item] = []
        for position, index in enumerate(things):
            item = self.item(rng, index, style, size, is_upright=is_ground or count == 3)
            item.cx = (position + 0.5) / count + rng.uniform(-0.015, 0.015)
            item.cy = self.standing_height(item, style) if is_ground else height
            items.append(item)
        return items

    def standing_height(self, item: Item, style: int) -> float:
        """Centre of a thing that stands on the ground in front, or hangs in the sky."""
        half = item.size * self._heights[item.thing * self.num_styles + style] / 2
        if THINGS[item.thing].floats:
            return max(0.36, half + 0.04)
        return 0.84 - half if half < 0.3 else 0.9 - half

    def item(self, rng: Random, index: int, style: int, size: float, is_upright: bool) -> Item:
        """One object in the middle, perhaps in another colour, perhaps turned a little."""
        thing = THINGS[index]
        colour = -1
        if (thing.recolour or style == LINE) and rng.random() < (0.35 if style == LINE else 0.5):
            colour = rng.randrange(len(COLOURS))
        is_turned = not is_upright and style != PIXEL and rng.random() < 0.25
        rotation = rng.uniform(-0.14, 0.14) if is_turned else 0.0
        rgb = jittered(colour, rng, is_body=style != LINE) if colour >= 0 else (0, 0, 0)
        return Item(index, colour, rgb, 0.5, 0.5, size, rotation, thing.flip and rng.random() < 0.5)

    def _background_colours(
        self, rng: Random, style: int, items: list[Item], background: int
    ) -> tuple[int, int]:
        """Colours on which every item can be seen, and that differ from each other."""
        table = self._against_line if style == LINE else self._against
        allowed = set(table[self.visible_colour(items[0], style)])
        for item in items[1:]:
            allowed &= set(table[self.visible_colour(item, style)])
        choices = sorted(allowed) or [COLOURS.index("white")]
        white = COLOURS.index("white")
        if background == 0 and white in choices and rng.random() < (0.4 if style == LINE else 0.08):
            first = white
        else:
            first = rng.choice(choices)
        others = [c for c in choices if contrasts(COLOURS[c], COLOURS[first])]
        return first, rng.choice(others) if others else (white if first != white else COLOURS.index("black"))


def jittered(colour: int, rng: Random, is_body: bool = False) -> tuple[int, int, int]:
    """A shade of a named colour that still deserves the name.

    Args:
        colour: Index into COLOURS.
        rng: Source of chance.
        is_body: The lit body of an object rather than a plain area.
    """
    name = COLOURS[colour]
    base = _BLACK_BODY if is_body and name == "black" else PALETTE[name]
    level = rng.randint(-9, 9)
    spread = 2 if name in NEUTRAL else 6
    red, green, blue = (min(255, max(0, part + level + rng.randint(-spread, spread))) for part in base)
    return red, green, blue


def held_out(sampler: Sampler, count: int, seed: int = HELD_OUT_SEED) -> list[Scene]:
    """A fixed list of scenes for evaluation; workers never use this seed."""
    rng = Random(seed)
    return [sampler.scene(rng) for _ in range(count)]


def _backgrounds_for(colour: int, is_line: bool) -> list[int]:
    """Background colours on which a thing of `colour` stands out; thin lines need lightness too."""
    name = COLOURS[colour]
    return [
        index
        for index, other in enumerate(COLOURS)
        if contrasts(name, other) and (not is_line or abs(luma(name) - luma(other)) > 0.28)
    ]
