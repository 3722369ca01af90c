"""A look at a picture that is still latents, for the price of a 17x3 matrix product.

Each latent becomes one pixel through a linear map fitted for the autoencoder in use; the map lies
beside the model (`latent_rgb.json`) or is fitted from the decoder itself in a fraction of a second.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import Corrupt
from flux_core.imaging import codec
from flux_core.models.autoencoder import SCALE_FACTOR
from flux_core.sampling.noise import seeded_noise

FILE_NAME = "latent_rgb.json"
MAX_SIDE_PX = 192
_QUALITY = 75
_FIT_PATCHES = 8  # a side; 64 colours for 17 unknowns
_FIT_PATCH_LATENTS = 2

Floats = NDArray[np.float32]


def to_webp_base64(latents: Floats, matrix: Floats) -> str:
    """A small picture of latents.

    Args:
        latents: [h, w, C] as the transformer sees them.
        matrix: [C + 1, 3], the last row is added; gives RGB in [-1, 1].
    """
    stride = -(-max(latents.shape[:2]) // MAX_SIDE_PX)
    rgb = latents[::stride, ::stride] @ matrix[:-1] + matrix[-1]
    pixels = np.clip((np.nan_to_num(rgb) + 1.0) * 127.5 + 0.5, 0, 255).astype(np.uint8)
    return _webp(pixels)


def picture_to_webp_base64(pixels: NDArray[np.uint8]) -> str:
    """A small picture of a decoded one, [H, W, 3] bytes."""
    stride = -(-max(pixels.shape[:2]) // MAX_SIDE_PX)
    return _webp(np.ascontiguousarray(pixels[::stride, ::stride]))


def _webp(pixels: NDArray[np.uint8]) -> str:
    return base64.b64encode(codec.encode(pixels, "webp", quality=_QUALITY)).decode("ascii")


def fit(latents: Floats, pixels: Floats) -> Floats:
    """Least-squares map from latents [N, C] to RGB in [-1, 1] [N, 3]; returns [C + 1, 3]."""
    rows = np.concatenate([latents, np.ones_like(latents[:, :1])], axis=1)
    solution, *_ = np.linalg.lstsq(rows.astype(np.float64), pixels.astype(np.float64), rcond=None)
    return solution.astype(np.float32)


def fit_from_decoder(decode: Callable[[Floats], Floats], channels: int) -> Floats:
    """Fits the map to what a decoder makes of patches of random latents.

    Args:
        decode: Latents [1, h, w, channels] -> image [1, 8h, 8w, 3] in [-1, 1].
        channels: Of the latents.

    Returns:
        [channels + 1, 3].
    """
    patches = seeded_noise(0, _FIT_PATCHES, _FIT_PATCHES, channels)
    grid = patches.repeat(_FIT_PATCH_LATENTS, axis=1).repeat(_FIT_PATCH_LATENTS, axis=2)
    image = decode(grid)[0]
    size = _FIT_PATCH_LATENTS * SCALE_FACTOR
    means = image.reshape(_FIT_PATCHES, size, _FIT_PATCHES, size, 3).mean(axis=(1, 3))
    return fit(patches.reshape(-1, channels), np.clip(means, -1.0, 1.0).reshape(-1, 3))


def read(folder: Path, channels: int) -> Floats | None:
    """The map stored beside a model, [channels + 1, 3]; None if there is none.

    The file is a JSON list of channels + 1 rows of three numbers.

    Raises:
        Corrupt: The file is not such a list.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    try:
        matrix = np.array(json.loads(path.read_bytes()), dtype=np.float32)
        if matrix.shape != (channels + 1, 3) or not np.isfinite(matrix).all():
            raise ValueError("wrong shape or values")
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as err:
        raise Corrupt(
            f"{path} is not a list of {channels + 1} rows of three numbers.",
            "Delete it; a map is then made when it is needed.",
        ) from err
    return matrix


def write(folder: Path, matrix: Floats) -> None:
    """Stores a map beside a model, as `read` wants it."""
    rows = [[round(float(value), 6) for value in row] for row in matrix]
    (folder / FILE_NAME).write_text(json.dumps(rows, indent=1) + "\n")
