"""A document at one moment: an immutable tree of layers, a size and a selection.

Every edit makes a new DocumentState that shares all that did not change, so undo is keeping the old one,
and handing a state to another thread (autosave, saving, a job) costs nothing and needs no lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from desktop.document import mask
from desktop.document.geometry import Extent, Rect, whole
from desktop.document.layers import GroupLayer, Layer
from desktop.document.tiles import TileRaster


class Location(NamedTuple):
    """Where a layer stands: its group's id (None = root) and its position there, 0 at the bottom."""

    parent: str | None
    position: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DocumentState:
    """All that is saved, undone and rendered.

    Attributes:
        size: Of the canvas.
        layers: The root's layers, bottom to top.
        selection: The inpaint mask; its polarity is stated in mask.py.
    """

    size: Extent
    layers: tuple[Layer, ...] = ()
    selection: TileRaster = field(default_factory=mask.nothing_selected)

    @property
    def canvas(self) -> Rect:
        return whole(self.size)

    def walk(self) -> Iterator[Layer]:
        """Every layer, groups before their children, bottom to top."""
        return _walk(self.layers)

    def find(self, layer_id: str | None) -> Layer | None:
        """The layer with this id, or None."""
        return next((layer for layer in self.walk() if layer.id == layer_id), None)

    def layer(self, layer_id: str) -> Layer:
        """The layer with this id.

        Raises:
            KeyError: There is none.
        """
        found = self.find(layer_id)
        if found is None:
            raise KeyError(layer_id)
        return found

    def children(self, parent: str | None) -> tuple[Layer, ...]:
        """The layers of the root (None) or of a group.

        Raises:
            KeyError: `parent` is no group of this document.
        """
        if parent is None:
            return self.layers
        group = self.layer(parent)
        if not isinstance(group, GroupLayer):
            raise KeyError(parent)
        return group.children

    def location(self, layer_id: str) -> Location:
        """Where the layer stands.

        Raises:
            KeyError: There is no such layer.
        """
        found = _locate(None, self.layers, layer_id)
        if found is None:
            raise KeyError(layer_id)
        return found

    def inserted(self, layer: Layer, parent: str | None, index: int) -> DocumentState:
        """With `layer` at `index` of `parent`; the index is clamped to what exists."""
        return self._with_children(parent, lambda layers: (*layers[:index], layer, *layers[index:]))

    def removed(self, layer_id: str) -> DocumentState:
        """Without the layer and its children."""
        parent = self.location(layer_id).parent
        return self._with_children(parent, lambda layers: tuple(one for one in layers if one.id != layer_id))

    def moved(self, layer_id: str, parent: str | None, index: int) -> DocumentState:
        """With the layer at `index` of `parent`, counted after it was taken out of its old place."""
        layer = self.layer(layer_id)
        return self.removed(layer_id).inserted(layer, parent, index)

    def replaced(self, layer: Layer) -> DocumentState:
        """With `layer` in place of the one that has the same id."""
        parent = self.location(layer.id).parent
        return self._with_children(
            parent, lambda layers: tuple(layer if one.id == layer.id else one for one in layers)
        )

    def _with_children(
        self, parent: str | None, change: Callable[[tuple[Layer, ...]], tuple[Layer, ...]]
    ) -> DocumentState:
        if parent is None:
            return replace(self, layers=change(self.layers))
        return replace(self, layers=_rebuild(self.layers, parent, change))


def _walk(layers: tuple[Layer, ...]) -> Iterator[Layer]:
    for layer in layers:
        yield layer
        if isinstance(layer, GroupLayer):
            yield from _walk(layer.children)


def _locate(parent: str | None, layers: tuple[Layer, ...], layer_id: str) -> Location | None:
    for index, layer in enumerate(layers):
        if layer.id == layer_id:
            return Location(parent, index)
        if isinstance(layer, GroupLayer):
            found = _locate(layer.id, layer.children, layer_id)
            if found is not None:
                return found
    return None


def _rebuild(
    layers: tuple[Layer, ...], parent: str, change: Callable[[tuple[Layer, ...]], tuple[Layer, ...]]
) -> tuple[Layer, ...]:
    out: list[Layer] = []
    for layer in layers:
        if isinstance(layer, GroupLayer):
            if layer.id == parent:
                layer = replace(layer, children=change(layer.children))
            else:
                children = _rebuild(layer.children, parent, change)
                if any(new is not old for new, old in zip(children, layer.children, strict=True)):
                    layer = replace(layer, children=children)
        out.append(layer)
    return tuple(out)
