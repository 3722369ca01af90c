"""Cursors that Qt does not have: a cross with a small plus or minus beside it."""

from __future__ import annotations

from PySide6.QtCore import QLineF, Qt
from PySide6.QtGui import QColor, QCursor, QPainter, QPen, QPixmap

from desktop.views.theme import Theme

_SIDE_PX, _MIDDLE_PX = 32, 12
_CROSS = (
    QLineF(12, 3, 12, 9),
    QLineF(12, 15, 12, 21),
    QLineF(3, 12, 9, 12),
    QLineF(15, 12, 21, 12),
)
_MINUS, _BAR = QLineF(20, 24, 28, 24), QLineF(24, 20, 24, 28)


def click_cursor(theme: Theme, *, excludes: bool, scale: float) -> QCursor:
    """Where the click goes, and whether it includes or excludes.

    Args:
        theme: Colours.
        excludes: Shows a minus instead of a plus.
        scale: The screen's device pixel ratio.
    """
    pixmap = QPixmap(round(_SIDE_PX * scale), round(_SIDE_PX * scale))
    pixmap.setDevicePixelRatio(scale)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    sign = [_MINUS] if excludes else [_MINUS, _BAR]
    for lines, color in ((_CROSS, QColor("white")), (sign, theme.color("danger" if excludes else "good"))):
        for pen, width in ((QColor(0, 0, 0, 200), 4.0), (color, 2.0)):
            painter.setPen(QPen(pen, width))
            painter.drawLines(list(lines))
    painter.end()
    return QCursor(pixmap, _MIDDLE_PX, _MIDDLE_PX)
