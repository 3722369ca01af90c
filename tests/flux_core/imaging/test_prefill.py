"""What lies under a mask beforehand: of the surroundings or neutral, and never a byte outside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_core.errors import RequestInvalid
from flux_core.imaging import masks
from flux_core.imaging.inpaint import extend
from flux_core.imaging.prefill import Prefill, prefill
from tests.flux_core.imaging.scenes import Scene, to_bytes

kinds = st.sampled_from(list(Prefill))


@settings(max_examples=120, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), kinds, st.integers(0, 12), st.integers(0, 99))
def test_outside_the_mask_no_byte_changes(height, width, kind, falloff, seed):
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    y, x = rng.integers(0, height), rng.integers(0, width)
    mask[y : y + rng.integers(1, 40), x : x + rng.integers(1, 40)] = rng.choice([255, 90, masks.MASK_FLOOR])
    before = picture.copy()
    filled = prefill(picture, mask, kind, falloff, seed)
    assert np.array_equal(filled[mask == 0], before[mask == 0])
    assert np.array_equal(picture, before)
    assert np.array_equal(filled, prefill(picture, mask, kind, falloff, seed))


def masked_scene() -> tuple[np.ndarray, np.ndarray]:
    picture = to_bytes(Scene(2, 160, 200, 12).view())
    mask = np.zeros((160, 200), np.uint8)
    mask[50:110, 60:140] = 255
    return picture, mask


def test_what_was_there_is_gone_but_for_keep():
    picture, mask = masked_scene()
    other = picture.copy()
    other[mask > 0] = (255, 0, 255)
    for kind in Prefill:
        is_same = np.array_equal(prefill(picture, mask, kind), prefill(other, mask, kind))
        assert is_same == (kind is not Prefill.KEEP), kind


def test_tones_meet_the_surroundings_without_a_step():
    y, x = np.mgrid[0:160, 0:200]
    ramp = np.dstack([40 + x, 60 + y, 100 + 0 * x]).astype(np.uint8)
    _, mask = masked_scene()
    for kind in (Prefill.BLUR, Prefill.TELEA):
        apart = np.abs(prefill(ramp, mask, kind).astype(int) - ramp)
        assert apart[50, 60:140].max() <= 4, kind
        assert apart.mean() < 2.5, kind


def test_telea_carries_a_line_on_and_blur_does_not():
    picture = np.full((120, 120, 3), 220, np.uint8)
    picture[56:64] = 20
    mask = np.zeros((120, 120), np.uint8)
    mask[45:75, 52:68] = 255
    middle = (slice(58, 62), slice(59, 61))
    assert prefill(picture, mask, Prefill.TELEA)[middle].mean() < 90
    blurred = prefill(picture, mask, Prefill.BLUR)
    assert np.ptp(blurred[47:73, 60].astype(int)) < 200


def test_new_canvas_continues_the_edge_and_melts_into_its_tones():
    y, x = np.mgrid[0:100, 0:120]
    striped = np.dstack([120 + 100 * np.sign(np.sin(y / 3.0))] * 3)
    canvas, mask = extend(to_bytes(striped), 100, 0, 0, 0)
    filled = prefill(canvas, mask, Prefill.EDGE)
    assert np.abs(filled[:, 99].astype(int) - canvas[:, 100]).mean() < 4
    assert filled[20:80, 5].std() < canvas[20:80, 105].std() / 4


def test_noise_has_the_tone_around_it_and_follows_its_seed():
    picture = np.full((100, 100, 3), (60, 120, 200), np.uint8)
    mask = np.zeros((100, 100), np.uint8)
    mask[20:80, 20:80] = 255
    noisy = prefill(picture, mask, Prefill.NOISE, seed=1)
    assert np.abs(noisy[mask > 0].mean(axis=0) - (60, 120, 200)).max() < 4
    assert noisy[mask > 0].std(axis=0).min() > 25
    assert not np.array_equal(noisy, prefill(picture, mask, Prefill.NOISE, seed=2))


def test_grey_fades_in_from_the_edge_when_asked():
    picture, mask = np.full((60, 60, 3), 250, np.uint8), np.zeros((60, 60), np.uint8)
    mask[10:50, 10:50] = 255
    assert (prefill(picture, mask, Prefill.GREY)[mask > 0] == 128).all()
    soft = prefill(picture, mask, Prefill.GREY, falloff_px=9)[30, 10:31, 0].astype(int)
    assert soft[0] > 240
    assert (np.diff(soft) <= 0).all()
    assert soft[9] == 128


def test_a_picture_that_is_all_mask_becomes_neutral():
    whole = np.full((40, 40), 255, np.uint8)
    for kind in set(Prefill) - {Prefill.KEEP}:
        assert (prefill(np.zeros((40, 40, 3), np.uint8), whole, kind) == 128).all(), kind


def test_a_large_hole_is_filled_at_a_smaller_size_without_taking_up_the_old_picture():
    picture = np.full((700, 700, 3), 90, np.uint8)
    mask = np.zeros((700, 700), np.uint8)
    mask[50:650, 50:650] = 255
    picture[mask > 0] = 255
    assert (prefill(picture, mask, Prefill.TELEA)[mask > 0] == 90).all()


def test_strange_input_is_refused():
    picture, mask = masked_scene()
    for wrong in (
        (picture[:9], mask, 0),
        (picture[..., 0], mask, 0),
        (picture, mask * 0, 0),
        (picture, mask, -1),
    ):
        with pytest.raises(RequestInvalid):
            prefill(wrong[0], wrong[1], Prefill.BLUR, wrong[2])
