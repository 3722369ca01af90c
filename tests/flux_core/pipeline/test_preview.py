"""The cheap look at latents."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from flux_core.errors import Corrupt
from flux_core.imaging import codec
from flux_core.sampling import preview


def decoded(webp_base64: str) -> np.ndarray:
    return codec.decode(base64.b64decode(webp_base64))


def linear_decoder(matrix: np.ndarray):
    def decode(latents: np.ndarray) -> np.ndarray:
        image = latents @ matrix[:-1] + matrix[-1]
        return image.repeat(8, axis=1).repeat(8, axis=2)

    return decode


def test_a_linear_autoencoder_is_fitted_exactly() -> None:
    matrix = np.random.default_rng(0).normal(0, 0.02, (17, 3)).astype(np.float32)
    fitted = preview.fit_from_decoder(linear_decoder(matrix), 16)
    assert np.allclose(fitted, matrix, atol=1e-5)


def test_a_preview_has_a_pixel_for_each_latent() -> None:
    matrix = np.zeros((17, 3), dtype=np.float32)
    matrix[-1] = (1.0, 0.0, -1.0)
    picture = decoded(preview.to_webp_base64(np.zeros((9, 13, 16), np.float32), matrix))
    assert picture.shape == (9, 13, 4)
    assert np.abs(picture[4, 6, :3].astype(int) - (255, 128, 0)).max() < 12


def test_a_preview_of_a_huge_picture_stays_small() -> None:
    text = preview.to_webp_base64(np.zeros((512, 256, 16), np.float32), np.zeros((17, 3), np.float32))
    assert max(decoded(text).shape) <= preview.MAX_SIDE_PX


def test_a_preview_of_broken_latents_is_still_a_picture() -> None:
    latents = np.full((8, 8, 16), np.nan, np.float32)
    assert decoded(preview.to_webp_base64(latents, np.ones((17, 3), np.float32))).shape == (8, 8, 4)


def test_a_stored_map_comes_back(tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).normal(size=(17, 3)).astype(np.float32)
    preview.write(tmp_path, matrix)
    stored = preview.read(tmp_path, 16)
    assert stored is not None
    assert np.allclose(stored, matrix, atol=1e-5)


def test_a_model_without_a_map_has_none(tmp_path: Path) -> None:
    assert preview.read(tmp_path, 16) is None


@pytest.mark.parametrize(
    "content",
    ["", "{", "null", "[[1, 2, 3]]", json.dumps([["a", 1, 2]] * 17), "[NaN]", "[" * 10**5, f"[[{9**999}]]"],
)
def test_a_damaged_map_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / preview.FILE_NAME).write_text(content)
    with pytest.raises(Corrupt, match=preview.FILE_NAME):
        preview.read(tmp_path, 16)
