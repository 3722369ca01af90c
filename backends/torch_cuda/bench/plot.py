"""The figures of a run as a picture: ours and the peer's side by side, and the ratio.

Hand-written SVG, because a library for four kinds of shapes would be one more thing to install.
"""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

_ROW_PX, _LEFT_PX, _BAR_PX, _WIDTH_PX, _TOP_PX = 34, 330, 430, 900, 64
_OURS, _PEER, _FLOOR, _INK = "#d9480f", "#adb5bd", "#1c7ed6", "#212529"


def svg(run: dict[str, Any]) -> str:
    """Of `Results.as_json()`; figures without a number are left out."""
    shown = [figure for figure in run["figures"] if figure["value"] is not None]
    height = _TOP_PX + _ROW_PX * len(shown) + 24
    machine = ", ".join(
        str(run["machine"][key]) for key in ("device", "torch", "date") if run["machine"].get(key)
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH_PX}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="{_INK}">',
        f'<rect width="{_WIDTH_PX}" height="{height}" fill="white"/>',
        _text(12, 24, "Flowbrush beside its peers: shorter is better, but for TFLOP/s", 'font-size="16"'),
        _text(12, 44, f"{machine}; orange: Flowbrush, grey: peer, blue line: floor of the library kernels"),
    ]
    for row, figure in enumerate(shown):
        parts += _row(_TOP_PX + _ROW_PX * row, figure)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _row(top: int, figure: dict[str, Any]) -> list[str]:
    value, peer, floor = figure["value"], figure["peer"], figure["floor"]
    most = max(value, peer or 0.0, floor or 0.0) or 1.0
    parts = [
        _text(_LEFT_PX - 8, top + 17, f"{figure['piece']}: {figure['what']}", 'text-anchor="end"'),
        _bar(top + 2, value / most, _OURS),
    ]
    told = f"{value:.4g} {figure['unit']}"
    if peer:
        parts.append(_bar(top + 15, peer / most, _PEER))
        told += f" / {peer:.4g} ({figure['ratio']:.2f})"
    if floor:
        x = _LEFT_PX + _BAR_PX * floor / most
        parts.append(f'<path d="M{x:.1f} {top}v28" stroke="{_FLOOR}" stroke-width="2"/>')
    return [*parts, _text(_LEFT_PX + _BAR_PX + 8, top + 17, told)]


def _bar(top: int, share: float, colour: str) -> str:
    return f'<rect x="{_LEFT_PX}" y="{top}" width="{_BAR_PX * share:.1f}" height="12" fill="{colour}"/>'


def _text(x: int, y: int, words: str, more: str = "") -> str:
    return f'<text x="{x}" y="{y}" {more}>{escape(words)}</text>'
