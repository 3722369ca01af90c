"""The look of the window: a calm dark grey so that the picture is the brightest thing on the screen.

Colours are named once in themes/dark.json and used by name in dark.qss and by the icons. Nothing
here is chosen at import; the composition root loads a theme and hands it on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PySide6.QtCore import QByteArray, QRectF, QSize, Qt
from PySide6.QtGui import (
    QColor,
    QFont,
    QFontDatabase,
    QIcon,
    QIconEngine,
    QPainter,
    QPalette,
    QPixmap,
)
from PySide6.QtSvg import QSvgRenderer
from PySide6.QtWidgets import QApplication

SPACE_PX = 8  # every distance is a multiple of this, or half of it
ICON_PX = 20
_FALLBACK_FAMILIES = (
    "Inter",
    "Noto Sans",
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "PingFang SC",
    "Microsoft YaHei",
    "DejaVu Sans",
)


@dataclass(frozen=True, slots=True)
class Theme:
    """Named colours and the folders its files are in.

    Attributes:
        colors: Name -> "#rrggbb".
        icons_dir: Folder of the 24 px SVG icons.
        style_sheet: The style sheet with the colours filled in.
    """

    colors: dict[str, str]
    icons_dir: Path
    style_sheet: str

    def color(self, name: str) -> QColor:
        return QColor(self.colors[name])

    def icon(self, name: str) -> QIcon:
        """A sharp icon at any size and scale; dim when disabled, accent when checked."""
        source = (self.icons_dir / f"{name}.svg").read_text(encoding="utf-8")
        return QIcon(_StrokeIcon(source, self.colors))

    def app_icon(self) -> QIcon:
        """The program's own icon."""
        return QIcon(str(self.icons_dir / "flowbrush.svg"))

    def pixmap(self, name: str, size_px: int, color: str = "text", scale: float = 1.0) -> QPixmap:
        """An icon in one colour; `scale` is the screen's device pixel ratio."""
        source = (self.icons_dir / f"{name}.svg").read_text(encoding="utf-8")
        return _render(source, self.colors[color], QSize(size_px, size_px), scale)


class _StrokeIcon(QIconEngine):
    """Draws the SVG in the theme's colour for each state, at the asked size and scale."""

    def __init__(self, source: str, colors: dict[str, str]) -> None:
        super().__init__()
        self._source = source
        self._colors = colors

    def _color(self, mode: QIcon.Mode, state: QIcon.State) -> str:
        if mode == QIcon.Mode.Disabled:
            return self._colors["text_off"]
        return self._colors["accent_hover" if state == QIcon.State.On else "text"]

    def paint(self, painter: QPainter, rect, mode: QIcon.Mode, state: QIcon.State) -> None:  # noqa: ANN001
        _draw(painter, self._source, self._color(mode, state), QRectF(rect))

    def scaledPixmap(self, size: QSize, mode: QIcon.Mode, state: QIcon.State, scale: float) -> QPixmap:
        return _render(self._source, self._color(mode, state), size, scale)

    def pixmap(self, size: QSize, mode: QIcon.Mode, state: QIcon.State) -> QPixmap:
        return _render(self._source, self._color(mode, state), size, 1.0)

    def clone(self) -> QIconEngine:
        return _StrokeIcon(self._source, self._colors)


def _draw(painter: QPainter, source: str, color: str, rect: QRectF) -> None:
    renderer = QSvgRenderer(QByteArray(source.replace("#000", color).encode()))
    renderer.setAspectRatioMode(Qt.AspectRatioMode.KeepAspectRatio)
    renderer.render(painter, rect)


def _render(source: str, color: str, size: QSize, scale: float) -> QPixmap:
    pixmap = QPixmap(QSize(round(size.width() * scale), round(size.height() * scale)))
    if pixmap.isNull():
        return pixmap  # a button that was squeezed to nothing
    pixmap.setDevicePixelRatio(scale)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    _draw(painter, source, color, QRectF(0, 0, size.width(), size.height()))
    painter.end()
    return pixmap


def load_theme(resources_dir: Path, name: str = "dark") -> Theme:
    """Reads a theme.

    Args:
        resources_dir: Folder that holds icons/ and themes/.
        name: The theme's file name without its ending.
    """
    folder = resources_dir / "themes"
    colors: dict[str, str] = json.loads((folder / f"{name}.json").read_text("utf-8"))
    style = (folder / f"{name}.qss").read_text("utf-8").replace("@folder", folder.as_posix())
    for key in sorted(colors, key=len, reverse=True):
        style = style.replace(f"@{key}", colors[key])
    return Theme(colors, resources_dir / "icons", style)


def apply_theme(app: QApplication, theme: Theme) -> None:
    """Dresses the whole application."""
    if app.styleSheet() == theme.style_sheet:
        return
    app.setStyle("Fusion")
    app.setPalette(_palette(theme))
    app.setFont(_font(app))
    app.setStyleSheet(theme.style_sheet)


def _palette(theme: Theme) -> QPalette:
    role = QPalette.ColorRole
    palette = QPalette()
    pairs = {
        role.Window: "window",
        role.WindowText: "text",
        role.Base: "field",
        role.AlternateBase: "raised",
        role.Text: "text",
        role.Button: "raised",
        role.ButtonText: "text",
        role.ToolTipBase: "raised",
        role.ToolTipText: "text",
        role.PlaceholderText: "text_off",
        role.Highlight: "accent",
        role.HighlightedText: "on_accent",
        role.Link: "accent",
        role.BrightText: "danger",
    }
    for color_role, name in pairs.items():
        palette.setColor(color_role, theme.color(name))
    for color_role in (role.Text, role.WindowText, role.ButtonText):
        palette.setColor(QPalette.ColorGroup.Disabled, color_role, theme.color("text_off"))
    return palette


def _font(app: QApplication) -> QFont:
    """The desktop's own font; where it only names a generic one, the best that is installed."""
    font = app.font()
    installed = set(QFontDatabase.families())
    found = [family for family in _FALLBACK_FAMILIES if family in installed]
    families = found if font.family() in ("Sans Serif", "sans-serif", "") else [font.family(), *found]
    if families:
        font.setFamilies(families)
    if font.pointSizeF() > 0:
        font.setPointSizeF(max(font.pointSizeF(), 9.5))
    return font
