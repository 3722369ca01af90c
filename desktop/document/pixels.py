"""The raster engine: QImage and QPainter, and NumPy where QPainter has no mode.

This is the one module of the document that knows Qt, and only its raster paint engine: no widget and no
QApplication is needed, and any thread may use it. Screen tiles are premultiplied ARGB32, which QPainter
blends fastest; pictures to keep are blended with 16 bits a channel so that rounding never adds up.
"""

from __future__ import annotations

import sys
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QImage, QPainter

from desktop.document.blend import BlendMode
from desktop.document.geometry import Rect
from desktop.document.tiles import Pixels

Surface = QImage  # premultiplied, in the format of its Depth
Floats = npt.NDArray[np.floating[Any]]  # float32 throughout

_HALF = np.float32(0.5)
_TINY = np.float32(1e-6)
_BAND_ROWS = 32
_Mode = QPainter.CompositionMode
_MODES = {
    BlendMode.NORMAL: _Mode.CompositionMode_SourceOver,
    BlendMode.MULTIPLY: _Mode.CompositionMode_Multiply,
    BlendMode.SCREEN: _Mode.CompositionMode_Screen,
    BlendMode.OVERLAY: _Mode.CompositionMode_Overlay,
    BlendMode.DARKEN: _Mode.CompositionMode_Darken,
    BlendMode.LIGHTEN: _Mode.CompositionMode_Lighten,
    BlendMode.COLOR_DODGE: _Mode.CompositionMode_ColorDodge,
    BlendMode.COLOR_BURN: _Mode.CompositionMode_ColorBurn,
    BlendMode.HARD_LIGHT: _Mode.CompositionMode_HardLight,
    BlendMode.SOFT_LIGHT: _Mode.CompositionMode_SoftLight,
    BlendMode.DIFFERENCE: _Mode.CompositionMode_Difference,
}


class Depth(Enum):
    """How exactly a surface holds colour."""

    SCREEN = QImage.Format.Format_ARGB32_Premultiplied
    EXACT = QImage.Format.Format_RGBA64_Premultiplied


def blank(width: int, height: int, depth: Depth) -> Surface:
    """A new transparent surface."""
    image = QImage(width, height, depth.value)
    if image.isNull():
        raise MemoryError(f"no memory for a surface of {width} x {height} pixels")
    image.fill(Qt.GlobalColor.transparent)
    return image


def from_pixels(pixels: Pixels, depth: Depth) -> Surface:
    """A surface of straight RGBA, uint8 [H, W, 4]."""
    height, width = pixels.shape[:2]
    if depth is Depth.SCREEN:
        pixels = np.ascontiguousarray(pixels)
        straight = QImage(pixels.data, width, height, width * 4, QImage.Format.Format_RGBA8888)
        return straight.convertToFormat(depth.value)
    alpha = pixels[..., 3]
    if int(alpha.min()) == 255:
        pixels = np.ascontiguousarray(pixels)
        straight = QImage(pixels.data, width, height, width * 4, QImage.Format.Format_RGBA8888)
        return straight.convertToFormat(depth.value)
    surface = QImage(width, height, depth.value)
    wide = _channels(surface)
    factor = alpha.astype(np.float32) * np.float32(257 / 255)
    for channel in range(3):  # rounded by hand: Qt's conversion does not give every colour back
        np.add(pixels[..., channel] * factor, _HALF, out=wide[..., channel], casting="unsafe")
    wide[..., 3] = alpha.astype(np.uint16) * np.uint16(257)
    return surface


def to_pixels(surface: Surface) -> Pixels:
    """Straight RGBA, uint8 [H, W, 4], of an EXACT surface; transparent pixels are black.

    What `from_pixels` was given comes back unchanged wherever alpha is above 0.
    """
    wide = _channels(surface)
    alpha = wide[..., 3]
    if int(alpha.min()) == 0xFFFF:
        return ((wide * np.uint32(255) + np.uint32(32895)) >> np.uint32(16)).astype(np.uint8)
    out = np.empty(wide.shape, np.uint8)
    factor = np.float32(255) / np.maximum(alpha, 1).astype(np.float32)
    for channel in range(3):
        straight = np.minimum(wide[..., channel] * factor, np.float32(255))
        np.add(straight, _HALF, out=out[..., channel], casting="unsafe")
    out[..., 3] = (alpha * np.uint32(255) + np.uint32(32895)) >> np.uint32(16)
    out[out[..., 3] == 0] = 0
    return out


def apply_mask(surface: Surface, grey: Pixels) -> None:
    """Multiplies the surface by a mask, uint8 [H, W] of the same size."""
    grey = np.ascontiguousarray(grey)
    mask = QImage(grey.data, grey.shape[1], grey.shape[0], grey.shape[1], QImage.Format.Format_Alpha8)
    painter = QPainter(surface)
    painter.setCompositionMode(_Mode.CompositionMode_DestinationIn)
    painter.drawImage(0, 0, mask)
    painter.end()


def clear_outside(surface: Surface, kept: Rect) -> None:
    """Makes everything outside `kept` transparent."""
    full = Rect(0, 0, surface.width(), surface.height())
    painter = QPainter(surface)
    painter.setCompositionMode(_Mode.CompositionMode_Clear)
    color = QColor(0, 0, 0, 0)
    painter.fillRect(kept.right, 0, full.width - kept.right, full.height, color)
    painter.fillRect(0, kept.bottom, full.width, full.height - kept.bottom, color)
    painter.fillRect(0, 0, kept.x, full.height, color)
    painter.fillRect(0, 0, full.width, kept.y, color)
    painter.end()


