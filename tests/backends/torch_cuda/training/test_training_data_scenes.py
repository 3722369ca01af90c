"""Scenes and captions: deterministic, balanced, and true."""

import re
from collections import Counter
from random import Random

import numpy as np
import pytest

from backends.torch_cuda.training.data.captions import caption, held_out_captions, words
from backends.torch_cuda.training.data.objects import THINGS
from backends.torch_cuda.training.data.palette import COLOURS, OTHER_WORDS, contrasts, name_of
from backends.torch_cuda.training.data.scenes import (
    BACKGROUNDS,
    LINE,
    PIXEL,
    PLACES,
    THREE_D,
    Sampler,
    Scene,
    jittered,
)
from backends.torch_cuda.training.data.word_ids import Words
from tests.support.training_pack import disc_pack

COUNT = 3000


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler(disc_pack())


@pytest.fixture(scope="module")
def told(sampler: Sampler) -> list[tuple[Scene, str]]:
    rng = Random(5)
    scenes = [sampler.scene(rng) for _ in range(COUNT)]
    return [(scene, caption(scene, rng)) for scene in scenes]


def _colours_in(text: str) -> set[str]:
    plain = {other: name for name, other in OTHER_WORDS.items()}
    found = re.findall(r"[a-z]+", text.lower())
    return {plain.get(word, word) for word in found} & set(COLOURS)


def test_the_same_seed_gives_the_same_scenes_and_captions(sampler: Sampler) -> None:
    assert held_out_captions(sampler, 50) == held_out_captions(sampler, 50)
    assert held_out_captions(sampler, 50, seed=1) != held_out_captions(sampler, 50, seed=2)


def test_most_scenes_show_one_object_and_most_of_those_in_the_centre(told: list[tuple[Scene, str]]) -> None:
    single = [scene for scene, _ in told if len(scene.items) == 1]
    assert 0.77 < len(single) / COUNT < 0.83
    assert 0.6 < sum(scene.place == 0 for scene in single) / len(single) < 0.75
    assert len({scene.items[0].thing for scene in single}) == len(THINGS)
    assert 0.45 < sum(scene.background == 0 for scene, _ in told) / COUNT < 0.55


def test_objects_stay_inside_the_picture(told: list[tuple[Scene, str]]) -> None:
    for scene, _ in told:
        for item in scene.items:
            assert item.size / 2 <= item.cx + 0.02
            assert item.cx + item.size / 2 <= 1.02


def test_a_background_never_has_the_colour_of_an_object(
    sampler: Sampler, told: list[tuple[Scene, str]]
) -> None:
    for scene, _ in told:
        first = COLOURS[scene.colours[0]]
        for item in scene.items:
            assert COLOURS[sampler.visible_colour(item, scene.style)] != first
            if len(scene.items) == 1:
                assert contrasts(COLOURS[sampler.visible_colour(item, scene.style)], first)


def test_every_shade_of_a_colour_still_deserves_its_name() -> None:
    rng = Random(1)
    for index, name in enumerate(COLOURS):
        for is_body in (False, True):
            shades = [jittered(index, rng, is_body) for _ in range(300)]
            assert {name_of(np.array(shade) / 255) for shade in shades} == {name}


def test_a_caption_names_only_colours_that_are_there(sampler: Sampler, told: list[tuple[Scene, str]]) -> None:
    for scene, text in told:
        shown = {COLOURS[colour] for colour in scene.colours}
        named = [sampler.named_colour(item, scene.style) for item in scene.items]
        shown |= {COLOURS[colour] for colour in named if colour >= 0}
        if BACKGROUNDS[scene.background] == "solid":
            shown -= {COLOURS[scene.colours[1]]} - {COLOURS[c] for c in named if c >= 0}
        assert _colours_in(text) <= shown, text


def test_a_given_colour_is_always_said(told: list[tuple[Scene, str]]) -> None:
    for scene, text in told:
        for item in scene.items:
            if item.colour >= 0:
                assert COLOURS[item.colour] in _colours_in(text), text


def test_a_caption_names_its_objects(told: list[tuple[Scene, str]]) -> None:
    for scene, text in told:
        for item in scene.items:
            forms = [form for pair in THINGS[item.thing].words for form in pair]
            assert any(re.search(rf"\b{re.escape(form)}\b", text) for form in forms), text


def test_a_caption_without_a_style_belongs_to_a_3d_picture(told: list[tuple[Scene, str]]) -> None:
    says_style = re.compile(r"\b(3D|flat|line art|line drawing|outline|pixel)\b")
    silent = [scene for scene, text in told if not says_style.search(text)]
    assert {scene.style for scene in silent} == {THREE_D}
    assert 0.25 < len(silent) / COUNT < 0.34


def test_a_caption_never_names_another_style(told: list[tuple[Scene, str]]) -> None:
    for scene, text in told:
        assert ("3D" in text) <= (scene.style == THREE_D), text
        assert bool(re.search(r"\bflat\b", text)) <= (scene.style == 1), text
        assert bool(re.search(r"\b(line|outline)\b", text)) <= (scene.style == LINE), text
        assert ("pixel" in text) <= (scene.style == PIXEL), text


def test_a_place_in_a_caption_is_the_place_of_the_object(told: list[tuple[Scene, str]]) -> None:
    said = re.compile(r"(?:on|at|in) the ((?:top|bottom)?(?: ?(?:left|right))?)\b(?! of)")
    checked = 0
    for scene, text in told:
        match = said.search(text)
        if len(scene.items) == 1 and match and match[1]:
            assert match[1] == PLACES[scene.place], text
            checked += 1
    assert checked > COUNT / 10


def test_two_objects_are_told_in_their_true_order(told: list[tuple[Scene, str]]) -> None:
    for scene, text in told:
        if len(scene.items) == 2 and not scene.is_same:
            assert scene.items[0].cx < scene.items[1].cx
            left, right = (_position(text, item.thing) for item in scene.items)
            if "right of" in text:
                assert right < left, text
            elif "left of" in text or "on the left and" in text:
                assert left < right, text


def _position(text: str, thing: int) -> int:
    found = [re.search(rf"\b{re.escape(form)}\b", text) for form, _ in THINGS[thing].words]
    return min(match.start() for match in found if match)


def test_the_number_of_equal_objects_is_said(told: list[tuple[Scene, str]]) -> None:
    for scene, text in told:
        if scene.is_same:
            assert re.search({2: r"\b(two|2)\b", 3: r"\b(three|3)\b"}[len(scene.items)], text), text


def test_articles_fit_the_next_word(told: list[tuple[Scene, str]]) -> None:
    for _, text in told:
        assert not re.search(r"\ba (?!uni)[aeiou]", text), text
        assert not re.search(r"\ban ([^aeiou]|uni)", text), text
        assert not re.search(r"\ban? (\w+ )?(scissors|sunglasses|grapes|cherries)\b", text), text


def test_captions_vary_and_stay_short(told: list[tuple[Scene, str]]) -> None:
    texts = Counter(text for _, text in told)
    assert len(texts) > 0.95 * COUNT
    ids = Words()
    assert all(ids.fits(text) for text in texts)


def test_a_complete_caption_leaves_out_nothing(sampler: Sampler) -> None:
    for scene, text in held_out_captions(sampler, 300):
        assert COLOURS[scene.colours[0]] in _colours_in(text), text
        assert re.search(r"\b(3D|flat|line|outline|pixel)\b", text), text


def test_every_word_of_a_caption_is_in_the_word_list(told: list[tuple[Scene, str]]) -> None:
    known = set(words())
    assert {word.rstrip(",.") for _, text in told for word in text.split(" ")} <= known
