"""What a document tells those who watch it, as plain Python signals.

Structural changes come one at a time in an -ing / -ed pair around the moment when `document.state`
changes, which is what a Qt item model needs for begin/endInsertRows. They are derived from the
difference of two states, so do, undo and redo announce themselves alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVarTuple

from desktop.document.geometry import Extent, Rect

P = TypeVarTuple("P")


class Signal(Generic[*P]):
    """A list of callbacks, called in the order in which they were connected."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[*P], object]] = []

    def connect(self, callback: Callable[[*P], object]) -> Callable[[], None]:
        """Calls `callback` at every emission; returns a function that disconnects it."""
        self._callbacks.append(callback)

        def disconnect() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return disconnect

    def emit(self, *payload: *P) -> None:
        """Calls every callback with `payload`."""
        for callback in tuple(self._callbacks):
            callback(*payload)


class DocumentEvents:
    """The signals of one document. `parent` is a group's id, or None for the root.

    Attributes:
        layer_inserting: (parent, index) before a layer is put at `index`.
        layer_inserted: (parent, index, layer_id); a group arrives empty, its children follow one by one.
        layer_removing: (parent, index) before a layer is taken away with all its children.
        layer_removed: (parent, index, layer_id).
        layer_moving: (parent, index, new_parent, new_index) before a layer is moved with its children.
        layer_moved: (parent, index, new_parent, new_index, layer_id). `new_index` counts after the
            layer was taken out of its old place.
        layer_changed: (layer_id, names) with the names of the attributes that differ ("opacity",
            "raster", "mask", ...), never "children".
        pixels_changed: (rect) the composite may look different in `rect`; once per edit, last.
        selection_changed: (rect) the selection differs in `rect`.
        size_changed: (extent) the canvas has a new size.
        active_changed: (layer_id or None).
        history_changed: () undo or redo, their labels or whether they are possible, changed.
        modified_changed: (is_modified).
    """

    def __init__(self) -> None:
        self.layer_inserting: Signal[str | None, int] = Signal()
        self.layer_inserted: Signal[str | None, int, str] = Signal()
        self.layer_removing: Signal[str | None, int] = Signal()
        self.layer_removed: Signal[str | None, int, str] = Signal()
        self.layer_moving: Signal[str | None, int, str | None, int] = Signal()
        self.layer_moved: Signal[str | None, int, str | None, int, str] = Signal()
        self.layer_changed: Signal[str, frozenset[str]] = Signal()
        self.pixels_changed: Signal[Rect] = Signal()
        self.selection_changed: Signal[Rect] = Signal()
        self.size_changed: Signal[Extent] = Signal()
        self.active_changed: Signal[str | None] = Signal()
        self.history_changed: Signal[()] = Signal()
        self.modified_changed: Signal[bool] = Signal()
