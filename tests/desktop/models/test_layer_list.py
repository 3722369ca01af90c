from __future__ import annotations

import pytest
from PySide6.QtCore import QModelIndex, Qt

from desktop.document import commands
from desktop.document.document import Document
from desktop.document.layers import RasterLayer
from desktop.document.stroke import Brush, Sample, Stroke, Target
from desktop.models.layer_list import LayerListModel, LayerRole


@pytest.fixture
def document() -> Document:
    document = Document.blank(64, 48)
    for name in ("sky", "hills", "tree"):
        commands.add_layer(document, RasterLayer(name=name))
    return document


@pytest.fixture
def model(qapp, document) -> LayerListModel:
    return LayerListModel(document)


def names(model: LayerListModel, parent: QModelIndex | None = None) -> list[str]:
    root = parent or QModelIndex()
    return [model.data(model.index(row, 0, root)) for row in range(model.rowCount(root))]


def index_of(model: LayerListModel, document: Document, name: str) -> QModelIndex:
    return model.index_of(next(layer.id for layer in document.state.walk() if layer.name == name))


def drop(model: LayerListModel, dragged: QModelIndex, row: int, parent: QModelIndex | None = None) -> None:
    mime = model.mimeData([dragged])
    root = parent or QModelIndex()
    assert model.canDropMimeData(mime, Qt.DropAction.MoveAction, row, 0, root)
    model.dropMimeData(mime, Qt.DropAction.MoveAction, row, 0, root)


def test_the_top_most_layer_comes_first(model):
    assert names(model) == ["tree", "hills", "sky"]


def test_the_model_keeps_qts_contract_through_every_kind_of_edit(qtmodeltester, model, document):
    qtmodeltester.check(model)
    hills = index_of(model, document, "hills")
    group = commands.group_layers(document, [model.layer_id(hills) or ""], "land")
    commands.add_layer(document, RasterLayer(name="river"))
    commands.move_layer(document, group, None, 0)
    commands.delete_layer(document, group)
    while document.undo():
        qtmodeltester.check(model)
    while document.redo():
        qtmodeltester.check(model)


def test_moves_and_undo_arrive_as_moves_not_as_resets(qtbot, model, document):
    with qtbot.assertNotEmitted(model.modelReset), qtbot.waitSignal(model.rowsMoved):
        commands.move_layer(document, document.layers[0].id, None, 2)
    assert names(model) == ["sky", "tree", "hills"]
    with qtbot.waitSignal(model.rowsMoved):
        document.undo()
    assert names(model) == ["tree", "hills", "sky"]


@pytest.mark.parametrize(
    ("dragged", "row", "expected"),
    [
        ("tree", 3, ["hills", "sky", "tree"]),
        ("tree", 2, ["hills", "tree", "sky"]),
        ("sky", 0, ["sky", "tree", "hills"]),
        ("hills", 0, ["hills", "tree", "sky"]),
        ("hills", 1, ["tree", "hills", "sky"]),
        ("hills", -1, ["tree", "sky", "hills"]),
    ],
)
def test_dragging_a_row_puts_the_layer_where_it_was_dropped(model, document, dragged, row, expected):
    drop(model, index_of(model, document, dragged), row)
    assert names(model) == expected


def test_a_layer_can_be_dropped_into_a_group_and_out_again(model, document):
    commands.group_layers(document, [document.layers[1].id], "land")
    land = index_of(model, document, "land")
    drop(model, index_of(model, document, "tree"), -1, land)
    land = index_of(model, document, "land")
    assert names(model, land) == ["tree", "hills"]
    drop(model, index_of(model, document, "tree"), 0)
    assert names(model) == ["tree", "land", "sky"]


def test_a_group_cannot_be_dropped_into_itself(model, document):
    commands.group_layers(document, [document.layers[1].id], "land")
    land = index_of(model, document, "land")
    assert not model.canDropMimeData(model.mimeData([land]), Qt.DropAction.MoveAction, 0, 0, land)


def test_the_check_mark_is_the_visibility_both_ways(model, document):
    tree = index_of(model, document, "tree")
    assert model.setData(tree, Qt.CheckState.Unchecked, Qt.ItemDataRole.CheckStateRole)
    assert not document.layers[2].is_visible
    document.undo()
    assert model.data(tree, Qt.ItemDataRole.CheckStateRole) == Qt.CheckState.Checked


def test_renaming_a_row_renames_the_layer_and_an_empty_name_is_refused(model, document):
    tree = index_of(model, document, "tree")
    assert model.setData(tree, "oak")
    assert not model.setData(tree, "  ")
    assert document.layers[2].name == "oak"


def test_a_row_is_brought_up_to_date_when_its_layer_changes(qtbot, model, document):
    with qtbot.waitSignal(model.dataChanged) as signal:
        commands.set_opacity(document, document.layers[0].id, 0.5)
    assert model.data(signal.args[0], LayerRole.OPACITY) == 0.5


def test_a_stroke_brings_the_row_up_to_date_when_the_pen_rests(qtbot, model, document):
    before = model.data(index_of(model, document, "tree"), Qt.ItemDataRole.DecorationRole).toImage()
    with qtbot.waitSignal(model.dataChanged) as changed:
        stroke = Stroke(document, Brush(color=(255, 0, 0)), Target.PIXELS)
        for x in range(0, 60, 5):
            stroke.add([Sample(x, 20)])
            assert not changed.signal_triggered
        stroke.finish()
    after = model.data(index_of(model, document, "tree"), Qt.ItemDataRole.DecorationRole).toImage()
    assert before != after


def test_a_detached_model_hears_nothing(qtbot, model, document):
    model.detach()
    with qtbot.assertNotEmitted(model.rowsInserted):
        commands.add_layer(document, RasterLayer(name="cloud"))
