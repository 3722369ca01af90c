"""Sizes for edits: the nearest that the model knows, reached by one scale for both axes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_core.catalog import KONTEXT, TINY
from flux_core.errors import RequestInvalid
from flux_core.imaging.sizes import (
    KONTEXT_SIZES,
    fit,
    fit_picture,
    nearest_size,
    preferred_sizes,
    unfit_picture,
)

sides = st.integers(1, 500)


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((1920, 1080), (1392, 752)),
        ((400, 300), (1184, 880)),
        ((1000, 1000), (1024, 1024)),
        ((100, 4000), (672, 1568)),
        ((4000, 100), (1568, 672)),
    ],
)
def test_kontext_gets_the_published_size_of_nearest_proportions(size, nearest):
    assert nearest_size(*size) == nearest


@given(st.integers(1, 9000), st.integers(1, 9000))
def test_a_picture_on_its_side_gets_the_size_on_its_side(width, height):
    assert nearest_size(width, height) == nearest_size(height, width)[::-1] or width == height


@pytest.mark.parametrize("spec", [TINY, KONTEXT])
def test_every_model_gets_sizes_that_it_can_paint(spec):
    sizes = preferred_sizes(spec.working_side_px, spec.max_side_px)
    assert (spec.working_side_px, spec.working_side_px) in sizes
    for width, height in sizes:
        assert width % 16 == height % 16 == 0
        assert max(width, height) <= spec.max_side_px
        assert width * height <= spec.working_side_px**2 * 1.05
    if spec is KONTEXT:
        assert sizes == KONTEXT_SIZES


def test_a_model_twice_as_small_keeps_proportions_and_a_quarter_of_the_area():
    for width, height in preferred_sizes(512):
        assert 0.93 < width * height / 512**2 < 1.07


@settings(max_examples=80, deadline=None)
@given(sides, sides, st.sampled_from(["pad", "crop"]))
def test_both_axes_have_one_scale_and_the_picture_is_centred(width, height, how):
    size = nearest_size(width, height, 256, 256)
    fitted = fit((width, height), size, how)
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert fit_picture(picture, fitted).shape == (size[1], size[0], 3)
    seen_x, seen_y = size[0] / fitted.scale, size[1] / fitted.scale
    assert fitted.x0 == pytest.approx((width - seen_x) / 2)
    assert fitted.y0 == pytest.approx((height - seen_y) / 2)
    if how == "pad":
        assert seen_x >= width - 1e-6
        assert seen_y >= height - 1e-6
        assert unfit_picture(fit_picture(picture, fitted), fitted).shape == picture.shape
    else:
        assert seen_x <= width + 1e-6
        assert seen_y <= height + 1e-6


@pytest.mark.parametrize("size", [(300, 200), (511, 340), (200, 411), (640, 427)])
def test_there_and_back_nothing_moves(size):
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    waves = 128 + 60 * np.sin(x / 9.0) + 50 * np.sin(y / 11.0)
    picture = np.dstack([waves] * 3).astype(np.uint8)
    fitted = fit(size, nearest_size(*size, 512, 512))
    back = unfit_picture(fit_picture(picture, fitted), fitted)
    inner = (slice(4, -4), slice(4, -4), 0)
    difference = back[inner].astype(float) - picture[inner]
    for axis in (0, 1):
        slope = np.gradient(picture[..., 0].astype(float), axis=axis)[4:-4, 4:-4]
        assert abs((slope * difference).sum() / (slope**2).sum()) < 0.05
    assert np.abs(difference).mean() < 1.5


def test_what_is_missing_is_the_edge_repeated():
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[:, :50] = 200
    fitted = fit((100, 100), (256, 128))
    seen = fit_picture(picture, fitted)
    assert (seen[:, :60] == 200).all()
    assert (seen[:, -60:] == 0).all()


def test_a_cropped_reference_has_no_way_back_and_sizes_are_checked():
    with pytest.raises(ValueError, match="cropped"):
        unfit_picture(np.zeros((128, 128, 3), np.uint8), fit((200, 100), (128, 128), "crop"))
    with pytest.raises(RequestInvalid, match="3 x 3"):
        fit_picture(np.zeros((3, 3, 3), np.uint8), fit((200, 100), (128, 128)))
    with pytest.raises(RequestInvalid, match="empty"):
        nearest_size(0, 5)
