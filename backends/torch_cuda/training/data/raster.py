"""Turns the fetched drawings into sprites: 256 px RGBA, content box, recolour mask, colour.

Runs once, before training, with Pillow and resvg; the pack that comes out needs neither. A drawing is
found by code point in styles that show the same shape: rendered 3D, flat colour and line art; pixel art is
made of the flat one.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image, ImageDraw

from backends.torch_cuda.training.data.objects import Thing
from backends.torch_cuda.training.data.palette import hsv, name_of
from flux_core.errors import Corrupt

SPRITE_PX = 256
STYLES: tuple[str, ...] = ("3d", "flat", "line", "pixel")
_LINE_COLOUR = "#1e1e22"  # PALETTE["black"]
_STROKE_PX = 14
_CELLS = 21  # of pixel art, along the longer side
_CELL_LEVELS = 10  # of each colour channel


@dataclass(frozen=True)
class Sprite:
    """One object in one style.

    Attributes:
        rgba: uint8 [256, 256, 4], straight alpha.
        mask: uint8 [256, 256], 255 where the body colour may be replaced.
        box: Content box x0, y0, x1, y1 in pixels, x1 and y1 exclusive.
        reference: Brightness that counts as "fully lit" inside the mask, 0 to 1.
        colour: Name of the dominant colour inside the mask.
        share: Share of the visible area that the mask covers, 0 to 1.
    """

    rgba: np.ndarray
    mask: np.ndarray
    box: tuple[int, int, int, int]
    reference: float
    colour: str
    share: float


class Drawings:
    """The fetched sources, addressed by style and code point."""

    def __init__(self, sources: Path) -> None:
        self._3d = {
            _plain(path.stem): path for path in sorted((sources / "fluent-3d" / "assets").glob("*.webp"))
        }
        slugs = _slugs(sources / "emoji-names" / "data-by-emoji.json")
        self._svg = {
            "flat": _IconSet(sources / "fluent-flat", slugs),
            "line": _IconSet(sources / "fluent-line", slugs),
        }

    def image(self, style: str, code: str, outline: bool = False) -> np.ndarray:
        """The drawing as uint8 [256, 256, 4]; with `outline`, only the outline of its shape.

        Raises:
            Corrupt: The sources hold no such drawing. 3D drawings count only when the official flat set
                knows the same code point: the 3D package carries some files from elsewhere.
        """
        if code not in self._svg["flat"] or (style == "3d" and code not in self._3d):
            raise Corrupt(f"The sources hold no {style} drawing for {code}.", "Fetch them again.")
        if style == "pixel":
            return pixelated(self.image("flat", code))
        if style == "3d":
            with Image.open(self._3d[code]) as file:
                picture = file.convert("RGBA")
        else:
            side_px = SPRITE_PX * 4 if outline else SPRITE_PX
            png = resvg_py.svg_to_bytes(svg_string=self._svg[style].svg(code), width=side_px, height=side_px)
            picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
            picture = outlined(picture) if outline else picture
        if picture.size != (SPRITE_PX, SPRITE_PX):
            picture = picture.resize((SPRITE_PX, SPRITE_PX), Image.Resampling.LANCZOS)
        return np.asarray(picture)


class _IconSet:
    """One Iconify package: SVG bodies by code point."""

    def __init__(self, folder: Path, slugs: dict[str, str]) -> None:
        self._set: dict[str, Any] = json.loads((folder / "icons.json").read_text())
        icons: dict[str, Any] = self._set["icons"]
        for alias, record in self._set.get("aliases", {}).items():
            if set(record) == {"parent"} and record["parent"] in icons:
                icons.setdefault(alias, icons[record["parent"]])
        chars: dict[str, str] = json.loads((folder / "chars.json").read_text())
        self._by_code = {_plain(code): icons[name] for code, name in chars.items() if name in icons}
        for name, code in slugs.items():
            if name in icons:
                self._by_code.setdefault(code, icons[name])

    def __contains__(self, code: str) -> bool:
        return code in self._by_code

    def svg(self, code: str) -> str:
        record = self._by_code[code]
        default = self._set.get("height", 16)
        width = record.get("width", self._set.get("width", default))
        height = record.get("height", default)
        body = record["body"].replace("currentColor", _LINE_COLOUR)
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{record.get("left", 0)} {record.get("top", 0)} {width} {height}" '
            f'width="{SPRITE_PX}" height="{SPRITE_PX}">{body}</svg>'
        )


def outlined(svg_png: Image.Image) -> Image.Image:
    """Replaces a filled or hatched shape by its outline, in the stroke width of the line drawings.

    Args:
        svg_png: The drawing, RGBA, four times the sprite's size.
    """
    solid = np.pad(np.asarray(svg_png.getchannel("A")) > 127, 1)
    surroundings = Image.fromarray(np.where(solid, 255, 0).astype(np.uint8)).copy()
    ImageDraw.floodfill(surroundings, (0, 0), 128)
    shape = np.asarray(surroundings) != 128  # holes and hatching count as inside
    inner = shape
    for turn in range(_STROKE_PX * 4):
        inner = _eroded(inner, diagonal=turn % 5 in (0, 2))
    ring = np.where(shape & ~inner, 255, 0).astype(np.uint8)[1:-1, 1:-1]
    picture = Image.new("RGBA", svg_png.size, _LINE_COLOUR)
    picture.putalpha(Image.fromarray(ring))
    return picture


def pixelated(rgba: np.ndarray) -> np.ndarray:
    """A drawing `rgba: uint8 [H, W, 4]` in large square cells of one colour each, opaque or not there."""
    rows, columns = np.nonzero(rgba[..., 3] > 51)
    top, left = rows.min(), columns.min()
    height, width = rows.max() + 1 - top, columns.max() + 1 - left
    cell = int(np.ceil(max(height, width) / _CELLS))
    down, across = int(np.ceil(height / cell)), int(np.ceil(width / cell))
    # Cells lie centred on the drawing; what they need beyond its frame is empty.
    top -= (down * cell - height) // 2
    left -= (across * cell - width) // 2
    padded = np.pad(rgba, ((cell, cell), (cell, cell), (0, 0))).astype(np.float64) / 255
    part = padded[top + cell : top + cell + down * cell, left + cell : left + cell + across * cell]
    alpha = part[..., 3:]
    cells = np.concatenate([part[..., :3] * alpha, alpha], axis=-1)
    cells = cells.reshape(down, cell, across, cell, 4).mean((1, 3))
    rgb = np.round(cells[..., :3] / np.maximum(cells[..., 3:], 1e-6) * _CELL_LEVELS) / _CELL_LEVELS
    drawn = np.concatenate([rgb.clip(0, 1), np.ones_like(rgb[..., :1])], axis=-1) * (cells[..., 3:] > 0.45)
    out = np.zeros_like(padded)
    place = out[top + cell : top + cell + down * cell, left + cell : left + cell + across * cell]
    place[:] = drawn.repeat(cell, 0).repeat(cell, 1)
    return np.round(out[cell:-cell, cell:-cell] * 255).astype(np.uint8)


def _eroded(shape: np.ndarray, diagonal: bool) -> np.ndarray:
    """Takes one pixel off a bool [H, W] shape, off its corners too when `diagonal`."""
    kept = shape.copy()
    kept[1:] &= shape[:-1]
    kept[:-1] &= shape[1:]
    rows = kept.copy() if diagonal else shape
    kept[:, 1:] &= rows[:, :-1]
    kept[:, :-1] &= rows[:, 1:]
    return kept


def sprite(rgba: np.ndarray, thing: Thing, is_line: bool) -> Sprite:
    """Measures a drawing `rgba: uint8 [256, 256, 4]`: box, recolour mask, reference light and colour.

    Args:
        rgba: The drawing, straight alpha.
        thing: What it shows; says which hues are its body.
        is_line: Line art: all of it is recoloured, and its light is even.
    """
    picture = rgba.astype(np.float64) / 255
    rgb, alpha = picture[..., :3], picture[..., 3]
    mask = alpha if is_line else _body_mask(rgb, alpha, thing)
    rows, columns = np.nonzero(alpha > 0.2)
    inside = mask > 0.5
    light = brightness(rgb)
    return Sprite(
        rgba=rgba,
        mask=np.round(mask * 255).astype(np.uint8),
        box=(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1),
        reference=1.0 if is_line else float(np.percentile(light[inside], 60)),
        colour=name_of(np.median(rgb[inside], axis=0)),
        share=float(mask.sum() / alpha.sum()),
    )


def brightness(rgb: np.ndarray) -> np.ndarray:
    """What recolouring takes as light: the mean of luma and value, of `rgb: [..., 3]` in [0, 1]."""
    return 0.5 * (rgb @ np.array([0.299, 0.587, 0.114])) + 0.5 * rgb.max(-1)


def _body_mask(rgb: np.ndarray, alpha: np.ndarray, thing: Thing) -> np.ndarray:
    """Soft mask [H, W] of the dominant hue, or of the near-grey area when hardly anything is coloured."""
    hue, saturation, value = hsv(rgb)
    coloured = alpha * (saturation > thing.least_saturation) * (value > 0.12)
    if coloured.sum() <= 0.3 * alpha.sum():
        return alpha * np.clip((0.30 - saturation) / 0.06, 0, 1) * (value > 0.35)
    histogram = np.bincount((hue * 36).astype(int).ravel() % 36, (coloured * saturation).ravel(), 36)
    smooth = histogram + 0.6 * (np.roll(histogram, 1) + np.roll(histogram, -1))
    centre = (smooth.argmax() + 0.5) / 36 if thing.body_hue is None else thing.body_hue / 360
    distance = np.abs((hue - centre + 0.5) % 1 - 0.5)
    return coloured * np.clip((thing.hue_reach - distance) / 0.03, 0, 1)


def _plain(code: str) -> str:
    """A code point sequence in lower case without the variation selector."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def _slugs(path: Path) -> dict[str, str]:
    names: dict[str, dict[str, str]] = json.loads(path.read_text())
    return {
        record["slug"].replace("_", "-"): _plain("-".join(f"{ord(char):x}" for char in emoji))
        for emoji, record in names.items()
    }
