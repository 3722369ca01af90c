"""Paints photo.png, the picture that `flowbrush demo` starts from: a table by a lake at sunset.

It is computed, so it belongs to this project and needs no licence but ours. Run it from the root of the
repository: `python resources/samples/make_photo.py`. The same numbers come out every time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flux_core.imaging.codec import encode_png
from flux_core.storage import write_atomically

WIDTH, HEIGHT = 1024, 768
HORIZON, TABLE = 0.46, 0.60  # shares of the height where the lake and the table begin
SUN = (0.43, 0.325)

Floats = NDArray[np.float64]


def smooth_noise(rng: np.random.Generator, rows: int, columns: int) -> Floats:
    """Soft noise about 0 over the whole picture, `rows` x `columns` bumps, at most 1 in size."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (rows, columns)).astype(np.float32))
    return np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float64)


def clouds(rng: np.random.Generator, rows: int, columns: int) -> Floats:
    """Noise of several sizes, wide rather than high."""
    return sum(smooth_noise(rng, rows * 2**i, columns * 2**i) / 2**i for i in range(5))


def mix(a: Floats, b: Floats, share: Floats) -> Floats:
    """`a` where share is 0, `b` where it is 1."""
    share = np.clip(share, 0, 1)[..., None]
    return a * (1 - share) + b * share


def ramp(at: Floats, *stops: tuple[float, tuple[int, int, int]]) -> Floats:
    """Colours along `at`, [H, W] -> [H, W, 3]."""
    places = [place for place, _ in stops]
    return np.stack([np.interp(at, places, [rgb[c] for _, rgb in stops]) for c in range(3)], axis=-1)


def paint() -> NDArray[np.uint8]:
    """The picture, [768, 1024, 3] sRGB."""
    rng = np.random.default_rng(2024)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    y, x = (y + 0.5) / HEIGHT, (x + 0.5) / WIDTH
    sun = np.hypot(x - SUN[0], (y - SUN[1]) * HEIGHT / WIDTH)

    sky = ramp(
        y, (0.0, (66, 84, 138)), (0.2, (160, 124, 150)), (0.36, (244, 164, 110)), (0.46, (255, 206, 140))
    )
    veil = clouds(rng, 5, 3) + 0.5 * np.sin(y * 40)
    sky = mix(sky, np.full(3, 1.0) * (255, 190, 150), 0.35 * np.clip(veil - 0.15, 0, 1) * (1.2 - y))
    sky = mix(sky, np.full(3, 1.0) * (255, 240, 200), np.exp(-((sun / 0.11) ** 2)) * 0.85)
    sky = mix(sky, np.full(3, 1.0) * (255, 250, 230), (0.032 - sun) * 300)

    scene = sky
    ridges = (
        (0.37, 0.050, (150, 118, 140), 4),
        (0.41, 0.035, (104, 92, 122), 7),
        (0.445, 0.02, (56, 62, 82), 14),
    )
    for height, rise, colour, bumps in ridges:
        outline = height + rise * smooth_noise(rng, 2, bumps)[0] + 0.0025 * smooth_noise(rng, 2, 90)[0]
        haze = mix(np.full((HEIGHT, WIDTH, 3), 1.0) * colour, sky, 0.2 * np.exp(-(((x - SUN[0]) / 0.2) ** 2)))
        scene = mix(scene, haze, (y - outline) * HEIGHT)

    mirror = scene[np.clip((2 * HORIZON * HEIGHT - np.arange(HEIGHT)).astype(int), 0, HEIGHT - 1)]
    depth = np.clip((y - HORIZON) / (1 - HORIZON), 0, 1)
    waves = smooth_noise(rng, 150, 14) * (0.3 + depth)
    lake = mix(mirror * 0.86, np.full(3, 1.0) * (58, 74, 104), 0.22 + 0.5 * depth)
    glitter = np.exp(-(((x - SUN[0]) / (0.02 + 0.12 * depth)) ** 2)) * np.clip(waves + 0.25, 0, 1)
    lake = mix(lake + 9 * waves[..., None], np.full(3, 1.0) * (255, 214, 150), 0.8 * glitter)
    scene = mix(scene, lake, (y - HORIZON) * HEIGHT)

    near = (y - TABLE) / (1 - TABLE)
    across = (x - 0.5) / (0.55 + 0.75 * np.clip(near, 0, 1))  # planks run towards the eye
    plank = np.floor(across * 9 + 50)
    tint = np.random.default_rng(5).uniform(0.86, 1.08, 120)[plank.astype(int)]
    grain = np.interp(
        across * 9 + 50, np.linspace(40, 60, 1600), np.random.default_rng(6).uniform(-1, 1, 1600)
    )
    grain = grain + 0.7 * smooth_noise(rng, 5, 60)
    wood = np.full((HEIGHT, WIDTH, 3), 1.0) * (158, 104, 66)
    wood = wood * (tint * (0.80 + 0.22 * np.clip(near, 0, 1)) + 0.045 * grain)[..., None]
    seam = np.abs(across * 9 + 50 - plank - 0.5)
    wood = mix(wood, wood * 0.45, (seam - 0.485) * 90)
    shine = np.exp(-(((x - SUN[0] - 0.10 * near) / 0.22) ** 2)) * np.exp(-((near / 0.5) ** 2))
    wood = mix(wood, np.full(3, 1.0) * (255, 205, 150), 0.45 * shine)
    wood = mix(wood, np.full(3, 1.0) * (236, 176, 120), 0.6 * np.exp(-((near * HEIGHT * 0.4 / 3) ** 2)))
    scene = mix(scene, wood, (y - TABLE) * HEIGHT)

    corner = 1 - 0.22 * np.clip(np.hypot(x - 0.5, y - 0.5) - 0.35, 0, 1) ** 1.3
    return np.clip(np.rint(scene * corner[..., None]), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    write_atomically(Path(__file__).with_name("photo.png"), encode_png(paint(), compress_level=9))
