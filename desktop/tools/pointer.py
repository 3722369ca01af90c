"""What a tool is told about the pen: where, how hard, and which keys are held. No Qt in here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pointer:
    """One position of the pen or mouse.

    Attributes:
        x, y: Document pixels; fractions count.
        view_x, view_y: Device pixels in the view.
        pressure: In [0, 1]; a mouse has 1.
        is_eraser_end: The pen is held upside down.
        has_shift, has_ctrl, has_alt: Keys held.
        is_right_button: The right button of the mouse, or the upper one of the pen.
    """

    x: float
    y: float
    view_x: float = 0.0
    view_y: float = 0.0
    pressure: float = 1.0
    is_eraser_end: bool = False
    has_shift: bool = False
    has_ctrl: bool = False
    has_alt: bool = False
    is_right_button: bool = False
