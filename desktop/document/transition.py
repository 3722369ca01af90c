"""From one state to another in steps that watchers can follow.

Do, undo and redo all swap one immutable state for another; here the difference is found and told as
single insertions, moves, removals and changes of a layer, each with the state as it is at that moment.
One path for every edit means that a view which follows these steps can never fall out of step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace

from desktop.document.events import DocumentEvents
from desktop.document.geometry import EMPTY, Rect
from desktop.document.layers import GroupLayer, Layer, RasterLayer
from desktop.document.state import DocumentState, Location

SetState = Callable[[DocumentState], None]


def run(old: DocumentState, new: DocumentState, set_state: SetState, events: DocumentEvents) -> None:
    """Takes the document from `old` to `new`: sets the states between and emits what happens."""
    if new is old:
        return
    mover = _Mover(old, new, set_state, events)
    mover.remove_whole_branches()
    mover.place(None, new.layers)
    mover.remove_the_rest()
    changes = list(_changed_layers(mover.state, new))
    set_state(new)
    for layer_id, names in changes:
        events.layer_changed.emit(layer_id, names)
    if new.size != old.size:
        events.size_changed.emit(new.size)
    selected = new.selection.changed_rect(old.selection)
    if new.selection.fill != old.selection.fill:
        selected = new.canvas.union(old.canvas)
    if not selected.is_empty:
        events.selection_changed.emit(selected)
    dirty = dirty_rect(old, new)
    if not dirty.is_empty:
        events.pixels_changed.emit(dirty)


def dirty_rect(old: DocumentState, new: DocumentState) -> Rect:
    """Where the composites of both may differ, clipped to the larger canvas; whole tiles."""
    canvas = new.canvas.union(old.canvas)
    if new.size != old.size:
        return canvas
    return _dirty(old.layers, new.layers).intersection(canvas)


def _dirty(old: tuple[Layer, ...], new: tuple[Layer, ...]) -> Rect:
    if old is new:
        return EMPTY
    before = {layer.id: layer for layer in old}
    after = {layer.id: layer for layer in new}
    dirty = EMPTY
    for layer in (*old, *new):
        if layer.id not in before or layer.id not in after:
            dirty = dirty.union(_shown(layer))
    for layer_id in before.keys() & after.keys():
        dirty = dirty.union(_dirty_layer(before[layer_id], after[layer_id]))
    order_before = [layer for layer in old if layer.id in after]
    order_after = [layer.id for layer in new if layer.id in before]
    for layer, other_id in zip(order_before, order_after, strict=True):
        if layer.id != other_id:
            dirty = dirty.union(_shown(layer)).union(_shown(after[other_id]))
    return dirty


def _dirty_layer(old: Layer, new: Layer) -> Rect:
    if old is new or not (old.is_visible or new.is_visible):
        return EMPTY
    names = _differences(old, new)
    if names & {"opacity", "is_visible", "blend", "is_isolated", "type"} or _is_other_mask(old, new):
        return old.bounds.union(new.bounds)
    dirty = EMPTY
    if old.mask is not None and new.mask is not None:
        dirty = old.mask.changed_rect(new.mask)
    if isinstance(old, RasterLayer) and isinstance(new, RasterLayer):
        dirty = dirty.union(old.raster.changed_rect(new.raster))
    if isinstance(old, GroupLayer) and isinstance(new, GroupLayer):
        dirty = dirty.union(_dirty(old.children, new.children))
    return dirty


def _is_other_mask(old: Layer, new: Layer) -> bool:
    if old.mask is None or new.mask is None:
        return old.mask is not new.mask
    return old.mask.fill != new.mask.fill


def _shown(layer: Layer) -> Rect:
    return layer.bounds if layer.is_visible else EMPTY


def _differences(old: Layer, new: Layer) -> frozenset[str]:
    """Names of the attributes that differ, by identity for pixels; "type" if the classes differ."""
    if type(old) is not type(new):
        return frozenset({"type", *(field.name for field in fields(new))} - {"children"})
    return frozenset(
        field.name
        for field in fields(new)
        if field.name != "children" and not _is_same(getattr(old, field.name), getattr(new, field.name))
    )


def _is_same(one: object, other: object) -> bool:
    if isinstance(one, (str, float, bool)):
        return one == other
    return one is other


def _changed_layers(old: DocumentState, new: DocumentState) -> Iterator[tuple[str, frozenset[str]]]:
    before = {layer.id: layer for layer in old.walk()}
    for layer in new.walk():
        names = _differences(before[layer.id], layer)
        if names:
            yield layer.id, names


class _Mover:
    """Carries the structural steps out, one at a time."""

    def __init__(
        self, old: DocumentState, new: DocumentState, set_state: SetState, events: DocumentEvents
    ) -> None:
        self.state = old
        self._set_state = set_state
        self._events = events
        self._wanted = {layer.id for layer in new.walk()}

    def remove_whole_branches(self) -> None:
        """Removes what is gone with everything below it, before anything else moves."""
        for layer in tuple(self.state.walk()):
            gone = layer.id not in self._wanted and not self._has_survivor(layer)
            if gone and self.state.find(layer.id) is not None:
                self._remove(layer.id)

    def place(self, parent: str | None, wanted: tuple[Layer, ...]) -> None:
        """Brings the layers of `parent` into the wanted order, then those of its groups."""
        for index, layer in enumerate(wanted):
            self._place_one(Location(parent, index), layer, wanted)
        for layer in wanted:
            if isinstance(layer, GroupLayer):
                self.place(layer.id, layer.children)

    def remove_the_rest(self) -> None:
        """Removes groups whose surviving children have left."""
        for layer in tuple(self.state.walk()):
            if layer.id not in self._wanted and self.state.find(layer.id) is not None:
                self._remove(layer.id)

    def _place_one(self, place: Location, layer: Layer, wanted: tuple[Layer, ...]) -> None:
        existing = self.state.find(layer.id)
        if existing is None:
            self._insert(place, layer)
            return
        if isinstance(existing, GroupLayer) != isinstance(layer, GroupLayer):
            raise ValueError(f"layer {layer.id} cannot turn into or from a group")
        there = self.state.location(layer.id)
        if there == place:
            return
        if there == Location(place.parent, place.position + 1):
            # One layer was taken out of the middle: send that one on instead of pulling all others down.
            stray = self.state.children(place.parent)[place.position]
            later = next((i for i, one in enumerate(wanted) if one.id == stray.id), None)
            if later is not None:
                self._move(stray.id, Location(place.parent, later))
                return
        self._move(layer.id, place)

    def _has_survivor(self, layer: Layer) -> bool:
        return isinstance(layer, GroupLayer) and any(
            child.id in self._wanted or self._has_survivor(child) for child in layer.children
        )

    def _insert(self, place: Location, layer: Layer) -> None:
        self._events.layer_inserting.emit(*place)
        empty = replace(layer, children=()) if isinstance(layer, GroupLayer) else layer
        self._set(self.state.inserted(empty, *place))
        self._events.layer_inserted.emit(*place, layer.id)

    def _remove(self, layer_id: str) -> None:
        place = self.state.location(layer_id)
        self._events.layer_removing.emit(*place)
        self._set(self.state.removed(layer_id))
        self._events.layer_removed.emit(*place, layer_id)

    def _move(self, layer_id: str, place: Location) -> None:
        source = self.state.location(layer_id)
        last = len(self.state.children(place.parent)) - (source.parent == place.parent)
        target = Location(place.parent, min(place.position, last))
        if target == source:
            return
        self._events.layer_moving.emit(*source, *target)
        self._set(self.state.moved(layer_id, *target))
        self._events.layer_moved.emit(*source, *target, layer_id)

    def _set(self, state: DocumentState) -> None:
        self.state = state
        self._set_state(state)
