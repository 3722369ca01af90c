"""Every edit a person can make, apart from brush strokes: one function, one undo step.

Each takes the document and what to change, derives the next state from the committed one and commits it.
A layer that is locked refuses changes of its pixels and mask, its merging and its removal; everything
about its looks and place stays free. Edits of a slider carry a merge key, so that a drag is one step
until `document.seal()`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import replace
from typing import Any, cast

from desktop.document import compositor, mask
from desktop.document.blend import BlendMode
from desktop.document.document import Document
from desktop.document.geometry import MAX_PIXELS, check_canvas_size
from desktop.document.layers import (
    GenerativeLayer,
    GroupLayer,
    Layer,
    RasterLayer,
    Recipe,
    Variant,
    new_id,
)
from desktop.document.state import DocumentState, Location
from desktop.document.tiles import TileRaster
from flux_core.errors import RequestInvalid
from flux_core.imaging import masks

# Structure


def add_layer(
    document: Document, layer: Layer, *, parent: str | None = None, index: int | None = None
) -> str:
    """Adds `layer` and makes it active; returns its id.

    Without an index it goes right above the active layer, or into the active group on top; with one, at
    `index` of `parent` (None = root).
    """
    state = document.committed_state
    place = _above_active(document) if index is None else Location(parent, index)
    document.commit("Add layer", state.inserted(layer, *place), active_id=layer.id)
    return layer.id


def delete_layer(document: Document, layer_id: str) -> None:
    """Deletes a layer with its children; raises RequestInvalid if it or one of them is locked."""
    state = document.committed_state
    layer = _layer(state, layer_id)
    _check_unlocked(layer)
    place = state.location(layer_id)
    after = state.removed(layer_id)
    active = None
    if document.active_id is not None and after.find(document.active_id) is None:
        siblings = after.children(place.parent)
        active = siblings[max(place.position - 1, 0)].id if siblings else place.parent
    document.commit("Delete layer", after, active_id=active)


def move_layer(document: Document, layer_id: str, parent: str | None, index: int) -> None:
    """Moves a layer to `index` of `parent` (None = root), counted as if it had been taken out first.

    Raises:
        RequestInvalid: `parent` is no group, or lies inside the layer itself.
    """
    state = document.committed_state
    layer = _layer(state, layer_id)
    if parent is not None and not isinstance(state.find(parent), GroupLayer):
        raise RequestInvalid("Layers can only be moved into a group.", "Choose a group.")
    if parent is not None and any(inner.id == parent for inner in _branch(layer)):
        raise RequestInvalid("A group cannot be moved into itself.", "Choose another place.")
    remaining = state.removed(layer_id)
    index = max(0, min(index, len(remaining.children(parent))))
    if state.location(layer_id) == Location(parent, index):
        return
    document.commit("Move layer", remaining.inserted(layer, parent, index))


def duplicate_layer(document: Document, layer_id: str) -> str:
    """Puts a copy right above a layer and makes it active; returns the copy's id. Pixels are shared."""
    state = document.committed_state
    copy = _copied(_layer(state, layer_id))
    copy = replace(copy, name=f"{copy.name} copy")
    place = state.location(layer_id)
    after = state.inserted(copy, place.parent, place.position + 1)
    document.commit("Duplicate layer", after, active_id=copy.id)
    return copy.id


def group_layers(document: Document, layer_ids: Iterable[str], name: str) -> str:
    """Puts layers into a new group where the top-most of them was; returns the group's id.

    A layer inside another one that is listed too goes along with it.
    """
    state = document.committed_state
    wanted = set(layer_ids)
    chosen = [layer for layer in state.walk() if layer.id in wanted]
    inside = {inner.id for layer in chosen for inner in _branch(layer) if inner is not layer}
    chosen = [layer for layer in chosen if layer.id not in inside]
    if not chosen:
        raise RequestInvalid("There is nothing to group.", "Choose at least one layer.")
    place = state.location(chosen[-1].id)
    group = GroupLayer(name=name)
    after = state.inserted(group, place.parent, place.position + 1)
    for layer in chosen:
        after = after.removed(layer.id)
    after = after.replaced(replace(group, children=tuple(chosen)))
    document.commit("Group layers", after, active_id=group.id)
    return group.id


