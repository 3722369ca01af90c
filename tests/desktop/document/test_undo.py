"""Any sequence of edits can be taken back and done again, to the byte, and views can follow it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desktop.document import commands, mask
from desktop.document.blend import BlendMode
from desktop.document.compositor import render
from desktop.document.dabs import Sample
from desktop.document.document import Document
from desktop.document.geometry import EMPTY, Rect
from desktop.document.layers import GroupLayer, Layer, RasterLayer, Variant
from desktop.document.state import DocumentState
from desktop.document.stroke import Brush, Stroke, Target
from desktop.document.tiles import TileRaster
from flux_core.errors import RequestInvalid
from tests.support.documents import assert_same, everything, noise, raster_layer, recipe

Draw = Callable[..., object]


class Mirror:
    """A view's own copy of the tree, kept by events alone."""

    def __init__(self, document: Document) -> None:
        self.tree: dict[str | None, list[str]] = {None: []}
        for layer in document.state.walk():
            place = document.state.location(layer.id)
            self.tree.setdefault(place.parent, []).append(layer.id)
        self.document = document
        self.names = {layer.id: layer.name for layer in document.state.walk()}
        self.expected: tuple[object, ...] | None = None
        self.dirty = EMPTY
        events = document.events
        events.layer_inserting.connect(lambda *place: self.announce("insert", *place))
        events.layer_removing.connect(lambda *place: self.announce("remove", *place))
        events.layer_moving.connect(lambda *places: self.announce("move", *places))
        events.layer_inserted.connect(self.on_inserted)
        events.layer_removed.connect(self.on_removed)
        events.layer_moved.connect(self.on_moved)
        events.layer_changed.connect(self.on_changed)
        events.pixels_changed.connect(self.on_pixels)

    def announce(self, *what: object) -> None:
        assert self.expected is None
        self.expected = what

    def on_inserted(self, parent: str | None, index: int, layer_id: str) -> None:
        assert self.expected == ("insert", parent, index)
        self.expected = None
        self.tree.setdefault(parent, []).insert(index, layer_id)
        self.names[layer_id] = self.document.state.layer(layer_id).name

    def on_removed(self, parent: str | None, index: int, layer_id: str) -> None:
        assert self.expected == ("remove", parent, index)
        self.expected = None
        assert self.tree[parent].pop(index) == layer_id
        self.forget(layer_id)

    def on_moved(
        self, parent: str | None, index: int, new_parent: str | None, new_index: int, layer_id: str
    ) -> None:
        assert self.expected == ("move", parent, index, new_parent, new_index)
        self.expected = None
        assert self.tree[parent].pop(index) == layer_id
        self.tree.setdefault(new_parent, []).insert(new_index, layer_id)

    def on_changed(self, layer_id: str, names: frozenset[str]) -> None:
        assert names
        self.names[layer_id] = self.document.state.layer(layer_id).name

    def on_pixels(self, rect: Rect) -> None:
        self.dirty = self.dirty.union(rect)

    def forget(self, layer_id: str) -> None:
        del self.names[layer_id]
        for child in self.tree.pop(layer_id, []):
            self.forget(child)

    def assert_matches(self, state: DocumentState) -> None:
        assert self.names == {layer.id: layer.name for layer in state.walk()}
        assert self.tree[None] == [layer.id for layer in state.layers]
        for layer in state.walk():
            if isinstance(layer, GroupLayer):
                assert self.tree.get(layer.id, []) == [child.id for child in layer.children]


def edit_at_random(document: Document, draw: Draw) -> None:
    """One edit that a person could make here; refusals are part of life."""
    layers = list(document.committed_state.walk())
    groups: list[str | None] = [None, *(one.id for one in layers if isinstance(one, GroupLayer))]
    kind = draw(st.sampled_from(EDITS if layers else EDITS[:3]))
    layer = draw(st.sampled_from(layers)) if layers else None
    with suppress(RequestInvalid):
        kind(document, layer, groups, draw)


