"""What an edit changed is found, and everything else keeps its bytes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_core.errors import RequestInvalid
from flux_core.imaging.change_mask import change_mask, keep_unchanged, settle_edit
from tests.flux_core.imaging.scenes import Scene, to_bytes


def as_a_model_returns(picture: np.ndarray, seed: int) -> np.ndarray:
    """A little softer, noisy, with a tone that drifts over the picture."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    drift = np.dstack([6 * x / width - 2, -4 * y / height, 3 + 2 * x / width])
    noise = np.random.default_rng(seed).normal(0, 2.5, picture.shape)
    return to_bytes(cv2.GaussianBlur(picture, (0, 0), 0.6) * 1.02 + drift + noise)


def edit(seed: int, dx: float = 0.0, dy: float = 0.0, scale: float = 1.0):
    """(source, edited, where they really differ)."""
    rng = np.random.default_rng(seed)
    height, width = [(320, 320), (256, 416)][seed % 2]
    scene = Scene(seed, height, width)
    before = scene.view()
    scene.with_disc(seed, tuple(rng.uniform(0.3, 0.6, 2)), rng.uniform(0.08, 0.18))
    differs = np.abs(scene.view() - before).max(axis=2) > 16
    source = to_bytes(before + rng.normal(0, 2, before.shape))
    return source, as_a_model_returns(scene.view(dx, dy, scale), seed), differs


@pytest.mark.parametrize("seed", range(6))
def test_a_known_edit_is_covered_and_little_else(seed):
    source, edited, differs = edit(seed)
    mask = change_mask(source, edited)
    far = cv2.dilate(differs.astype(np.uint8), np.ones((25, 25))) == 0
    assert (mask[differs] > 0).mean() >= 0.95
    assert (mask[far] > 0).mean() < 0.01


@pytest.mark.parametrize("seed", range(4))
def test_an_edit_that_came_back_shifted_and_scaled_is_settled(seed):
    source, edited, differs = edit(seed, 2.3, -1.7, 1.008)
    settled = settle_edit(source, edited)
    far = cv2.dilate(differs.astype(np.uint8), np.ones((25, 25))) == 0
    assert settled.registration.is_sure
    assert (settled.mask[differs] > 0).mean() >= 0.95
    assert (settled.mask[far] > 0).mean() < 0.02
    assert np.array_equal(settled.pixels[settled.mask == 0], source[settled.mask == 0])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([3, 4]), st.integers(0, 99))
def test_outside_the_mask_the_bytes_are_the_sources(height, width, channels, seed):
    rng = np.random.default_rng(seed)
    source = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    edited = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = rng.choice(np.array([0, 0, 40, 255], np.uint8), (height, width))
    kept = keep_unchanged(source, edited, mask)
    assert np.array_equal(kept[mask == 0], source[mask == 0])
    assert np.array_equal(kept[mask == 255][:, :3], edited[mask == 255])


def test_colours_at_the_rim_of_an_edit_are_the_sources():
    source, edited, _ = edit(0)
    tinted = to_bytes(edited.astype(np.float32) + (9.0, -7.0, 5.0))
    settled = settle_edit(source, tinted)
    rim = (settled.mask > 0) & (settled.mask < 60)
    assert rim.any()
    apart = np.abs(settled.pixels[rim].astype(int) - source[rim]).mean()
    assert apart < np.abs(tinted[rim].astype(int) - source[rim]).mean() / 2


def test_what_changed_nothing_has_an_empty_mask():
    source = to_bytes(Scene(3, 256, 320).view())
    assert not change_mask(source, source).any()
    assert not change_mask(source, as_a_model_returns(source.astype(np.float32), 1)).any()
    assert np.array_equal(settle_edit(source, source).pixels, source)


@pytest.mark.parametrize("seed", range(3))
def test_with_its_round_trip_a_weak_autoencoder_makes_no_false_changes(seed):
    scene = Scene(seed, 256, 320)
    source = to_bytes(scene.view())
    scene.with_disc(seed, (0.5, 0.4), 0.12)
    differs = np.abs(scene.view() - source).max(axis=2) > 16

    def coded(picture: np.ndarray) -> np.ndarray:
        """Softer, and ringing along edges."""
        soft = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 2.5)
        return to_bytes(soft + 0.7 * (soft - cv2.GaussianBlur(soft, (0, 0), 4)))

    far = cv2.dilate(differs.astype(np.uint8), np.ones((31, 31))) == 0
    alone = change_mask(source, coded(scene.view()))
    beside = change_mask(source, coded(scene.view()), round_trip=coded(source))
    assert (beside[differs] > 0).mean() >= 0.95
    assert (beside[far] > 0).mean() < 0.01
    assert (beside[far] > 0).mean() < (alone[far] > 0).mean()


def test_specks_are_no_change():
    source = to_bytes(Scene(3, 256, 320).view())
    edited = source.copy()
    edited[100:103, 50:53] = 255 - edited[100:103, 50:53]
    assert not change_mask(source, edited).any()


def test_a_picture_that_is_new_everywhere_is_taken_as_a_whole():
    source, other = (to_bytes(Scene(seed, 256, 320).view()) for seed in (5, 900))
    assert (change_mask(source, other) > 0).mean() > 0.4


def test_sizes_must_agree():
    with pytest.raises(RequestInvalid, match="30 x 20"):
        change_mask(np.zeros((20, 30, 3), np.uint8), np.zeros((20, 31, 3), np.uint8))
    with pytest.raises(RequestInvalid):
        keep_unchanged(*[np.zeros((9, 9, 3), np.uint8)] * 2, np.zeros((9, 8), np.uint8))


def test_a_new_background_is_a_change_however_much_of_the_picture_it_is():
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:256, :256]
    thing = np.hypot(y - 128, x - 128) < 60
    source = np.full((256, 256, 3), (20, 80, 210), float)
    edited = np.full((256, 256, 3), (250, 210, 50), float)
    shading = 200 - 0.4 * (y + x)[thing]
    for picture in (source, edited):
        picture[thing] = np.stack([shading, 0.3 * shading, 0.2 * shading], axis=1)
    source, edited = (to_bytes(each + rng.normal(0, 1, each.shape)) for each in (source, edited))
    settled = settle_edit(source, edited)
    inner = np.hypot(y - 128, x - 128) < 45
    assert (settled.mask[~thing] == 255).mean() > 0.97
    assert (settled.mask[inner] > 0).mean() < 0.02
    assert np.abs(settled.pixels[~thing].astype(int) - (250, 210, 50)).mean() < 6