def merge_down(document: Document, layer_id: str) -> None:
    """Merges a layer into the one below it, which keeps its name, id and blend mode; masks are applied.

    Raises:
        RequestInvalid: There is nothing below, it is a group, or one of the two is locked or hidden.
    """
    state = document.committed_state
    upper = _layer(state, layer_id)
    place = state.location(layer_id)
    if place.position == 0:
        raise RequestInvalid("There is no layer below to merge into.", "Move the layer up first.")
    lower = state.children(place.parent)[place.position - 1]
    for layer in (upper, lower):
        _check_unlocked(layer)
        if not layer.is_visible:
            raise RequestInvalid(f'"{layer.name}" is hidden.', "Show both layers before merging them.")
    if isinstance(lower, GroupLayer):
        raise RequestInvalid("A layer cannot be merged into a group.", "Move it into the group instead.")
    base = replace(lower, blend=BlendMode.NORMAL)
    bounds = lower.bounds.union(upper.bounds)
    if bounds.width * bounds.height > MAX_PIXELS:
        bounds = bounds.intersection(state.canvas)
    merged = RasterLayer(
        id=lower.id,
        name=lower.name,
        blend=lower.blend,
        raster=TileRaster.from_array(compositor.render_layers((base, upper), bounds), bounds.x, bounds.y),
    )
    document.commit("Merge down", state.removed(layer_id).replaced(merged), active_id=lower.id)


# Looks


def rename_layer(document: Document, layer_id: str, name: str) -> None:
    """Gives a layer another name."""
    _change(document, "Rename layer", layer_id, name=name)


def set_visible(document: Document, layer_id: str, is_visible: bool) -> None:
    """Shows or hides a layer."""
    _change(document, "Show layer" if is_visible else "Hide layer", layer_id, is_visible=is_visible)


def set_locked(document: Document, layer_id: str, is_locked: bool) -> None:
    """Locks or unlocks a layer."""
    _change(document, "Lock layer" if is_locked else "Unlock layer", layer_id, is_locked=is_locked)


def set_opacity(document: Document, layer_id: str, opacity: float) -> None:
    """Sets the opacity in [0, 1]; changes in a row are one step until `document.seal()`."""
    if not 0.0 <= opacity <= 1.0:
        raise RequestInvalid(f"An opacity of {opacity} is not possible.", "Use 0 to 1.")
    _change(document, "Layer opacity", layer_id, merge_key=("opacity", layer_id), opacity=float(opacity))


def set_blend(document: Document, layer_id: str, blend: BlendMode) -> None:
    """Sets the blend mode."""
    _change(document, "Blend mode", layer_id, blend=blend)


def set_isolated(document: Document, layer_id: str, is_isolated: bool) -> None:
    """Makes a group isolated or pass-through; raises RequestInvalid if it is no group."""
    if not isinstance(_layer(document.committed_state, layer_id), GroupLayer):
        raise RequestInvalid("Only a group can be pass-through.", "Choose a group.")
    _change(document, "Group isolation", layer_id, is_isolated=is_isolated)


# Masks of layers


def add_mask(document: Document, layer_id: str, layer_mask: TileRaster | None = None) -> None:
    """Gives a layer a mask (by default one that shows all), in place of the one it may have."""
    if layer_mask is not None and layer_mask.channels != 1:
        raise RequestInvalid("A mask must be grey.", "Convert it to grey first.")
    _check_unlocked(_layer(document.committed_state, layer_id))
    _change(document, "Add mask", layer_id, mask=layer_mask or mask.show_all())


def remove_mask(document: Document, layer_id: str) -> None:
    """Drops a layer's mask; its pixels are as they were before the mask."""
    _check_unlocked(_layer(document.committed_state, layer_id))
    _change(document, "Remove mask", layer_id, mask=None)


def invert_mask(document: Document, layer_id: str) -> None:
    """Shows what was hidden and hides what was shown."""
    layer = _layer(document.committed_state, layer_id)
    _check_unlocked(layer)
    if layer.mask is None:
        raise RequestInvalid(f'"{layer.name}" has no mask.', "Add a mask first.")
    _change(document, "Invert mask", layer_id, mask=layer.mask.inverted())