def paint(document: Document, layer: Layer | None, draw: Draw, target: Target) -> None:
    point = st.builds(Sample, st.floats(-50, 350), st.floats(-50, 350), st.floats(0, 1))
    brush = Brush(size_px=draw(st.floats(1, 90)), is_eraser=draw(st.booleans()), color=(9, 99, 199))
    stroke = Stroke(document, brush, target, layer.id if layer else None)
    stroke.add(draw(st.lists(point, max_size=3)))
    (stroke.finish if draw(st.integers(0, 4)) else stroke.cancel)()


def e_add(d: Document, layer: Layer | None, groups: list[str | None], draw: Draw) -> None:
    new = raster_layer(f"new {draw(st.integers(0, 9))}", noise(draw(st.integers(0, 5)), 40, 40), 230, 9)
    commands.add_layer(
        d, new, parent=draw(st.sampled_from(groups)), index=draw(st.none() | st.integers(0, 3))
    )


def e_select(d: Document, layer: Layer | None, groups: list[str | None], draw: Draw) -> None:
    act = draw(st.sampled_from(["all", "none", "invert", "grow", "rect", "paint"]))
    if act == "all":
        commands.select_all(d)
    elif act == "none":
        commands.clear_selection(d)
    elif act == "invert":
        commands.invert_selection(d)
    elif act == "grow":
        commands.grow_selection(d, draw(st.integers(-9, 9)))
    elif act == "rect":
        commands.set_selection(d, mask.select_rect(Rect(-9, 9, 60, 30), draw(st.integers(1, 255))))
    else:
        paint(d, None, draw, Target.SELECTION)


def e_canvas(d: Document, layer: Layer | None, groups: list[str | None], draw: Draw) -> None:
    width, height = draw(st.integers(0, 400)), draw(st.integers(1, 400))
    commands.resize_canvas(d, width, height, draw(st.integers(-60, 60)), draw(st.sampled_from([0, 256])))


def e_structure(d: Document, layer: Layer, groups: list[str | None], draw: Draw) -> None:
    act = draw(st.sampled_from(["delete", "move", "move", "move", "duplicate", "group", "merge"]))
    if act == "delete":
        commands.delete_layer(d, layer.id)
    elif act == "move":
        commands.move_layer(d, layer.id, draw(st.sampled_from(groups)), draw(st.integers(0, 6)))
    elif act == "duplicate":
        commands.duplicate_layer(d, layer.id)
    elif act == "group":
        ids = [one.id for one in d.state.walk()]
        commands.group_layers(d, draw(st.lists(st.sampled_from(ids), max_size=3)), "grouped")
    else:
        commands.merge_down(d, layer.id)


def e_looks(d: Document, layer: Layer, groups: list[str | None], draw: Draw) -> None:
    act = draw(st.sampled_from(["name", "visible", "locked", "opacity", "blend", "isolated", "active"]))
    if act == "name":
        commands.rename_layer(d, layer.id, draw(st.text(max_size=5)))
    elif act == "visible":
        commands.set_visible(d, layer.id, draw(st.booleans()))
    elif act == "locked":
        commands.set_locked(d, layer.id, draw(st.booleans()))
    elif act == "opacity":
        for value in draw(st.lists(st.floats(-0.1, 1), max_size=3)):
            commands.set_opacity(d, layer.id, value)
        if draw(st.booleans()):
            d.seal()
    elif act == "blend":
        commands.set_blend(d, layer.id, draw(st.sampled_from(BlendMode)))
    elif act == "isolated":
        commands.set_isolated(d, layer.id, draw(st.booleans()))
    else:
        d.active_id = layer.id


def e_mask(d: Document, layer: Layer, groups: list[str | None], draw: Draw) -> None:
    act = draw(st.sampled_from(["show", "hide", "noise", "remove", "invert", "paint"]))
    if act == "remove":
        commands.remove_mask(d, layer.id)
    elif act == "invert":
        commands.invert_mask(d, layer.id)
    elif act == "paint":
        paint(d, layer, draw, Target.LAYER_MASK)
    else:
        some = TileRaster.from_array(noise(1, 90, 90, 1), 30, 30)
        commands.add_mask(d, layer.id, {"show": None, "hide": mask.hide_all(), "noise": some}[act])