def draw(target: Surface, source: Surface, blend: BlendMode, opacity: float) -> None:
    """Blends `source` over `target`, both of the same size and depth; opacity in [0, 1]."""
    if blend not in _MODES:
        _draw_with_numpy(target, source, blend, opacity)
        return
    if opacity < 1.0 and source.format() == Depth.EXACT.value:
        source = _faded(source, opacity)  # the painter's own opacity has 8 bits
        opacity = 1.0
    painter = QPainter(target)
    painter.setCompositionMode(_MODES[blend])
    painter.setOpacity(opacity)
    painter.drawImage(0, 0, source)
    painter.end()


def _faded(source: Surface, opacity: float) -> Surface:
    faded = source.copy()
    painter = QPainter(faded)
    painter.setCompositionMode(_Mode.CompositionMode_DestinationIn)
    painter.fillRect(faded.rect(), QColor.fromRgbF(0.0, 0.0, 0.0, opacity))
    painter.end()
    return faded


def _channels(surface: Surface) -> npt.NDArray[np.unsignedinteger]:
    """The surface's own memory: uint8 or uint16 [H, W, 4], premultiplied; BGRA for SCREEN, RGBA for EXACT."""
    is_screen = surface.format() == Depth.SCREEN.value
    if is_screen and sys.byteorder != "little":
        raise NotImplementedError("ARGB32 in memory is only known for little-endian machines")
    kind = np.uint8 if is_screen else np.uint16
    return np.frombuffer(surface.bits(), kind).reshape(surface.height(), surface.width(), 4)


def _draw_with_numpy(target: Surface, source: Surface, blend: BlendMode, opacity: float) -> None:
    """The modes that QPainter lacks: PLUS as a blend mode, and those that mix the channels."""
    into, above = _channels(target), _channels(source)
    for row in range(0, into.shape[0], _BAND_ROWS):  # small enough to stay in the processor's cache
        band = slice(row, row + _BAND_ROWS)
        _mix_band(into[band], above[band], blend, opacity)


def _mix_band(
    into: npt.NDArray[np.unsignedinteger],
    above: npt.NDArray[np.unsignedinteger],
    blend: BlendMode,
    opacity: float,
) -> None:
    """Source: W3C Compositing and Blending Level 1, sections 5 and 10."""
    color_s, alpha_s, _ = _planes(above)
    color_b, alpha_b, top = _planes(into)
    mixed = None if blend is BlendMode.PLUS else _non_separable(color_s, alpha_s, color_b, alpha_b, blend)
    alpha_s *= np.float32(opacity)
    color_s *= np.float32(opacity)
    if mixed is None:
        both = np.minimum(color_s * alpha_b + color_b * alpha_s, alpha_s * alpha_b)
    else:
        both = mixed * (alpha_s * alpha_b)
    alpha = alpha_s + alpha_b * (1 - alpha_s)
    color = color_s * (1 - alpha_b) + color_b * (1 - alpha_s) + both
    np.minimum(color, alpha, out=color)
    for plane, channel in zip(color, _rgb_order(into), strict=True):
        np.add(plane * top, _HALF, out=into[..., channel], casting="unsafe")
    np.add(alpha * top, _HALF, out=into[..., 3], casting="unsafe")


def _non_separable(
    color_s: Floats, alpha_s: Floats, color_b: Floats, alpha_b: Floats, blend: BlendMode
) -> Floats:
    """B(backdrop, source) of straight colour [3, H, W], from premultiplied planes."""
    straight_s = color_s / np.maximum(alpha_s, _TINY)
    straight_b = color_b / np.maximum(alpha_b, _TINY)
    if blend is BlendMode.HUE:
        return _set_lum(_set_sat(straight_s, _sat(straight_b)), _lum(straight_b))
    if blend is BlendMode.SATURATION:
        return _set_lum(_set_sat(straight_b, _sat(straight_s)), _lum(straight_b))
    if blend is BlendMode.COLOR:
        return _set_lum(straight_s, _lum(straight_b))
    return _set_lum(straight_b, _lum(straight_s))


def _planes(channels: npt.NDArray[np.unsignedinteger]) -> tuple[Floats, Floats, np.float32]:
    """Premultiplied colour [3, H, W] and alpha [H, W] in [0, 1], and the value that stands for 1."""
    top = np.float32(np.iinfo(channels.dtype).max)
    color = np.stack([channels[..., channel] for channel in _rgb_order(channels)]).astype(np.float32) / top
    return color, channels[..., 3].astype(np.float32) / top, top


def _rgb_order(channels: npt.NDArray[np.unsignedinteger]) -> tuple[int, int, int]:
    return (2, 1, 0) if channels.dtype == np.uint8 else (0, 1, 2)


def _lum(color: Floats) -> Floats:
    red, green, blue = color
    return np.float32(0.3) * red + np.float32(0.59) * green + np.float32(0.11) * blue


def _sat(color: Floats) -> Floats:
    return color.max(axis=0) - color.min(axis=0)


def _set_sat(color: Floats, saturation: Floats) -> Floats:
    return (color - color.min(axis=0)) * (saturation / np.maximum(_sat(color), _TINY))


def _set_lum(color: Floats, luminosity: Floats) -> Floats:
    color = color + (luminosity - _lum(color))
    light = _lum(color)
    low, high = color.min(axis=0), color.max(axis=0)
    shrink = np.where(low < 0, light / np.maximum(light - low, _TINY), np.float32(1))
    color = light + (color - light) * shrink
    shrink = np.where(high > 1, (1 - light) / np.maximum(high - light, _TINY), np.float32(1))
    return light + (color - light) * shrink
