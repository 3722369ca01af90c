"""Measuring drawings: outlines, recolour masks, names of colours; and the list of objects itself."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from backends.torch_cuda.training.data.objects import THINGS, Thing
from backends.torch_cuda.training.data.palette import COLOURS, PALETTE, contrasts, name_of

raster = pytest.importorskip("backends.torch_cuda.training.data.raster")  # needs the training extra

PLAIN = Thing(name="disc", code="0", words=(("disc", "discs"),))


def _disc(side_px: int, colour: tuple[int, int, int], radius: float = 0.4) -> np.ndarray:
    rows, columns = np.mgrid[:side_px, :side_px] / side_px - 0.5
    shape = np.hypot(rows, columns) < radius
    return np.dstack([np.broadcast_to(colour, (side_px, side_px, 3)), shape * 255]).astype(np.uint8)


def test_an_outline_keeps_the_edge_and_empties_the_inside() -> None:
    hatched = _disc(1024, (30, 30, 34))
    hatched[::40, ::40, 3] = 0  # holes inside count as inside
    ring = np.asarray(raster.outlined(Image.fromarray(hatched)).getchannel("A"))
    assert ring[512, 512] == 0
    assert ring[512, 512 - 400] == 255
    stroke_px = int((ring[512, :512] > 0).sum())
    assert 50 <= stroke_px <= 62


def test_a_sprite_is_measured() -> None:
    rgba = _disc(256, PALETTE["red"])
    rgba[:, :128, :3] = PALETTE["green"]
    rgba[:, 100:128, :3] = PALETTE["red"]
    made = raster.sprite(rgba, PLAIN, is_line=False)
    assert made.colour == "red"
    assert made.mask[128, 60] == 0
    assert made.mask[128, 180] == 255
    assert 0.5 < made.share < 0.9
    assert abs(made.box[0] - 26) <= 1
    assert abs(made.box[2] - 231) <= 1


def test_the_body_may_be_another_than_the_most_common_hue() -> None:
    rgba = _disc(256, PALETTE["red"])
    rgba[:, :100, :3] = PALETTE["blue"]
    made = raster.sprite(rgba, Thing("x", "0", (("x", "xs"),), body_hue=220), is_line=False)
    assert made.colour == "blue"


def test_every_palette_colour_has_its_own_name() -> None:
    assert [name_of(np.array(rgb) / 255) for rgb in PALETTE.values()] == list(COLOURS)


def test_every_colour_has_backgrounds_to_stand_out_on() -> None:
    for colour in COLOURS:
        assert not contrasts(colour, colour)
        assert sum(contrasts(colour, other) for other in COLOURS) >= 7


def test_objects_have_distinct_names_and_drawings() -> None:
    for counted in (
        Counter(thing.name for thing in THINGS),
        Counter(thing.code for thing in THINGS),
        Counter(singular for thing in THINGS for singular, _ in thing.words),
    ):
        assert set(counted.values()) == {1}
    assert all(thing.colour in ("", *COLOURS) for thing in THINGS)
