"""What a person set for the tools: the active one, its brush, the two colours.

Painting and masking have brushes of their own, because their sizes rarely agree. The settings are one
observable object that tools read and views show; nobody else keeps a copy.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from desktop.document.events import Signal
from desktop.document.stroke import Brush

SIZE_STEPS_PX = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200, 256, 320, 400, 512, 640, 800, 1000)  # fmt: skip # noqa: E501
MAX_SIZE_PX = 1000


class ToolName(StrEnum):
    """Every tool, in the order of the tool bar."""

    BRUSH = "brush"
    ERASER = "eraser"
    MASK_BRUSH = "mask-brush"
    MASK_ERASER = "mask-eraser"
    CLICK_MASK = "click-mask"
    MOVE = "move"
    PICKER = "picker"
    HAND = "hand"


BRUSHES = (ToolName.BRUSH, ToolName.ERASER, ToolName.MASK_BRUSH, ToolName.MASK_ERASER)
MASK_TOOLS = (ToolName.MASK_BRUSH, ToolName.MASK_ERASER, ToolName.CLICK_MASK)
_PAINT, _MASK = "paint", "mask"


class ToolSettings:
    """The state of all tools.

    Attributes:
        changed: () after anything changed.
    """

    def __init__(self) -> None:
        self.changed: Signal[()] = Signal()
        self._tool = ToolName.BRUSH
        self._brushes = {
            _PAINT: Brush(size_px=32.0, hardness=0.8),
            _MASK: Brush(size_px=64.0, hardness=0.9, is_size_by_pressure=False),
        }
        self._front = (32, 32, 32)
        self._back = (255, 255, 255)
        self._edits_layer_mask = False
        self._is_mask_tinted = True

    @property
    def tool(self) -> ToolName:
        """The tool that was chosen."""
        return self._tool

    @tool.setter
    def tool(self, tool: ToolName) -> None:
        self._tool = tool
        self._is_mask_tinted = self._is_mask_tinted or tool in MASK_TOOLS
        self.changed.emit()

    @property
    def is_mask_tinted(self) -> bool:
        """Whether the mask is shown as a see-through colour; otherwise only its outline is.

        A result turns it off, so that it can be seen; taking up a mask tool turns it on again.
        """
        return self._is_mask_tinted

    @is_mask_tinted.setter
    def is_mask_tinted(self, value: bool) -> None:
        if value != self._is_mask_tinted:
            self._is_mask_tinted = value
            self.changed.emit()

    @property
    def front(self) -> tuple[int, int, int]:
        """The paint colour, RGB."""
        return self._front

    @property
    def back(self) -> tuple[int, int, int]:
        """The other colour, RGB."""
        return self._back

    @property
    def edits_layer_mask(self) -> bool:
        """Whether brush and eraser work on the active layer's mask instead of its pixels."""
        return self._edits_layer_mask

    @edits_layer_mask.setter
    def edits_layer_mask(self, value: bool) -> None:
        if value != self._edits_layer_mask:
            self._edits_layer_mask = value
            self.changed.emit()

    def brush(self, tool: ToolName | None = None) -> Brush:
        """The brush as a tool uses it: its size, and whether it takes away."""
        tool = tool or self._tool
        brush = self._brushes[_group(tool)]
        return replace(brush, is_eraser=tool in (ToolName.ERASER, ToolName.MASK_ERASER), color=self._front)

    def set_brush(self, **changes: object) -> None:
        """Changes the brush of the active tool, for example `size_px=12`."""
        group = _group(self._tool)
        self._brushes[group] = replace(self._brushes[group], **changes)  # type: ignore[arg-type]
        self.changed.emit()

    def step_size(self, direction: int) -> None:
        """The next larger (+1) or smaller (-1) size."""
        size = self.brush().size_px
        if direction > 0:
            found = next((step for step in SIZE_STEPS_PX if step > size), SIZE_STEPS_PX[-1])
        else:
            found = next((step for step in reversed(SIZE_STEPS_PX) if step < size), SIZE_STEPS_PX[0])
        self.set_brush(size_px=float(found))

    def set_front(self, color: tuple[int, int, int]) -> None:
        self._front = color
        self.changed.emit()

    def swap_colors(self) -> None:
        self._front, self._back = self._back, self._front
        self.changed.emit()

    def reset_colors(self) -> None:
        """Black on white."""
        self._front, self._back = (0, 0, 0), (255, 255, 255)
        self.changed.emit()


def _group(tool: ToolName) -> str:
    return _MASK if tool in MASK_TOOLS else _PAINT