def e_pixels(d: Document, layer: Layer, groups: list[str | None], draw: Draw) -> None:
    act = draw(st.sampled_from(["paint", "paint", "set", "shift", "generated", "variant", "variants"]))
    raster = TileRaster.from_array(noise(draw(st.integers(0, 5)), 50, 60), draw(st.integers(-300, 300)), 3)
    if act == "paint":
        paint(d, layer, draw, Target.PIXELS)
    elif act == "set":
        commands.set_pixels(d, layer.id, raster)
    elif act == "shift":
        commands.shift_layer(d, layer.id, draw(st.integers(-300, 300)), draw(st.integers(-9, 9)))
    elif act == "generated":
        above = draw(st.sampled_from([layer.id, "gone", None]))
        commands.insert_generated(d, name="apple", recipe=recipe(), raster=raster, above=above)
    elif act == "variant":
        commands.choose_variant(d, layer.id, draw(st.integers(0, 3)), raster)
    else:
        commands.add_variants(d, layer.id, [Variant(b"png", 3)])


EDITS = [e_add, e_select, e_canvas, e_structure, e_structure, e_looks, e_looks, e_mask, e_pixels]


@settings(max_examples=80, deadline=None)
@given(st.data(), st.booleans())
def test_undoing_all_gives_the_start_and_redoing_all_gives_the_end(
    data: st.DataObject, is_full: bool
) -> None:
    document = Document(everything()) if is_full else Document.blank(200, 150)
    start, start_active = document.state, document.active_id
    mirror = Mirror(document)
    picture = render(document.state)
    for _ in range(data.draw(st.integers(1, 8))):
        before = document.state
        mirror.dirty = EMPTY
        edit_at_random(document, data.draw)
        mirror.assert_matches(document.state)
        picture = assert_only_dirty_changed(picture, before, document, mirror.dirty)
    end, end_active = document.state, document.active_id
    frozen = replace(end)

    while document.can_undo:
        assert document.undo()
        mirror.assert_matches(document.state)
    assert_same(document.state, start)
    assert document.state is start
    assert not document.is_modified
    assert document.state.find(document.active_id) is not None or not document.layers

    while document.can_redo:
        assert document.redo()
        mirror.assert_matches(document.state)
    assert_same(document.state, frozen)
    assert document.is_modified == (end is not start)
    del start_active, end_active


def assert_only_dirty_changed(
    picture: np.ndarray, before: DocumentState, document: Document, dirty: Rect
) -> np.ndarray:
    """What differs between the pictures lies inside what pixels_changed said."""
    now = render(document.state)
    if before.size == document.state.size:
        differs = (now != picture).any(axis=2)
        inside = dirty.intersection(document.state.canvas)
        differs[inside.slices_in(document.state.canvas)] = False
        assert not differs.any()
    return now


def test_a_slider_drag_is_one_step_until_it_is_sealed() -> None:
    document = Document(everything())
    layer = document.layers[0]
    for value in (0.9, 0.5, 0.2):
        commands.set_opacity(document, layer.id, value)
    document.seal()
    commands.set_opacity(document, layer.id, 0.1)
    document.undo()
    assert document.layers[0].opacity == 0.2
    document.undo()
    assert document.layers[0] is layer
    assert not document.can_undo


def test_an_edit_that_changes_nothing_makes_no_step() -> None:
    document = Document(everything())
    layer = document.layers[0]
    commands.set_opacity(document, layer.id, 1.0)
    commands.rename_layer(document, layer.id, layer.name)
    commands.move_layer(document, layer.id, None, 0)
    commands.shift_layer(document, layer.id, 0, 0)
    commands.resize_canvas(document, *document.size)
    stroke = Stroke(document, Brush(), Target.SELECTION)
    stroke.add([Sample(-500, -500)])
    stroke.finish()
    assert not document.can_undo
    assert not document.is_modified


