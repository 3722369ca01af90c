"""The layer tree as Qt sees it: rows top-most first, groups as parents.

An adapter and nothing more: it reads the document, turns the document's events into Qt's begin/end
pairs, and turns edits and drops into commands. It keeps no copy of any layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from PySide6.QtCore import (
    QAbstractItemModel,
    QByteArray,
    QMimeData,
    QModelIndex,
    QObject,
    QPersistentModelIndex,
    Qt,
    QTimer,
)

from desktop.document import commands
from desktop.document.document import Document
from desktop.document.layers import GenerativeLayer, GroupLayer, Layer
from desktop.models.thumbnails import Thumbnails

MIME = "application/x-flowbrush-layer"
_Index = QModelIndex | QPersistentModelIndex
_ROOT = QModelIndex()
_PIXELS = frozenset({"raster", "mask"})
_THUMBNAIL_MS = 150


class LayerRole(IntEnum):
    """What else a row can be asked for."""

    ID = Qt.ItemDataRole.UserRole + 1
    OPACITY = ID + 1
    BLEND = ID + 2
    IS_LOCKED = ID + 3
    IS_GENERATED = ID + 4
    HAS_MASK = ID + 5
    MASK_THUMBNAIL = ID + 6


@dataclass(frozen=True, slots=True)
class _Drop:
    parent: str | None
    index: int


class LayerListModel(QAbstractItemModel):
    """Rows of a document's layers.

    Args:
        document: What is shown; a model lives as long as its document is open.
        parent: Qt parent.
    """

    def __init__(self, document: Document, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._document = document
        self._repainted: set[str] = set()
        self._later = QTimer(self, interval=_THUMBNAIL_MS, singleShot=True)
        self._later.timeout.connect(self._on_later)
        self._thumbnails = Thumbnails()
        self._keys: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        events = document.events
        self._disconnect: list[Callable[[], None]] = [
            events.layer_inserting.connect(self._on_inserting),
            events.layer_inserted.connect(lambda *_: self.endInsertRows()),
            events.layer_removing.connect(self._on_removing),
            events.layer_removed.connect(lambda *_: self.endRemoveRows()),
            events.layer_moving.connect(self._on_moving),
            events.layer_moved.connect(lambda *_: self.endMoveRows()),
            events.layer_changed.connect(self._on_changed),
        ]
        self._read: dict[int, Callable[[Layer], Any]] = {
            Qt.ItemDataRole.DisplayRole: lambda layer: layer.name,
            Qt.ItemDataRole.EditRole: lambda layer: layer.name,
            Qt.ItemDataRole.ToolTipRole: lambda layer: layer.name,
            Qt.ItemDataRole.CheckStateRole: lambda layer: (
                Qt.CheckState.Checked if layer.is_visible else Qt.CheckState.Unchecked
            ),
            Qt.ItemDataRole.DecorationRole: lambda layer: self._thumbnails.of(layer, document.state.canvas),
            LayerRole.ID: lambda layer: layer.id,
            LayerRole.OPACITY: lambda layer: layer.opacity,
            LayerRole.BLEND: lambda layer: layer.blend.value,
            LayerRole.IS_LOCKED: lambda layer: layer.is_locked,
            LayerRole.IS_GENERATED: lambda layer: isinstance(layer, GenerativeLayer),
            LayerRole.HAS_MASK: lambda layer: layer.mask is not None,
            LayerRole.MASK_THUMBNAIL: lambda layer: self._thumbnails.of_mask(layer, document.state.canvas),
        }

    def detach(self) -> None:
        """Stops listening to the document."""
        for disconnect in self._disconnect:
            disconnect()
        self._disconnect.clear()
        self._later.stop()

    # -- rows ---------------------------------------------------------------------------------

    def layer_id(self, index: _Index) -> str | None:
        """Id of the layer in a row; None for the root."""
        if isinstance(index, QPersistentModelIndex):
            index = self.index(index.row(), index.column(), index.parent())
        return self._keys.get(index.internalId()) if index.isValid() else None

    def index_of(self, layer_id: str | None) -> QModelIndex:
        """The row of a layer; the root's index where there is none."""
        if layer_id is None or self._document.state.find(layer_id) is None:
            return QModelIndex()
        place = self._document.state.location(layer_id)
        count = len(self._document.state.children(place.parent))
        return self.createIndex(count - 1 - place.position, 0, self._number(layer_id))

    def index(self, row: int, column: int, parent: _Index = _ROOT) -> QModelIndex:
        children = self._children(parent)
        if column != 0 or not 0 <= row < len(children):
            return QModelIndex()
        return self.createIndex(row, 0, self._number(children[len(children) - 1 - row].id))

    def parent(self, index: QModelIndex | None = None) -> QModelIndex:  # type: ignore[override]
        layer_id = self.layer_id(index) if index is not None else None
        if layer_id is None or self._document.state.find(layer_id) is None:
            return QModelIndex()
        return self.index_of(self._document.state.location(layer_id).parent)

    def rowCount(self, parent: _Index = _ROOT) -> int:
        return 0 if parent.column() > 0 else len(self._children(parent))

    def columnCount(self, parent: _Index = _ROOT) -> int:
        return 1

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        layer = self._document.state.find(self.layer_id(index))
        read = self._read.get(role)
        return read(layer) if layer is not None and read is not None else None

    def setData(self, index: _Index, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        layer = self._document.state.find(self.layer_id(index))
        if layer is None:
            return False
        if role == Qt.ItemDataRole.EditRole:
            name = str(value).strip()
            if not name:
                return False
            commands.rename_layer(self._document, layer.id, name)
            return True
        if role == Qt.ItemDataRole.CheckStateRole:
            commands.set_visible(self._document, layer.id, Qt.CheckState(value) == Qt.CheckState.Checked)
            return True
        return False

    def flags(self, index: _Index) -> Qt.ItemFlag:
        if not index.isValid():
            return Qt.ItemFlag.ItemIsDropEnabled
        flags = (
            Qt.ItemFlag.ItemIsEnabled
            | Qt.ItemFlag.ItemIsSelectable
            | Qt.ItemFlag.ItemIsEditable
            | Qt.ItemFlag.ItemIsDragEnabled
            | Qt.ItemFlag.ItemIsUserCheckable
        )
        if isinstance(self._document.state.find(self.layer_id(index)), GroupLayer):
            return flags | Qt.ItemFlag.ItemIsDropEnabled
        return flags | Qt.ItemFlag.ItemNeverHasChildren

    # -- drag to reorder ----------------------------------------------------------------------

    def supportedDropActions(self) -> Qt.DropAction:
        return Qt.DropAction.MoveAction

    def mimeTypes(self) -> list[str]:
        return [MIME]

    def mimeData(self, indexes: Any) -> QMimeData:
        mime = QMimeData()
        layer_id = self.layer_id(indexes[0]) if indexes else None
        mime.setData(MIME, QByteArray((layer_id or "").encode()))
        return mime

    def canDropMimeData(
        self, data: QMimeData, action: Qt.DropAction, row: int, column: int, parent: _Index
    ) -> bool:
        return self._drop(data, row, parent) is not None

    def dropMimeData(
        self, data: QMimeData, action: Qt.DropAction, row: int, column: int, parent: _Index
    ) -> bool:
        """Moves the dragged layer; returns False so that the view does not remove the row itself."""
        drop = self._drop(data, row, parent)
        if drop is not None:
            layer_id = bytes(data.data(MIME).data()).decode()
            commands.move_layer(self._document, layer_id, drop.parent, drop.index)
        return False

    def _drop(self, data: QMimeData, row: int, parent: _Index) -> _Drop | None:
        """Where a drop at `row` of `parent` puts the layer, counted after it was taken out."""
        layer_id = bytes(data.data(MIME).data()).decode()
        state = self._document.state
        if not layer_id or state.find(layer_id) is None:
            return None
        target = self.layer_id(parent)
        if self._is_inside(target, layer_id):
            return None
        children = self._children(parent)
        place = state.location(layer_id)
        if row < 0:  # on the group itself, or on the empty part of the list
            row = 0 if target is not None else len(children)
        index = len(children) - row
        if place.parent == target and place.position < index:
            index -= 1
        return _Drop(target, index)

    def _is_inside(self, layer_id: str | None, group_id: str) -> bool:
        while layer_id is not None:
            if layer_id == group_id:
                return True
            layer_id = self._document.state.location(layer_id).parent
        return False

    # -- what the document says ----------------------------------------------------------------

    def _on_inserting(self, parent: str | None, index: int) -> None:
        row = len(self._document.state.children(parent)) - index
        self.beginInsertRows(self.index_of(parent), row, row)

    def _on_removing(self, parent: str | None, index: int) -> None:
        row = len(self._document.state.children(parent)) - 1 - index
        self.beginRemoveRows(self.index_of(parent), row, row)

    def _on_moving(self, parent: str | None, index: int, new_parent: str | None, new_index: int) -> None:
        state = self._document.state
        row = len(state.children(parent)) - 1 - index
        if parent == new_parent:
            target = len(state.children(parent)) - 1 - new_index
            target += 1 if target > row else 0
        else:
            target = len(state.children(new_parent)) - new_index
        self.beginMoveRows(self.index_of(parent), row, row, self.index_of(new_parent), target)

    def _on_changed(self, layer_id: str, names: frozenset[str]) -> None:
        if names <= _PIXELS:  # a stroke changes them at every move of the pen; a thumbnail can wait
            self._repainted.add(layer_id)
            if not self._later.isActive():
                self._later.start()
            return
        self._say_changed(layer_id)

    def _on_later(self) -> None:
        repainted, self._repainted = self._repainted, set()
        for layer_id in repainted:
            self._say_changed(layer_id)

    def _say_changed(self, layer_id: str) -> None:
        index = self.index_of(layer_id)
        if index.isValid():
            self.dataChanged.emit(index, index)

    def _children(self, parent: _Index) -> tuple[Layer, ...]:
        if not parent.isValid():
            return self._document.state.layers
        layer = self._document.state.find(self.layer_id(parent))
        return layer.children if isinstance(layer, GroupLayer) else ()

    def _number(self, layer_id: str) -> int:
        """A stable number for a layer, because Qt's indexes carry numbers."""
        number = self._numbers.get(layer_id)
        if number is None:
            number = len(self._numbers) + 1
            self._numbers[layer_id] = number
            self._keys[number] = layer_id
        return number
