"""Names of the blend modes, in the order of the menu: darker, lighter, contrast, difference, colour."""

from __future__ import annotations

from desktop.document.blend import BlendMode
from desktop.i18n import mark

BLEND_TITLES: dict[BlendMode, str] = {
    BlendMode.NORMAL: mark("Normal"),
    BlendMode.MULTIPLY: mark("Multiply"),
    BlendMode.DARKEN: mark("Darken"),
    BlendMode.COLOR_BURN: mark("Colour burn"),
    BlendMode.SCREEN: mark("Screen"),
    BlendMode.LIGHTEN: mark("Lighten"),
    BlendMode.COLOR_DODGE: mark("Colour dodge"),
    BlendMode.PLUS: mark("Add"),
    BlendMode.OVERLAY: mark("Overlay"),
    BlendMode.SOFT_LIGHT: mark("Soft light"),
    BlendMode.HARD_LIGHT: mark("Hard light"),
    BlendMode.DIFFERENCE: mark("Difference"),
    BlendMode.HUE: mark("Hue"),
    BlendMode.SATURATION: mark("Saturation"),
    BlendMode.COLOR: mark("Colour"),
    BlendMode.LUMINOSITY: mark("Luminosity"),
}
GROUPS_END = (
    BlendMode.NORMAL,
    BlendMode.COLOR_BURN,
    BlendMode.PLUS,
    BlendMode.HARD_LIGHT,
    BlendMode.DIFFERENCE,
)
