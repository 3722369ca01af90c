"""The twelve colours that captions name, and how any colour gets one of those names.

A caption may only say "red" when the pixels are red, so names, drawing colours, contrast and the
tests' measurements all come from this one table.
"""

from __future__ import annotations

import numpy as np

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (214, 38, 42),
    "orange": (243, 132, 30),
    "yellow": (250, 208, 48),
    "green": (60, 160, 66),
    "blue": (44, 104, 214),
    "purple": (130, 66, 186),
    "pink": (244, 120, 176),
    "brown": (130, 82, 44),
    "black": (30, 30, 34),
    "gray": (140, 142, 148),
    "white": (246, 246, 246),
    "cyan": (60, 196, 214),
}
COLOURS: tuple[str, ...] = tuple(PALETTE)
NEUTRAL = frozenset({"black", "gray", "white"})

# Other words that people use for the same colour; a caption sometimes says them.
OTHER_WORDS: dict[str, str] = {"gray": "grey", "purple": "violet", "cyan": "turquoise"}

# Pairs too close to make a readable picture, besides a colour on itself.
_TOO_CLOSE = (
    ("red", "brown"),
    ("red", "orange"),
    ("red", "pink"),
    ("orange", "brown"),
    ("orange", "yellow"),
    ("blue", "purple"),
    ("gray", "brown"),
    ("black", "brown"),
)
_CLOSE = frozenset(_TOO_CLOSE) | {(b, a) for a, b in _TOO_CLOSE} | {(c, c) for c in COLOURS}


def contrasts(colour: str, other: str) -> bool:
    """Whether a thing in one colour stands out on the other."""
    return (colour, other) not in _CLOSE


def luma(colour: str) -> float:
    """Perceived lightness of a named colour, 0 to 1 (Rec. 601 weights)."""
    red, green, blue = PALETTE[colour]
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def hsv(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue in turns [0, 1), saturation and value in [0, 1] of `rgb: [..., 3]` in [0, 1]."""
    high, low = rgb.max(-1), rgb.min(-1)
    spread = high - low
    safe = np.where(spread > 0, spread, 1.0)
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    hue = np.where(
        high == red,
        ((green - blue) / safe) % 6,
        np.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    return (hue / 6) % 1.0, np.where(high > 0, spread / np.where(high > 0, high, 1.0), 0.0), high


def name_of(rgb: np.ndarray) -> str:
    """The name a person would give to one colour `rgb: [3]` in [0, 1]."""
    hue, saturation, value = (float(part) for part in hsv(np.asarray(rgb, dtype=np.float64)))
    if value < 0.22:
        return "black"
    if saturation < 0.14:
        return "white" if value > 0.82 else "gray" if value > 0.3 else "black"
    degrees = hue * 360
    if degrees < 14 or degrees >= 340:
        if value > 0.8:
            return "pink" if saturation < 0.6 else "red"
        return "brown" if saturation < 0.6 and degrees < 14 else "red"
    if degrees < 35:
        return "brown" if value < 0.72 else "orange"
    for limit, name in ((68, "yellow"), (165, "green"), (195, "cyan"), (252, "blue"), (296, "purple")):
        if degrees < limit:
            return name if name != "yellow" or value > 0.62 else "brown"
    return "pink"
