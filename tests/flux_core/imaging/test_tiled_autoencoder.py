"""The bundled model's own autoencoder, window by window: no border of a window can be seen."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backends.torch_cuda.backend import TorchBackend
from flux_core import catalog
from flux_core.catalog import TINY
from flux_core.imaging.geometry import Box
from flux_core.imaging.tiles import autoencoder_window, plan_tiling, tiled_apply
from flux_core.imaging.upscale import seam_energy
from flux_core.request import Precision
from flux_core.weights import components

RESOURCES = Path(__file__).parents[3] / "resources"
HEIGHT, WIDTH = 304, 400


def photo() -> np.ndarray:
    """[1, HEIGHT, WIDTH, 3] in [-1, 1], a detailed part of the sample picture."""
    with Image.open(RESOURCES / "samples" / "photo.png") as image:
        pixels = np.array(image.convert("RGB").resize((512, 384), Image.Resampling.LANCZOS))
    return pixels[None, :HEIGHT, :WIDTH].astype(np.float32) / 127.5 - 1.0


@pytest.mark.slow
def test_a_picture_encoded_and_decoded_in_windows_shows_no_border():
    backend = TorchBackend("cpu")
    spec, folder = catalog.locate(TINY, (RESOURCES / "models",))
    encoder = components.load_encoder(spec, folder, backend, Precision.FP32)
    decoder = components.load_decoder(spec, folder, backend, Precision.FP32)
    window, overlap = autoencoder_window(spec.working_side_px)
    picture = photo()
    parts: list[np.ndarray] = []

    def encode(part: np.ndarray) -> np.ndarray:
        return backend.to_numpy(encoder(backend.from_numpy(part)))

    def decode(part: np.ndarray) -> np.ndarray:
        parts.append(backend.to_numpy(decoder(backend.from_numpy(part))))
        return parts[-1]

    with backend.session():
        latents = encode(picture)
        tiled = tiled_apply(decode, latents, window, overlap, 8)
        whole = backend.to_numpy(decoder(backend.from_numpy(latents)))
        encoded = tiled_apply(encode, picture, 8 * window, 8 * overlap, Fraction(1, 8))
    windows = plan_tiling(HEIGHT // 8, WIDTH // 8, window, overlap, 1).windows
    assert len(windows) == len(parts) == 4
    boxes = [Box(8 * w.x0, 8 * w.y0, 8 * w.x1, 8 * w.y1) for w in windows]
    pasted = np.empty_like(whole)
    for box, part in zip(boxes, parts, strict=True):
        pasted[:, box.y0 : box.y1, box.x0 : box.x1] = part
    assert tiled.shape == whole.shape == picture.shape
    assert seam_energy(tiled[0], boxes) < 1.1
    assert seam_energy((tiled - whole)[0], boxes) < 1.1  # what tiling adds has no edge there
    assert seam_energy((pasted - whole)[0], boxes) > 1.5  # what pasting adds has
    grid = [Box(w.x0, w.y0, w.x1, w.y1) for w in windows]
    assert seam_energy((encoded - latents)[0], grid) < 1.1
    # A window's statistics are not the picture's: tones differ a little (over 37 dB measured), contents do
    # not, and either way is about as near to the picture (36.0 in windows, 37.0 dB whole).
    assert psnr_db(tiled, whole) > 35
    assert psnr_db(tiled, picture) > 35.8
    assert psnr_db(tiled, picture) > psnr_db(whole, picture) - 1.5


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    """Of pictures in [-1, 1]."""
    error = np.mean(np.square(np.clip(one, -1, 1) - np.clip(other, -1, 1)))
    return float(10 * np.log10(4 / error))
