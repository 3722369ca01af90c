"""An edited picture finds its way back onto its source, or stays where it is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from flux_core.errors import RequestInvalid
from flux_core.imaging.registration import Registration, lay_back, register
from tests.flux_core.imaging.scenes import Scene, to_bytes


def corner_error_px(found: Registration, dx: float, dy: float, scale: float, size: tuple[int, int]) -> float:
    """How far off the worst corner of the picture would lie."""
    height, width = size
    return max(
        float(
            np.hypot(
                found.dx_px - dx + (found.scale - scale) * right * width / 2,
                found.dy_px - dy + (found.scale - scale) * down * height / 2,
            )
        )
        for right, down in itertools.product((-1, 1), repeat=2)
    )


def put_another_picture(picture: np.ndarray, share: float, seed: int) -> None:
    """Replaces a rectangle of this share of the area by another scene."""
    rng = np.random.default_rng(seed)
    height, width = picture.shape[:2]
    tall, wide = int(height * share**0.5), int(width * share**0.5)
    y, x = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
    picture[y : y + tall, x : x + wide] = Scene(seed + 1000, height, width, 20).view()[:tall, :wide]


@pytest.mark.parametrize("seed", range(8))
def test_shift_and_scale_are_found_though_30_percent_of_the_picture_changed(seed):
    rng = np.random.default_rng(seed)
    height, width = [(256, 256), (384, 512), (512, 384), (256, 512)][seed % 4]
    scene = Scene(seed, height, width)
    dx, dy, scale = (*rng.uniform(-0.008, 0.008, 2) * width, 1 + rng.uniform(-0.02, 0.02))
    edited = scene.view(dx, dy, scale) * rng.uniform(0.9, 1.1) + rng.uniform(-10, 10)
    edited += rng.normal(0, 3, edited.shape)
    put_another_picture(edited, 0.3, seed)
    found = register(to_bytes(scene.view()), to_bytes(edited))
    assert found.is_sure
    assert found.confidence > 0.5
    assert corner_error_px(found, dx, dy, scale, (height, width)) < 0.15


def test_a_picture_moved_at_a_megapixel_is_found_too():
    scene = Scene(77, 880, 1184)
    found = register(to_bytes(scene.view()), to_bytes(scene.view(-9.3, 6.1, 0.985)))
    assert corner_error_px(found, -9.3, 6.1, 0.985, (880, 1184)) < 0.15


@pytest.mark.parametrize("seed", range(4))
def test_a_wholly_different_picture_stays_where_it_is(seed):
    one, other = (to_bytes(Scene(seed + k, 320, 384).view()) for k in (0, 500))
    found = register(one, other)
    assert not found.is_sure
    assert (found.dx_px, found.dy_px, found.scale) == (0.0, 0.0, 1.0)
    assert found.confidence < 0.3
    assert lay_back(other, found) is other


@pytest.mark.parametrize("kind", ["flat", "stripes", "noise", "tiny", "dot"])
def test_pictures_that_say_nothing_about_their_place_stay_there(kind):
    y, x = np.mgrid[0:256, 0:256]
    pictures = {
        "flat": np.full((256, 256), 90.0),
        "stripes": 128 + 100 * np.sin(x / 7.0) + 0 * y,
        "noise": np.random.default_rng(0).uniform(0, 255, (256, 256)),
        "tiny": np.array([[5.0]]),
        "dot": np.where((x == 100) & (y == 100), 255.0, 20.0),
    }
    source = to_bytes(pictures[kind])
    other = to_bytes(np.random.default_rng(1).uniform(0, 255, source.shape)) if kind == "noise" else source
    assert not register(source, other).is_sure


def test_laying_back_restores_the_source():
    scene = Scene(4, 300, 400)
    source, edited = to_bytes(scene.view()), to_bytes(scene.view(3.4, -2.2, 1.012))
    back = lay_back(edited, register(source, edited))
    inner = (slice(12, -12), slice(12, -12))
    before = np.abs(edited[inner].astype(int) - source[inner]).mean()
    after = np.abs(back[inner].astype(int) - source[inner]).mean()
    assert after < 1.0 < 4.0 < before


def test_a_picture_that_has_hardly_moved_keeps_its_bytes():
    source = to_bytes(Scene(4, 300, 400).view())
    found = register(source, source)
    assert found.is_sure
    assert found.confidence > 0.8
    assert lay_back(source, found) is source


def test_pictures_of_two_sizes_are_refused():
    with pytest.raises(RequestInvalid, match="30 x 20 and 30 x 21"):
        register(np.zeros((20, 30), np.uint8), np.zeros((21, 30), np.uint8))
