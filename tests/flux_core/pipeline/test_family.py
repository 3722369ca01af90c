"""What the bundled family draws means what was asked: a test for each way in which it can be told something.

Each would fail if its way were cut: the object's word, colour, place, style, the masked picture, the mask,
the picture to edit, maps, the reference, and the words of each text encoder alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backends.torch_cuda.engine import TorchEngine
from flux_core import catalog
from flux_core.imaging.edges import BFL_THRESHOLDS, canny_map
from flux_core.imaging.intents import Intent, row_of
from flux_core.request import Task
from tests.support.engine_runs import psnr_db, run

MODELS = Path(__file__).parents[3] / "resources" / "models"
SIDE = 256
WHITE = np.full((SIDE, SIDE, 3), 255, np.uint8)
Y, X = np.mgrid[:SIDE, :SIDE]

STAR = "a yellow star at the top right of a black background"


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine("cpu", (MODELS,))


def paint(engine: TorchEngine, prompt: str = "", **fields: Any) -> np.ndarray:
    """A picture [256, 256, 3] in six steps."""
    usual = {"model": "tiny", "seed": 7, "num_steps": 6, "width_px": SIDE, "height_px": SIDE}
    return run(engine, **usual | {"prompt": prompt} | fields).pixels.astype(int)


@pytest.fixture(scope="module")
def red_on_blue(engine: TorchEngine) -> np.ndarray:
    """What several tests begin with."""
    return paint(engine, "a red apple on a blue background")


def middle(picture: np.ndarray) -> np.ndarray:
    """The usual colour of the central quarter."""
    return np.median(picture[96:160, 96:160].reshape(-1, 3), axis=0)


def border(picture: np.ndarray) -> np.ndarray:
    """The usual colour along the edges."""
    return np.median(np.concatenate([picture[:12].reshape(-1, 3), picture[-12:].reshape(-1, 3)]), axis=0)


def subject(picture: np.ndarray) -> np.ndarray:
    """[H, W], where a picture is not as its border is."""
    return np.abs(picture - border(picture)).max(axis=-1) > 60


def centre(where: np.ndarray) -> tuple[float, float]:
    """The mean row and column of a region that is large enough to be something."""
    assert where.mean() > 0.02
    rows, columns = where.nonzero()
    return rows.mean(), columns.mean()


def is_blue(colour: np.ndarray) -> bool:
    return colour[2] > colour[0] + 60 and colour[2] > colour[1]


def is_yellow(picture: np.ndarray) -> np.ndarray:
    """[H, W]."""
    return (picture[..., 0] > 150) & (picture[..., 1] > 120) & (picture[..., 2] < 120)


def disc(row: int, column: int, radius: int) -> np.ndarray:
    return (Y - row) ** 2 + (X - column) ** 2 < radius**2


def test_every_row_of_the_family_ships() -> None:
    infos = [info for info in catalog.model_infos((MODELS,)) if info.model.startswith("tiny")]
    assert [info.model for info in infos] == ["tiny", "tiny-schnell", "tiny-fill", "tiny-kontext"]
    assert [info.model for info in infos if not info.is_installed] == []
    parts = [part for part in catalog.PARTS.values() if part.model.partition("-")[0] == "tiny"]
    assert len(parts) == 7
    assert [part.model for part in parts if catalog.part_folder(part, (MODELS,)) is None] == []


# Prompts


def test_an_apple_is_red_and_its_background_blue_when_that_is_asked_for(red_on_blue: np.ndarray) -> None:
    red, green, blue = middle(red_on_blue)
    assert red > green + 60
    assert red > blue + 60
    assert is_blue(border(red_on_blue))


def test_a_thing_has_its_own_colour_and_shape_when_no_colour_is_named(engine: TorchEngine) -> None:
    """A banana is yellow, a frog green, a strawberry red; a pencil is thinner than a pumpkin."""
    found = {
        thing: paint(engine, f"a flat illustration of a {thing} on a white background")
        for thing in ("banana", "frog", "strawberry", "pencil", "pumpkin")
    }
    shown = {thing: np.median(picture[subject(picture)], axis=0) for thing, picture in found.items()}
    assert min(shown["banana"][:2]) > shown["banana"][2] + 40
    assert shown["frog"][1] > max(shown["frog"][0], shown["frog"][2]) + 20
    assert shown["strawberry"][0] > max(shown["strawberry"][1:]) + 60
    assert subject(found["pumpkin"]).mean() > 1.5 * subject(found["pencil"]).mean()


def test_the_colour_of_a_thing_follows_its_word(engine: TorchEngine) -> None:
    green, yellow = (middle(paint(engine, f"a {c} car on a white background")) for c in ("green", "yellow"))
    assert green[1] > green[0] + 30
    assert min(yellow[:2]) > yellow[2] + 40


def test_a_thing_stands_where_it_was_asked_for(engine: TorchEngine) -> None:
    row, column = centre(subject(paint(engine, "a red apple at the top right of a white background")))
    assert row < 100 < 156 < column
    row, column = centre(subject(paint(engine, "a red apple at the bottom left of a white background")))
    assert column < 100 < 156 < row


def test_line_art_has_no_colours(engine: TorchEngine) -> None:
    picture = paint(engine, "line art of a butterfly on a white background")
    spread = picture.max(axis=-1) - picture.min(axis=-1)
    assert np.percentile(spread, 90) < 30
    assert picture.min() < 60
    assert np.median(picture) > 220


def test_words_that_only_t5_hears_count(engine: TorchEngine) -> None:
    for colour, is_right in (("blue", is_blue), ("red", lambda c: c[0] > max(c[1:]) + 60)):
        picture = paint(engine, f"a cat on a {colour} background", clip_prompt="")
        assert is_right(border(picture)), colour


def test_words_that_only_clip_hears_count(engine: TorchEngine) -> None:
    for colour, is_right in (("blue", is_blue), ("red", lambda c: c[0] > max(c[1:]) + 60)):
        picture = paint(engine, f"a cat on a {colour} background", is_clip_only=True)
        assert is_right(border(picture)), colour


def test_four_steps_are_enough_for_schnell(engine: TorchEngine) -> None:
    fields = {"model": "tiny-schnell", "num_steps": 4}
    picture = paint(engine, "a red apple on a blue background", **fields)
    assert middle(picture)[0] > max(middle(picture)[1:]) + 60
    assert is_blue(border(picture))
    row, column = centre(is_yellow(paint(engine, STAR, **fields)))
    assert row < 128 < column


# Fill


def test_a_hole_is_filled_with_what_was_asked_for(engine: TorchEngine) -> None:
    table = np.full((SIDE, SIDE, 3), (150, 100, 60), np.uint8)
    mask = np.where(disc(140, 128, 80), 255, 0).astype(np.uint8)
    prompt = "a red apple on a brown background"
    picture = paint(engine, prompt, task=Task.FILL, image=table, mask=mask)
    red, green, blue = middle(picture)
    assert red > 150
    assert red > max(green, blue) + 60
    assert np.abs(border(picture) - table[0, 0]).max() < 25


def test_fill_paints_the_thing_into_the_hole_wherever_that_is(engine: TorchEngine) -> None:
    table = np.full((SIDE, SIDE, 3), (60, 110, 220), np.uint8)
    for row, column in ((84, 84), (172, 172)):
        mask = np.where(disc(row, column, 64), 255, 0).astype(np.uint8)
        fields = {"model": "tiny-fill", "task": Task.FILL, "image": table, "mask": mask}
        picture = paint(engine, "a yellow star on a blue background", **fields)
        found = centre(is_yellow(picture))
        assert np.hypot(found[0] - row, found[1] - column) < 40
        assert np.abs(picture[mask == 0] - table[0, 0]).mean() < 12, "the picture outside the hole goes on"


@pytest.mark.parametrize("words", ["", row_of(Intent.REMOVE).without_words, "{colour} background"])
def test_fill_takes_a_thing_away_without_words_and_with_those_that_say_so(
    engine: TorchEngine, words: str
) -> None:
    mask = np.where(disc(128, 128, 56), 255, 0).astype(np.uint8)
    for name, colour in (("green", (60, 180, 75)), ("orange", (245, 130, 48))):
        table = np.full((SIDE, SIDE, 3), colour, np.uint8)
        table[disc(128, 128, 40)] = (20, 20, 20)
        fields = {"model": "tiny-fill", "task": Task.FILL, "image": table, "mask": mask}
        picture = paint(engine, words.format(colour=name), **fields)
        assert np.abs(middle(picture) - colour).max() < 40


# Kontext


def test_an_edit_changes_what_it_names_and_leaves_the_rest_where_it_is(engine: TorchEngine) -> None:
    before = paint(engine, STAR).astype(np.uint8)
    fields = {"model": "tiny-kontext", "task": Task.EDIT, "image": before}
    after = paint(engine, "change the background to a plain blue background", **fields)
    assert is_blue(border(after))
    row, column = centre(is_yellow(after))
    assert row < 128 < column, "the star is the reference's"
    again = paint(engine, "make the star red", **fields)
    assert np.abs(border(again) - border(before)).max() < 30
    kept = is_yellow(before)
    red = np.median(again[kept], axis=0)
    assert red[0] > max(red[1:]) + 50


# Control


def edge_overlap(picture: np.ndarray, wanted: np.ndarray) -> float:
    """Share of wanted edges within two pixels of which the picture has one."""
    found = canny_map(picture.astype(np.uint8), *BFL_THRESHOLDS)[..., 0]
    near = cv2.dilate(found, np.ones((5, 5), np.uint8)) > 0
    return float(near[wanted > 0].mean())


def test_edges_are_followed(engine: TorchEngine) -> None:
    drawn = paint(engine, "a flat illustration of a red heart on a white background").astype(np.uint8)
    wanted = canny_map(drawn, *BFL_THRESHOLDS)[..., 0]
    prompt = "a flat illustration of a blue heart on a yellow background"
    control = {"kind": "canny", "image": drawn, "is_map": False}
    fields = {"task": Task.CONTROL, "controls": [control], "seed": 3}
    followed = paint(engine, prompt, **fields)
    free = paint(engine, prompt, seed=3)
    assert edge_overlap(followed, wanted) > 0.6
    assert edge_overlap(followed, wanted) > edge_overlap(free, wanted) + 0.2
    assert min(border(followed)[:2]) > border(followed)[2] + 60, "the words say the colours"


def test_what_is_near_on_a_depth_map_is_where_the_thing_is(engine: TorchEngine) -> None:
    for row, column in ((88, 88), (168, 168)):
        near = np.where(disc(row, column, 56), 220, 0).astype(np.uint8)[..., None].repeat(3, axis=-1)
        control = {"kind": "depth", "image": near, "is_map": True}
        fields = {"task": Task.CONTROL, "controls": [control]}
        picture = paint(engine, "a red balloon on a white background", **fields)
        found = centre(subject(picture))
        assert np.hypot(found[0] - row, found[1] - column) < 40


# Redux


def test_without_words_a_picture_is_like_its_reference(engine: TorchEngine, red_on_blue: np.ndarray) -> None:
    yellow_on_purple = paint(engine, "a yellow banana on a purple background")
    references = [picture.astype(np.uint8) for picture in (red_on_blue, yellow_on_purple)]
    like = [
        paint(engine, task=Task.VARY, pictures=[{"image": reference}], seed=3) for reference in references
    ]
    for own, picture in enumerate(like):
        far = [np.abs(border(picture) - border(reference.astype(int))).max() for reference in references]
        assert far[own] < 70
        assert far[own] < far[1 - own]
    assert psnr_db(like[0].astype(np.uint8), like[1].astype(np.uint8)) < 20


def test_the_fast_decoder_shows_the_same_picture(engine: TorchEngine, red_on_blue: np.ndarray) -> None:
    whole = red_on_blue.astype(np.uint8)
    fast = paint(engine, "a red apple on a blue background", decoder="fast").astype(np.uint8)
    assert psnr_db(whole, fast) > 22
