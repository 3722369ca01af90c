"""An intent and a person's words become settings: every row, and what follows from it."""

from __future__ import annotations

import numpy as np
import pytest

from flux_core.errors import RequestInvalid
from flux_core.imaging import masks
from flux_core.imaging.inpaint import InpaintSettings, plan_inpaint
from flux_core.imaging.intents import (
    INTENTS,
    Intent,
    inpaint_settings,
    mask_for,
    row_of,
    settings_for,
)
from flux_core.imaging.prefill import Prefill

BASE = InpaintSettings(working_side_px=256, max_side_px=256)


def disc(size: int = 300, radius: int = 60) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size] - size // 2
    return np.where(x**2 + y**2 < radius**2, np.uint8(255), np.uint8(0))


def test_every_intent_has_one_row():
    assert [row.intent for row in INTENTS] == list(Intent)
    for row in INTENTS:
        assert 0 < row.strength <= 1


@pytest.mark.parametrize(
    ("intent", "prefill", "strength"),
    [
        (Intent.FILL, Prefill.BLUR, 1.0),
        (Intent.EXPAND, Prefill.EDGE, 0.95),
        (Intent.ADD, Prefill.GREY, 1.0),
        (Intent.REMOVE, Prefill.TELEA, 0.9),
        (Intent.REPLACE_BACKGROUND, Prefill.GREY, 1.0),
    ],
)
def test_the_table_stands_as_documented(intent, prefill, strength):
    row = row_of(intent)
    assert (row.prefill, row.strength) == (prefill, strength)
    assert settings_for(intent, "x", has_fill_inputs=True).strength == 1.0
    assert settings_for(intent, "x").strength == strength


def test_words_are_kept_and_completed():
    assert settings_for(Intent.FILL, "  a red\napple. ").prompt == "a red apple."
    assert settings_for(Intent.ADD, "a cat").prompt == "a cat"
    assert settings_for(Intent.EXPAND, "a beach.").prompt.startswith("a beach, the scene goes on")
    assert settings_for(Intent.REMOVE, "grass").prompt.startswith("grass, an empty place")
    assert settings_for(Intent.REPLACE_BACKGROUND, "").prompt.startswith("a plain")
    assert settings_for(Intent.REMOVE, " ").prompt.startswith("an empty place")
    assert settings_for(Intent.FILL, "{prompt} {0}").prompt == "{prompt} {0}"


def test_guidance_is_the_models_own_but_where_nothing_was_said_to_an_undistilled_one():
    assert settings_for(Intent.FILL, "", is_guidance_distilled=False).guidance == 1.0
    assert settings_for(Intent.FILL, "").guidance is None
    assert settings_for(Intent.FILL, "a cat", is_guidance_distilled=False).guidance is None
    assert settings_for(Intent.REMOVE, "", is_guidance_distilled=False).guidance is None


def test_a_background_is_what_was_not_marked():
    mask = disc()
    assert np.array_equal(mask_for(Intent.REPLACE_BACKGROUND, mask), 255 - mask)
    assert mask_for(Intent.FILL, mask) is mask
    with pytest.raises(RequestInvalid, match="whole picture"):
        mask_for(Intent.REPLACE_BACKGROUND, np.full((9, 9), 255, np.uint8))
    with pytest.raises(RequestInvalid):
        mask_for(Intent.REPLACE_BACKGROUND, np.zeros((9, 9), np.uint8))


@pytest.mark.parametrize("intent", list(Intent))
def test_settings_grow_with_the_mask_and_make_a_plan(intent):
    small, large = (
        inpaint_settings(intent, mask_for(intent, disc(300, radius)), BASE) for radius in (12, 120)
    )
    row = row_of(intent)
    assert small.grow_px >= row.grow_px
    assert large.grow_px >= small.grow_px
    assert large.feather_px >= small.feather_px
    assert large.working_side_px == 256
    plan = plan_inpaint(mask_for(intent, disc()), inpaint_settings(intent, mask_for(intent, disc()), BASE))
    assert plan.alpha.max() == 255


def test_a_removal_covers_the_rim_of_the_thing_in_full():
    mask = disc()
    plan = plan_inpaint(mask, inpaint_settings(Intent.REMOVE, mask, BASE))
    shown = np.zeros(mask.shape, np.uint8)
    shown[plan.core.y0 : plan.core.y1, plan.core.x0 : plan.core.x1] = plan.alpha
    assert shown[mask > 0].min() > 60
    assert (shown > 0).sum() > (mask > 0).sum()


def test_a_hair_thin_or_endless_mask_still_gives_possible_settings():
    hair = np.zeros((200, 3000), np.uint8)
    hair[100, 5:-5] = 255
    for intent in (Intent.FILL, Intent.EXPAND, Intent.REMOVE):
        chosen = inpaint_settings(intent, hair, BASE)
        assert chosen.grow_px <= masks.MAX_GROW_PX
        assert chosen.feather_px <= max(chosen.grow_px, 1)
        assert plan_inpaint(hair, chosen).alpha.max() == 255
