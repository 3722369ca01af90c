"""Pictures as the helpers take and give them: RGB in, masks and depth maps out.

Everything here is an array of NumPy or a picture of Pillow; sizes are in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from flux_core.looking import Box

Pixels = NDArray[np.uint8]


def on_white(pixels: Pixels) -> Pixels:
    """[H, W, 4] straight RGBA -> [H, W, 3]: what a person sees where the paper is white."""
    alpha = pixels[..., 3:].astype(np.float32) / 255.0
    if alpha.min() == 1.0:
        return np.ascontiguousarray(pixels[..., :3])
    mixed = pixels[..., :3].astype(np.float32) * alpha + 255.0 * (1.0 - alpha)
    return np.rint(mixed).astype(np.uint8)


def as_image(pixels: Pixels) -> Image.Image:
    """[H, W, 4] straight RGBA as an RGB picture of Pillow."""
    return Image.fromarray(on_white(pixels))


def as_tensor(rgb: Pixels, mean: Sequence[float], std: Sequence[float], device: torch.device) -> Tensor:
    """[H, W, 3] -> [1, 3, H, W] float32, each channel (x / 255 - mean) / std."""
    x = torch.from_numpy(rgb).to(device).permute(2, 0, 1)[None].float() / 255.0
    shape = (1, 3, 1, 1)
    return (x - x.new_tensor(mean).reshape(shape)) / x.new_tensor(std).reshape(shape)


def from_polygons(polygons: Sequence[Sequence[float]], width_px: int, height_px: int) -> Pixels:
    """Polygons, each x, y, x, y, ..., as a mask [H, W], 255 inside; fewer than three points are nothing."""
    image = Image.new("L", (width_px, height_px))
    draw = ImageDraw.Draw(image)
    for polygon in polygons:
        points = list(zip(polygon[0::2], polygon[1::2], strict=True))
        if len(points) >= 3:
            draw.polygon(points, fill=255, outline=255)
    return np.array(image)


def box_around(mask: Pixels) -> Box | None:
    """The smallest box that holds every pixel of a mask that is not 0; None if there is none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return Box(
        left_px=int(columns[0]),
        top_px=int(rows[0]),
        right_px=int(columns[-1]) + 1,
        bottom_px=int(rows[-1]) + 1,
    )


def box_within(edges: Sequence[float], width_px: int, height_px: int) -> Box | None:
    """Left, top, right, bottom cut to a picture; None if nothing of it lies inside."""
    left, right = sorted((edges[0], edges[2]))
    top, bottom = sorted((edges[1], edges[3]))
    left, top = max(0, int(left)), max(0, int(top))
    right, bottom = min(width_px, int(np.ceil(right))), min(height_px, int(np.ceil(bottom)))
    if right <= left or bottom <= top:
        return None
    return Box(left_px=left, top_px=top, right_px=right, bottom_px=bottom)


def nearness_map(nearness: NDArray[np.float32]) -> Pixels:
    """[H, W], larger is nearer, as grey from 0 (farthest) to 255 (nearest); all 0 if all is equally near."""
    low, high = float(nearness.min()), float(nearness.max())
    if not high > low:
        return np.zeros(nearness.shape, np.uint8)
    return np.rint((nearness - low) * (255.0 / (high - low))).astype(np.uint8)
