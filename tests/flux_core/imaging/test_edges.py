"""Control maps: edges white on black, sketches stretched, near things bright."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_core.errors import RequestInvalid
from flux_core.imaging.edges import (
    BFL_THRESHOLDS,
    auto_thresholds,
    canny_map,
    depth_to_map,
    sketch_map,
)
from tests.flux_core.imaging.scenes import Scene, to_bytes


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.sampled_from([3, 4]), st.integers(1, 60), st.integers(1, 60))
def test_edges_are_white_on_black_in_three_equal_channels(seed, channels, height, width):
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    edges = canny_map(picture)
    assert edges.shape == (height, width, 3)
    assert set(np.unique(edges)) <= {0, 255}
    assert (edges == edges[..., :1]).all()


def test_with_bfls_thresholds_it_is_bfls_map():
    picture = to_bytes(Scene(1, 200, 300).view())
    assert np.array_equal(canny_map(picture, *BFL_THRESHOLDS)[..., 0], cv2.Canny(picture, 50, 200))


@pytest.mark.parametrize("brightness", [0.12, 0.5, 1.0])
def test_automatic_thresholds_find_the_outline_of_a_square_in_any_light(brightness):
    picture = np.full((128, 128, 3), 90 * brightness, np.float64)
    picture[32:96, 32:96] = 250 * brightness
    picture += np.random.default_rng(0).normal(0, 1.5, picture.shape)
    edges = canny_map(to_bytes(picture))[..., 0] > 0
    near = np.zeros((128, 128), bool)
    near[29:99, 29:99] = True
    near[35:93, 35:93] = False
    assert edges[near].sum() > 200
    assert edges[~near].sum() == 0


def test_a_dark_picture_is_not_all_noise_and_a_white_one_not_empty():
    rng = np.random.default_rng(0)
    assert canny_map(to_bytes(np.abs(rng.normal(0, 2, (64, 64, 3))))).max() == 0
    page = np.full((64, 64, 3), 255, np.uint8)
    page[20:40, 20:40] = 150
    assert canny_map(page).max() == 255
    low, high = auto_thresholds(page)
    assert 0 < low < high


@pytest.mark.parametrize(
    "thresholds", [(1.0, None), (None, 1.0), (9.0, 3.0), (-1.0, 3.0), (float("nan"), 3.0)]
)
def test_strange_thresholds_are_refused(thresholds):
    with pytest.raises(RequestInvalid):
        canny_map(np.zeros((9, 9, 3), np.uint8), *thresholds)


def test_a_sketch_is_bright_on_black_however_it_was_drawn():
    line = np.zeros((40, 40), bool)
    line[10:12, 5:35] = True
    on_paper = np.where(line, 40, 240).astype(np.uint8)
    on_black = np.where(line, 130, 5).astype(np.uint8)
    on_nothing = np.zeros((40, 40, 4), np.uint8)
    on_nothing[line] = (10, 10, 10, 90)
    for layer in (on_paper, np.dstack([on_black] * 3), on_nothing):
        assert np.array_equal(sketch_map(layer)[..., 1], np.where(line, 255, 0))
    for empty in (np.zeros((9, 9, 4), np.uint8), np.full((9, 9), 255, np.uint8)):
        assert sketch_map(empty).max() == 0


def test_near_is_white_whatever_the_depth_model_gives():
    metres = np.linspace(1, 50, 100)[None, :].repeat(20, axis=0)
    from_distance = depth_to_map(metres, is_near_large=False)
    from_nearness = depth_to_map((1 / metres).astype(np.float32))
    for near_left in (from_distance, from_nearness):
        assert near_left.shape == (20, 100, 3)
        assert near_left[0, 0, 0] == 255
        assert near_left[0, -1, 0] == 0
        assert (np.diff(near_left[0, :, 0].astype(int)) <= 0).all()
    assert np.abs(from_distance.astype(int) - from_nearness).max() <= 1


def test_sky_without_a_depth_is_far_and_the_size_is_free():
    metres = np.full((20, 30), 5.0)
    metres[:10] = np.inf
    metres[10:, :15] = 2.0
    seen = depth_to_map(metres, is_near_large=False, size=(60, 40))
    assert seen.shape == (40, 60, 3)
    assert seen[:15].max() <= 20
    assert seen[30:, :20].min() > 200


def test_a_wall_is_grey_and_nonsense_is_refused():
    assert (depth_to_map(np.full((5, 5), 3.0)) == 128).all()
    for nonsense in (np.full((5, 5), np.nan), np.zeros((0, 5)), np.zeros((5, 5, 3))):
        with pytest.raises(RequestInvalid):
            depth_to_map(nonsense)