def test_undoing_to_what_was_saved_is_not_modified_and_a_new_path_is() -> None:
    document = Document(everything())
    flags: list[bool] = []
    document.events.modified_changed.connect(flags.append)
    commands.set_visible(document, document.layers[0].id, False)
    document.mark_saved(document.committed_state)
    commands.set_visible(document, document.layers[0].id, True)
    document.undo()
    assert not document.is_modified
    document.undo()
    assert document.is_modified
    assert flags == [True, False, True, False, True]


def test_the_history_is_bounded_in_bytes_and_drops_the_oldest() -> None:
    document = Document(everything(), history_bytes=3 * 256 * 256 * 4)
    layer = document.layers[0]
    for seed in range(6):
        raster = TileRaster.from_array(noise(seed, 256, 256))
        commands.set_pixels(document, layer.id, raster, f"change {seed}")
    assert document.history.used_bytes <= 3 * 256 * 256 * 4
    undone = []
    while document.can_undo:
        undone.append(document.undo())
    assert undone == ["change 5", "change 4", "change 3"]


def test_an_edit_larger_than_the_limit_can_still_be_undone() -> None:
    document = Document(everything(), history_bytes=1)
    before = document.state
    commands.set_pixels(document, document.layers[0].id, TileRaster())
    assert document.undo() == "Change pixels"
    assert document.state is before


def test_locked_layers_refuse_changes_of_their_pixels() -> None:
    document = Document(everything())
    layer = document.layers[0]
    commands.set_locked(document, layer.id, True)
    attempts = [
        lambda: commands.delete_layer(document, layer.id),
        lambda: commands.set_pixels(document, layer.id, TileRaster()),
        lambda: commands.shift_layer(document, layer.id, 1, 1),
        lambda: commands.add_mask(document, layer.id),
        lambda: commands.merge_down(document, document.layers[1].id),
        lambda: Stroke(document, Brush(), Target.PIXELS, layer.id),
    ]
    for attempt in attempts:
        with pytest.raises(RequestInvalid, match="locked"):
            attempt()


def test_merging_down_does_not_change_the_picture() -> None:
    lower = raster_layer("lower", noise(1, 100, 100), 3, 3)
    grey = TileRaster.from_array(noise(3, 100, 100, 1), fill=255)
    upper = raster_layer("upper", noise(2, 100, 100), blend=BlendMode.MULTIPLY, opacity=0.6, mask=grey)
    document = Document(replace(everything(100, 100), layers=(lower, upper)))
    before = render(document.state)
    commands.merge_down(document, upper.id)
    assert [layer.id for layer in document.layers] == [lower.id]
    after = render(document.state)
    is_clear = (before[..., 3] == 0) & (after[..., 3] == 0)
    assert np.abs(after.astype(int) - before)[~is_clear].max() <= 1


def test_a_group_cannot_be_moved_into_itself() -> None:
    document = Document(everything())
    group = document.layers[2]
    with pytest.raises(RequestInvalid, match="into itself"):
        commands.move_layer(document, group.id, group.id, 0)


def test_every_new_layer_goes_right_above_the_active_one() -> None:
    document = Document(everything())
    document.active_id = document.layers[0].id
    added = commands.add_layer(document, RasterLayer(name="new"))
    assert document.layers[1].id == added == document.active_id
    document.undo()
    assert document.active_id == document.layers[0].id


def test_pixels_are_shared_between_states_and_cannot_be_changed() -> None:
    document = Document(everything())
    copy = commands.duplicate_layer(document, document.layers[0].id)
    layer, twin = document.layers[0], document.state.layer(copy)
    assert isinstance(layer, RasterLayer)
    assert isinstance(twin, RasterLayer)
    assert twin.raster is layer.raster
    assert document.history.used_bytes == 0
    with pytest.raises(ValueError, match="read-only"):
        next(iter(layer.raster.tiles.values()))[0, 0] = 1
