"""Clicks that say what belongs to the mask and what does not; who can see finds the outline.

The tool collects clicks and asks through the view; the answer comes later and becomes the mask, one undo
step for each. Which clicks made a mask is remembered by the mask itself: as long as it is the document's, the
next click goes on from there, also after an undo; with any other mask the next click begins anew.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace

import numpy as np

from desktop.document import commands
from desktop.document.geometry import Rect
from desktop.document.tiles import Pixels, TileRaster
from desktop.tools.bench import Bench
from desktop.tools.pointer import Pointer
from flux_core.errors import RequestInvalid

_DRAG_PX = 6.0  # device pixels in the view; less is a click


@dataclass(frozen=True, slots=True)
class Mark:
    """A click on a pixel of the canvas: it belongs to the mask, or must not."""

    x_px: int
    y_px: int
    is_included: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Clicks:
    """What one mask is asked by.

    Attributes:
        base: The mask that is added to; None is replaced.
        marks: In their order.
        box: Around what is meant.
    """

    base: TileRaster | None = None
    marks: tuple[Mark, ...] = ()
    box: Rect | None = None

    @property
    def means_something(self) -> bool:
        return self.box is not None or any(mark.is_included for mark in self.marks)


class ClickMaskTool:
    """A click includes, with Alt or the right button it excludes, a drag boxes; Shift adds to the mask.

    Attributes:
        dragged: The box that is being drawn.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._start: Pointer | None = None
        self._asked: Clicks | None = None
        self._made: weakref.WeakKeyDictionary[TileRaster, Clicks] = weakref.WeakKeyDictionary()
        self.dragged: Rect | None = None

    @property
    def clicks(self) -> Clicks:
        """Those that the next one is added to."""
        selection = self._bench.document.committed_state.selection
        return self._asked or self._made.get(selection) or Clicks()

    def press(self, pointer: Pointer) -> None:
        x, y = int(pointer.x // 1), int(pointer.y // 1)
        size = self._bench.document.size
        if not (0 <= x < size.width and 0 <= y < size.height):
            raise RequestInvalid("There is no picture there.", "Click inside of it.")
        if _excludes(pointer) and not self.clicks.means_something:
            raise RequestInvalid("Nothing was clicked into the mask yet.", "Click what belongs to it first.")
        self._start = pointer

    def drag(self, pointer: Pointer) -> None:
        start = self._start
        if start is None:
            return
        moved = max(abs(pointer.view_x - start.view_x), abs(pointer.view_y - start.view_y))
        if moved > _DRAG_PX and not _excludes(start):
            self.dragged = _box_between(start, pointer).intersection(self._bench.document.state.canvas)
            self._bench.view.show_clicks()

    def release(self, pointer: Pointer) -> None:
        start, self._start = self._start, None
        box, self.dragged = self.dragged, None
        if start is None:
            return
        before = self.clicks
        if not before.means_something and start.has_shift:
            before = Clicks(base=self._bench.document.committed_state.selection)
        if box is not None:
            self._ask(replace(before, box=box))
        else:
            mark = Mark(int(start.x // 1), int(start.y // 1), not _excludes(start))
            self._ask(replace(before, marks=(*before.marks, mark)))

    def cancel(self) -> None:
        self._start = self.dragged = None
        self._bench.view.show_clicks()

    def take(self, clicks: Clicks, grey: Pixels) -> None:
        """The answer [H, W], 255 = belongs to it, becomes the mask; one to older clicks is passed over.

        Raises:
            RequestInvalid: The canvas has another size than when it was asked.
        """
        if clicks is not self._asked:
            return
        self._asked = None
        document = self._bench.document
        canvas = document.committed_state.canvas
        if grey.shape != (canvas.height, canvas.width):
            raise RequestInvalid("The canvas changed its size meanwhile.", "Click again.")
        if clicks.base is not None:
            grey = np.maximum(grey, clicks.base.read(canvas))
        commands.set_selection(document, TileRaster.from_array(grey), "Select by clicks")
        self._made[document.committed_state.selection] = clicks
        self._bench.view.show_clicks()

    def give_up(self, clicks: Clicks) -> None:
        """There will be no answer; the clicks before these hold again."""
        if clicks is self._asked:
            self._asked = None
            self._bench.view.show_clicks()

    def _ask(self, clicks: Clicks) -> None:
        self._asked = clicks
        self._bench.view.show_clicks()
        self._bench.view.ask_mask(clicks)


def _excludes(pointer: Pointer) -> bool:
    return pointer.has_alt or pointer.is_right_button


def _box_between(start: Pointer, end: Pointer) -> Rect:
    """Whole pixels, at least one each way."""
    left, top = int(min(start.x, end.x) // 1), int(min(start.y, end.y) // 1)
    right, bottom = int(max(start.x, end.x) // 1) + 1, int(max(start.y, end.y) // 1) + 1
    return Rect(left, top, right - left, bottom - top)
