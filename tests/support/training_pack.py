"""A pack of plain discs and rings, for tests of scenes and composing that must not fetch drawings."""

from __future__ import annotations

import numpy as np

from backends.torch_cuda.training.data.objects import THINGS
from backends.torch_cuda.training.data.pack import Pack, SpriteInfo
from backends.torch_cuda.training.data.palette import PALETTE, name_of

STYLES = ("3d", "flat", "line", "pixel")
SIDE_PX = 64


def disc_pack() -> Pack:
    """Every object is a disc in its own colour, or brown; shaded in 3D, a ring as line art."""
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    away = np.hypot(rows - 31.5, columns - 31.5)
    shade = np.clip(1.05 - 0.25 * (rows + columns) / (2 * SIDE_PX), 0, 1)[..., None]
    sprites: list[np.ndarray] = []
    infos: list[SpriteInfo] = []
    for index, thing in enumerate(THINGS):
        for style, style_name in enumerate(STYLES):
            colour = "black" if style_name == "line" else thing.colour or "brown"
            rgb = np.broadcast_to(np.array(PALETTE[colour], float), (SIDE_PX, SIDE_PX, 3))
            rgb = rgb * shade if style_name == "3d" else rgb
            shape = (away < 28) & ((away > 20) | (style_name != "line"))
            sprites.append(np.dstack([rgb, shape * 255.0]).round().astype(np.uint8) * shape[..., None])
            reference = 1.0 if style_name == "line" else _light(np.median(rgb[shape], axis=0) / 255)
            measured = name_of(np.array(PALETTE[colour]) / 255)
            infos.append(SpriteInfo(index, style, (4, 4, 60, 60), reference, measured, 1.0))
    stacked = np.stack(sprites).astype(np.uint8)
    photos = (np.zeros((272, 300, 3), np.uint8),)
    return Pack(
        tuple(thing.name for thing in THINGS), STYLES, stacked, stacked[..., 3].copy(), tuple(infos), photos
    )


def _light(rgb: np.ndarray) -> float:
    return float(0.5 * (rgb @ np.array([0.299, 0.587, 0.114])) + 0.5 * rgb.max())
