"""Pictures and masks as the model takes them, and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_core.conditioning.pixels import image_to_model, mask_to_freedom, model_to_image, padded_px
from tests.support.numerics import BACKENDS, make_backend
from tests.support.oracle import OracleBackend

SIDES = st.integers(1, 70)


@given(SIDES, SIDES, st.integers(0, 2**32 - 1))
def test_any_picture_goes_to_the_model_and_back_unchanged(width: int, height: int, seed: int) -> None:
    rgba = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    rgba[..., 3] = 255
    image = image_to_model(rgba)
    assert image.shape == (1, padded_px(height), padded_px(width), 3)
    assert image.shape[1] % 16 == image.shape[2] % 16 == 0
    assert np.array_equal(model_to_image(image, width, height), rgba[..., :3])


def test_transparent_pixels_are_white_paper() -> None:
    image = image_to_model(np.zeros((16, 16, 4), dtype=np.uint8))
    assert (image == 1.0).all()


@pytest.mark.parametrize("name", [*BACKENDS, "oracle"])
def test_a_device_makes_the_same_bytes(name: str) -> None:
    backend = OracleBackend() if name == "oracle" else make_backend(name)
    image = np.random.default_rng(0).normal(0, 0.7, (1, 16, 32, 3)).astype(np.float32)
    found = backend.to_bytes(backend.from_numpy(image))
    assert found.dtype == np.uint8
    assert np.array_equal(found[0, :9, :30], model_to_image(image, 30, 9))


def test_values_beyond_the_range_are_cut_not_wrapped() -> None:
    image = np.array([[[[-3.0, 0.0, 3.0]]]], dtype=np.float32)
    assert model_to_image(image, 1, 1).tolist() == [[[0, 128, 255]]]


@given(SIDES, SIDES, st.integers(0, 2**32 - 1))
def test_the_repainted_region_always_covers_the_mask(width: int, height: int, seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    freedom = mask_to_freedom(mask)
    assert freedom.shape == (1, padded_px(height) // 8, padded_px(width) // 8, 1)
    per_pixel = freedom[0, :, :, 0].repeat(8, 0).repeat(8, 1)[:height, :width]
    assert (per_pixel >= mask / 255.0 - 1e-6).all()


def test_one_pixel_frees_one_latent() -> None:
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[17, 40] = 255
    freedom = mask_to_freedom(mask)[0, :, :, 0]
    assert freedom[2, 5] == 1.0
    assert freedom.sum() == 1.0


def test_a_mask_that_touches_the_edge_goes_on_beyond_it() -> None:
    mask = np.zeros((60, 60), dtype=np.uint8)
    mask[:, 59] = 255
    assert (mask_to_freedom(mask)[0, :, 7, 0] == 1.0).all()


def test_a_large_picture_that_several_threads_make_is_the_one_that_one_thread_makes() -> None:
    image = np.random.default_rng(0).normal(0, 0.7, (1, 656, 1040, 3)).astype(np.float32)
    whole = model_to_image(image, 1030, 650)
    for top in range(0, 650, 65):
        part = model_to_image(image[:, top : top + 65], 1030, 65)
        assert np.array_equal(whole[top : top + 65], part)
