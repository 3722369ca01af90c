"""The tools as small state machines: press, drag, release or cancel, and what each does to the document.

They know no widget: input comes as `Pointer`, edits go to the document, and what concerns only the view
goes to a small `View` protocol. So every gesture is tested by calling three methods.
"""

from __future__ import annotations

from typing import Protocol

from desktop.document import commands, compositor
from desktop.document.geometry import Rect
from desktop.document.layers import RasterLayer
from desktop.document.stroke import Sample, Stroke, Target
from desktop.tools.bench import Bench
from desktop.tools.click_mask import ClickMaskTool
from desktop.tools.pointer import Pointer
from desktop.tools.settings import MASK_TOOLS, ToolName


class Tool(Protocol):
    """A gesture in the making. After `release` or `cancel` it may begin again."""

    def press(self, pointer: Pointer) -> None:
        """The pen went down; raises RequestInvalid if nothing can be done here."""
        ...

    def drag(self, pointer: Pointer) -> None: ...
    def release(self, pointer: Pointer) -> None: ...
    def cancel(self) -> None:
        """Takes the gesture back."""
        ...


class StrokeTool:
    """Brush, eraser, and the same two for the mask.

    With Shift, a press draws a straight line from where the last stroke ended.
    """

    def __init__(self, bench: Bench, name: ToolName) -> None:
        self._bench = bench
        self._name = name
        self._stroke: Stroke | None = None
        self._last: Pointer | None = None

    def press(self, pointer: Pointer) -> None:
        brush = self._bench.settings.brush(self._name)
        if pointer.is_eraser_end:
            brush = self._bench.settings.brush(_eraser_of(self._name))
        target = self._target()
        if target is Target.PIXELS and not brush.is_eraser and not self._bench.document.layers:
            commands.add_layer(self._bench.document, RasterLayer(name=self._bench.new_layer_name))
        self._stroke = Stroke(self._bench.document, brush, target)
        start = self._last if pointer.has_shift and self._last is not None else pointer
        self._stroke.add([_sample(start), _sample(pointer)] if start is not pointer else [_sample(pointer)])
        self._last = pointer

    def drag(self, pointer: Pointer) -> None:
        if self._stroke is not None:
            self._stroke.add([_sample(pointer)])
            self._last = pointer

    def release(self, pointer: Pointer) -> None:
        if self._stroke is not None:
            stroke, self._stroke = self._stroke, None
            stroke.finish()

    def cancel(self) -> None:
        if self._stroke is not None:
            stroke, self._stroke = self._stroke, None
            stroke.cancel()

    def _target(self) -> Target:
        if self._name in MASK_TOOLS:
            return Target.SELECTION
        layer = self._bench.document.active_layer
        if self._bench.settings.edits_layer_mask and layer is not None and layer.mask is not None:
            return Target.LAYER_MASK
        return Target.PIXELS


class MoveTool:
    """Drags the active layer by whole pixels; with Shift along one axis only. One undo step."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._start: Pointer | None = None
        self._done = (0, 0)

    def press(self, pointer: Pointer) -> None:
        self._start = pointer if self._bench.document.active_id is not None else None
        self._done = (0, 0)

    def drag(self, pointer: Pointer) -> None:
        layer_id = self._bench.document.active_id
        if self._start is None or layer_id is None:
            return
        dx, dy = round(pointer.x - self._start.x), round(pointer.y - self._start.y)
        if pointer.has_shift:
            dx, dy = (dx, 0) if abs(dx) >= abs(dy) else (0, dy)
        step = (dx - self._done[0], dy - self._done[1])
        if step != (0, 0):
            commands.shift_layer(self._bench.document, layer_id, *step)
            self._done = (dx, dy)

    def release(self, pointer: Pointer) -> None:
        self._start = None
        self._bench.document.seal()

    def cancel(self) -> None:
        if self._start is not None and self._done != (0, 0):
            self._bench.document.undo()
        self._start = None


class PickerTool:
    """Takes the paint colour from the picture as it is seen."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def press(self, pointer: Pointer) -> None:
        document = self._bench.document
        x, y = int(pointer.x // 1), int(pointer.y // 1)
        if not (0 <= x < document.size.width and 0 <= y < document.size.height):
            return
        red, green, blue, alpha = compositor.render(document.state, Rect(x, y, 1, 1))[0, 0].tolist()
        if alpha:
            self._bench.settings.set_front((red, green, blue))

    def drag(self, pointer: Pointer) -> None:
        self.press(pointer)

    def release(self, pointer: Pointer) -> None:
        """Nothing is left to do."""

    def cancel(self) -> None:
        """A colour that was picked stays."""


class HandTool:
    """Drags the view."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._last: Pointer | None = None

    def press(self, pointer: Pointer) -> None:
        self._last = pointer

    def drag(self, pointer: Pointer) -> None:
        if self._last is not None:
            self._bench.view.pan(pointer.view_x - self._last.view_x, pointer.view_y - self._last.view_y)
            self._last = pointer

    def release(self, pointer: Pointer) -> None:
        self._last = None

    def cancel(self) -> None:
        self._last = None


class ToolBox:
    """All tools of one document, and which of them gets the pen.

    Space gives the hand and Alt the picker (over a brush) for as long as they are held when the pen goes
    down; a gesture that has begun keeps its tool to its end.

    Attributes:
        is_space_held: Set by the view.
        click_mask: Whose answers come later than its gestures.
    """

    def __init__(self, bench: Bench) -> None:
        self._settings = bench.settings
        self.click_mask = ClickMaskTool(bench)
        self._tools: dict[ToolName, Tool] = {
            ToolName.BRUSH: StrokeTool(bench, ToolName.BRUSH),
            ToolName.ERASER: StrokeTool(bench, ToolName.ERASER),
            ToolName.MASK_BRUSH: StrokeTool(bench, ToolName.MASK_BRUSH),
            ToolName.MASK_ERASER: StrokeTool(bench, ToolName.MASK_ERASER),
            ToolName.CLICK_MASK: self.click_mask,
            ToolName.MOVE: MoveTool(bench),
            ToolName.PICKER: PickerTool(bench),
            ToolName.HAND: HandTool(bench),
        }
        self._active: Tool | None = None
        self.is_space_held = False

    @property
    def is_busy(self) -> bool:
        """Whether a gesture is going on; nothing else may edit the document meanwhile."""
        return self._active is not None

    def name_for(self, *, has_alt: bool = False) -> ToolName:
        """The tool that the next press would use."""
        if self.is_space_held:
            return ToolName.HAND
        if has_alt and self._settings.tool in (ToolName.BRUSH, ToolName.ERASER):
            return ToolName.PICKER
        return self._settings.tool

    def press(self, pointer: Pointer, name: ToolName | None = None) -> None:
        """Begins a gesture; raises RequestInvalid if the tool can do nothing here."""
        self.cancel()
        tool = self._tools[name or self.name_for(has_alt=pointer.has_alt)]
        tool.press(pointer)
        self._active = tool

    def drag(self, pointer: Pointer) -> None:
        if self._active is not None:
            self._active.drag(pointer)

    def release(self, pointer: Pointer) -> None:
        if self._active is not None:
            tool, self._active = self._active, None
            tool.release(pointer)

    def cancel(self) -> None:
        """Takes a gesture that is going on back."""
        if self._active is not None:
            tool, self._active = self._active, None
            tool.cancel()


def _sample(pointer: Pointer) -> Sample:
    return Sample(pointer.x, pointer.y, pointer.pressure)


def _eraser_of(name: ToolName) -> ToolName:
    return ToolName.MASK_ERASER if name in MASK_TOOLS else ToolName.ERASER