# Pixels


def set_pixels(document: Document, layer_id: str, raster: TileRaster, label: str = "Change pixels") -> None:
    """Replaces all pixels of a raster or generative layer."""
    layer = _layer(document.committed_state, layer_id)
    _check_unlocked(layer)
    if not isinstance(layer, RasterLayer) or raster.channels != 4:
        raise RequestInvalid(f'"{layer.name}" has no pixels of its own.', "Choose a layer with pixels.")
    _change(document, label, layer_id, raster=raster)


def shift_layer(document: Document, layer_id: str, dx: int, dy: int) -> None:
    """Moves a layer's pixels, mask and children by whole pixels; a drag is one step until `seal()`."""
    state = document.committed_state
    layer = _layer(state, layer_id)
    _check_unlocked(layer)
    if (dx, dy) != (0, 0):
        after = state.replaced(_shifted(layer, dx, dy))
        document.commit("Move pixels", after, merge_key=("shift", layer_id))


def insert_generated(
    document: Document,
    *,
    name: str,
    recipe: Recipe,
    raster: TileRaster,
    layer_mask: TileRaster | None = None,
    above: str | None = None,
) -> str:
    """Adds a finished job's picture as a generative layer and makes it active; returns its id.

    Args:
        document: Where it goes; its active layer may have changed since the job began.
        name: By custom "prompt (seed)".
        recipe: How it was made, with the crops as the engine gave them.
        raster: The chosen variant's pixels, placed on the document.
        layer_mask: What of it shows; None shows all.
        above: Id of the layer it goes right above; the top of the root if None or gone.
    """
    state = document.committed_state
    layer = GenerativeLayer(name=name, recipe=recipe, raster=raster, mask=layer_mask)
    place = Location(None, len(state.layers))
    if above is not None and state.find(above) is not None:
        below = state.location(above)
        place = Location(below.parent, below.position + 1)
    document.commit("Insert result", state.inserted(layer, *place), active_id=layer.id)
    return layer.id


def choose_variant(document: Document, layer_id: str, chosen: int, raster: TileRaster) -> None:
    """Shows another variant of a generative layer; `raster` holds its pixels, placed on the document."""
    layer = _layer(document.committed_state, layer_id)
    _check_unlocked(layer)
    if not isinstance(layer, GenerativeLayer) or not 0 <= chosen < len(layer.recipe.variants):
        raise RequestInvalid(f'"{layer.name}" has no variant {chosen + 1}.', "Choose one that exists.")
    recipe = replace(layer.recipe, chosen=chosen)
    _change(document, "Choose variant", layer_id, recipe=recipe, raster=raster)


def add_variants(document: Document, layer_id: str, variants: Iterable[Variant]) -> None:
    """Adds pictures to a generative layer's recipe without changing what it shows."""
    layer = _layer(document.committed_state, layer_id)
    if not isinstance(layer, GenerativeLayer):
        raise RequestInvalid(f'"{layer.name}" was not generated.', "Choose a generated layer.")
    recipe = replace(layer.recipe, variants=(*layer.recipe.variants, *variants))
    _change(document, "Add variants", layer_id, recipe=recipe)


# Canvas and selection


def resize_canvas(document: Document, width: int, height: int, dx: int = 0, dy: int = 0) -> None:
    """Gives the canvas another size and moves everything by (dx, dy); no pixel outside is cut.

    Adding 100 px on the left is `resize_canvas(d, w + 100, h, dx=100)`.

    Raises:
        RequestInvalid: The size is impossible.
    """
    state = document.committed_state
    size = check_canvas_size(width, height)
    if size == state.size and (dx, dy) == (0, 0):
        return
    after = replace(state, size=size)
    if (dx, dy) != (0, 0):
        layers = tuple(_shifted(layer, dx, dy) for layer in state.layers)
        after = replace(after, layers=layers, selection=state.selection.shifted(dx, dy))
    after = replace(after, selection=after.selection.cropped(after.canvas))
    document.commit("Resize canvas", after)


