"""The sixteen blend modes that OpenRaster, Krita and GIMP share, and their names in the file.

Formulas are those of the W3C Compositing and Blending specification, where a mode is a function
B(backdrop, source) of straight colour. PLUS is min(1, backdrop + source) in the same way, as Krita and
GIMP show it, not the Porter-Duff sum that OpenRaster names; the two differ only where alpha is partial.
"""

from __future__ import annotations

from enum import StrEnum


class BlendMode(StrEnum):
    """How a layer meets what lies below it; the value is the OpenRaster composite-op."""

    NORMAL = "svg:src-over"
    MULTIPLY = "svg:multiply"
    SCREEN = "svg:screen"
    OVERLAY = "svg:overlay"
    DARKEN = "svg:darken"
    LIGHTEN = "svg:lighten"
    COLOR_DODGE = "svg:color-dodge"
    COLOR_BURN = "svg:color-burn"
    HARD_LIGHT = "svg:hard-light"
    SOFT_LIGHT = "svg:soft-light"
    DIFFERENCE = "svg:difference"
    HUE = "svg:hue"
    SATURATION = "svg:saturation"
    COLOR = "svg:color"
    LUMINOSITY = "svg:luminosity"
    PLUS = "svg:plus"
