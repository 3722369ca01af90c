"""Pictures and masks as the model takes them, and the model's picture as bytes.

The model works on sides that are multiples of 16, so a picture of any other size is continued beyond
its right and lower edge and the result is cut: nothing is ever stretched.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flux_core.models.autoencoder import SCALE_FACTOR
from flux_core.request import SIZE_MULTIPLE_PX

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_STRIP_ROWS = 64
_MAX_THREADS = 8
_LARGE_VALUES = 2**20  # below, starting threads takes longer than converting


def padded_px(side_px: int) -> int:
    """The next multiple of 16."""
    return -(-side_px // SIZE_MULTIPLE_PX) * SIZE_MULTIPLE_PX


def image_to_model(rgba: Bytes) -> Floats:
    """[H, W, 4] straight-alpha bytes, laid on white -> [1, H', W', 3] in [-1, 1]; H', W' padded."""
    values = rgba.astype(np.float32) / 255.0
    alpha = values[..., 3:]
    rgb = values[..., :3] * alpha + (1.0 - alpha)
    return _continue_edges(rgb * 2.0 - 1.0)[None]


def on_white(rgba: Bytes) -> Image.Image:
    """[H, W, 4] straight-alpha bytes, laid on white, as a Pillow picture in RGB."""
    image = Image.fromarray(rgba)
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def mask_to_freedom(mask: Bytes) -> Floats:
    """[H, W] bytes, 255 = repaint -> [1, H'/8, W'/8, 1] in [0, 1].

    Each latent takes the largest of its 8x8 pixels, so what is repainted always covers the mask.
    """
    padded = _continue_edges(mask[..., None])
    height, width = padded.shape[0] // SCALE_FACTOR, padded.shape[1] // SCALE_FACTOR
    cells = padded.reshape(height, SCALE_FACTOR, width, SCALE_FACTOR).max(axis=(1, 3))
    return (cells.astype(np.float32) / 255.0)[None, ..., None]


def mask_to_model(mask: Bytes) -> Floats:
    """[H, W] bytes -> [1, H', W', 1], 1 where anything is to be repainted, else 0; H', W' padded."""
    return (_continue_edges(mask[..., None]) > 0).astype(np.float32)[None]


def padded_mask(mask: Bytes) -> Floats:
    """[H, W] bytes -> [H', W'] in [0, 1]; H', W' padded."""
    return _continue_edges(mask[..., None])[..., 0].astype(np.float32) / 255.0


def resized(
    rgba: Bytes, width_px: int, height_px: int, box: tuple[float, float, float, float] | None = None
) -> Bytes:
    """[H, W, 4], or its part `box` (left, top, right, bottom) -> [height_px, width_px, 4], Lanczos."""
    if rgba.shape[:2] == (height_px, width_px):
        return rgba
    image = Image.fromarray(rgba).convert("RGBa")  # else what lies under transparent pixels bleeds out
    return np.array(image.resize((width_px, height_px), Image.Resampling.LANCZOS, box=box).convert("RGBA"))


def model_to_image(image: Floats, width_px: int, height_px: int) -> Bytes:
    """[1, H', W', 3] about [-1, 1] -> [height_px, width_px, 3] bytes; a large picture in several threads."""
    cut = image[0, :height_px, :width_px]
    out = np.empty(cut.shape, np.uint8)

    def convert(start: int) -> None:
        part = slice(start, start + _STRIP_ROWS)
        values = np.clip(cut[part], -1.0, 1.0)
        values *= 0.5
        values += 0.5
        values *= 255.0
        out[part] = np.round(values, out=values)

    starts = range(0, height_px, _STRIP_ROWS)
    if cut.size < _LARGE_VALUES:
        for start in starts:
            convert(start)
        return out
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_THREADS, len(starts))) as pool:
        list(pool.map(convert, starts))
    return out


def _continue_edges(x: NDArray[Any]) -> NDArray[Any]:
    """[H, W, C] -> [H', W', C], the last row and column repeated."""
    height, width = x.shape[:2]
    return np.pad(x, ((0, padded_px(height) - height), (0, padded_px(width) - width), (0, 0)), mode="edge")