def set_selection(document: Document, selection: TileRaster, label: str = "Select") -> None:
    """Replaces the selection (inpaint mask); what lies outside the canvas is dropped."""
    if selection.channels != 1:
        raise RequestInvalid("A selection must be grey.", "Convert it to grey first.")
    state = document.committed_state
    if selection.fill:
        selection = TileRaster.from_array(selection.read(state.canvas))
    document.commit(label, replace(state, selection=selection.cropped(state.canvas)))


def select_all(document: Document) -> None:
    """Marks the whole canvas for repainting."""
    set_selection(document, mask.select_rect(document.committed_state.canvas), "Select all")


def clear_selection(document: Document) -> None:
    """Marks nothing for repainting."""
    if document.committed_state.selection.tiles:
        set_selection(document, mask.nothing_selected(), "Clear selection")


def invert_selection(document: Document) -> None:
    """Repaints what was kept and keeps what was to be repainted."""
    set_selection(document, document.committed_state.selection.inverted(), "Invert selection")


def grow_selection(document: Document, radius_px: int) -> None:
    """Grows the selection by `radius_px`, or shrinks it if negative; at most 256 px."""
    if abs(radius_px) > masks.MAX_GROW_PX:
        raise RequestInvalid(
            f"A selection cannot grow by {radius_px} pixels.", f"Use at most {masks.MAX_GROW_PX}."
        )
    state = document.committed_state
    if radius_px and state.selection.tiles:
        label = "Grow selection" if radius_px > 0 else "Shrink selection"
        set_selection(document, mask.grown(state.selection, radius_px, state.canvas), label)


# Parts


def _change(
    document: Document, label: str, layer_id: str, *, merge_key: Hashable = None, **values: object
) -> None:
    """Commits the layer with these attributes; an edit that changes nothing makes no step."""
    state = document.committed_state
    layer = _layer(state, layer_id)
    if any(_is_other(getattr(layer, name), value) for name, value in values.items()):
        changed = replace(layer, **cast(Any, values))
        document.commit(label, state.replaced(changed), merge_key=merge_key)


def _is_other(old: object, new: object) -> bool:
    return old != new if isinstance(new, (str, float, bool)) else old is not new


def _layer(state: DocumentState, layer_id: str) -> Layer:
    found = state.find(layer_id)
    if found is None:
        raise RequestInvalid("That layer no longer exists.", "Choose another layer.")
    return found


def _branch(layer: Layer) -> Iterator[Layer]:
    yield layer
    if isinstance(layer, GroupLayer):
        for child in layer.children:
            yield from _branch(child)


def _check_unlocked(layer: Layer) -> None:
    locked = next((one for one in _branch(layer) if one.is_locked), None)
    if locked is not None:
        raise RequestInvalid(f'"{locked.name}" is locked.', "Unlock the layer first.")


def _above_active(document: Document) -> Location:
    state, active = document.committed_state, document.active_layer
    if active is None or state.find(active.id) is None:
        return Location(None, len(state.layers))
    if isinstance(active, GroupLayer):
        return Location(active.id, len(active.children))
    place = state.location(active.id)
    return Location(place.parent, place.position + 1)


def _copied(layer: Layer) -> Layer:
    if isinstance(layer, GroupLayer):
        return replace(layer, id=new_id(), children=tuple(_copied(child) for child in layer.children))
    return replace(layer, id=new_id())


def _shifted(layer: Layer, dx: int, dy: int) -> Layer:
    moved = layer if layer.mask is None else replace(layer, mask=layer.mask.shifted(dx, dy))
    if isinstance(moved, GroupLayer):
        return replace(moved, children=tuple(_shifted(child, dx, dy) for child in moved.children))
    if isinstance(moved, GenerativeLayer):
        recipe = replace(moved.recipe, box=moved.recipe.box.translated(dx, dy))
        return replace(moved, raster=moved.raster.shifted(dx, dy), recipe=recipe)
    if isinstance(moved, RasterLayer):
        return replace(moved, raster=moved.raster.shifted(dx, dy))
    return moved
