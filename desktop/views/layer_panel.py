"""The layer list with what can be done to a layer: order, looks, add and delete.

The tree shows a LayerListModel; everything a person does becomes a command on the document. Errors (a
locked layer, nothing below) go out as a signal and are shown by the window.
"""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QItemSelectionModel, QModelIndex, QSize, Qt, Signal
from PySide6.QtWidgets import QAbstractItemView, QComboBox, QHBoxLayout, QTreeView, QVBoxLayout, QWidget

from desktop.document import commands
from desktop.document.blend import BlendMode
from desktop.document.document import Document
from desktop.document.layers import Layer, RasterLayer
from desktop.i18n import tr
from desktop.models.layer_list import LayerListModel
from desktop.tools.settings import ToolSettings
from desktop.views.blend_titles import BLEND_TITLES, GROUPS_END
from desktop.views.controls import ValueSlider, follow, heading, icon_button
from desktop.views.layer_delegate import ROW_PX, LayerDelegate
from desktop.views.theme import SPACE_PX, Theme
from flux_core.errors import FluxError


class LayerPanel(QWidget):
    """Layers of the open document.

    Signals:
        refused(FluxError): A command could not be carried out.
    """

    refused = Signal(object)

    def __init__(self, theme: Theme, settings: ToolSettings, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._settings = settings
        self._document: Document | None = None
        self._model: LayerListModel | None = None
        self._disconnect: list[Callable[[], None]] = []
        self.blend = QComboBox()
        self.blend.setAccessibleName(tr("Blend mode"))
        self.blend.setToolTip(tr("Blend mode"))
        for mode, title in BLEND_TITLES.items():
            self.blend.addItem(tr(title), mode)
            if mode in GROUPS_END:
                self.blend.insertSeparator(self.blend.count())
        self.blend.setMaxVisibleItems(24)
        self.opacity = ValueSlider(tr("Opacity"), 0, 100, " %")
        self.tree = QTreeView()
        self.tree.setAccessibleName(tr("Layers"))
        self.tree.setHeaderHidden(True)
        self.tree.setUniformRowHeights(True)
        self.tree.setIndentation(2 * SPACE_PX)
        self.tree.setRootIsDecorated(False)
        self.tree.setDragDropMode(QAbstractItemView.DragDropMode.InternalMove)
        self.tree.setDefaultDropAction(Qt.DropAction.MoveAction)
        self.tree.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.tree.setEditTriggers(
            QAbstractItemView.EditTrigger.DoubleClicked | QAbstractItemView.EditTrigger.EditKeyPressed
        )
        self.tree.setIconSize(QSize(ROW_PX, ROW_PX))
        self.tree.setMinimumHeight(2 * ROW_PX)
        self.tree.setItemDelegate(LayerDelegate(theme, settings, self.tree))
        self._buttons = self._make_buttons(theme)
        self._lay_out()
        self.blend.activated.connect(self._on_blend)
        self.opacity.value_changed.connect(self._on_opacity)
        self.opacity.committed.connect(self._on_opacity_done)
        follow(self, settings.changed, self.tree.viewport().update)
        self._refresh()

    def set_document(self, document: Document | None) -> None:
        """Shows another document's layers."""
        for disconnect in self._disconnect:
            disconnect()
        self._disconnect = []
        old, self._model = self._model, None
        self._document = document
        if document is not None:
            self._model = LayerListModel(document, self)
            self._disconnect = [
                document.events.active_changed.connect(self._on_active),
                document.events.layer_changed.connect(lambda *_: self._refresh()),
                document.events.layer_inserted.connect(lambda *_: self._on_active(document.active_id)),
                document.events.layer_removed.connect(lambda *_: self._on_active(document.active_id)),
                document.events.layer_moved.connect(lambda *_: self._on_active(document.active_id)),
            ]
        self.tree.setModel(self._model)
        if self._model is not None:
            self.tree.expandAll()
            self.tree.selectionModel().currentChanged.connect(self._on_current)
            self._on_active(document.active_id if document is not None else None)
        if old is not None:
            old.detach()
            old.deleteLater()
        self._refresh()

    # -- what the buttons do ---------------------------------------------------------------------

    def add_layer(self) -> None:
        """An empty layer above the active one."""
        if self._document is not None:
            number = sum(1 for _ in self._document.state.walk()) + 1
            commands.add_layer(self._document, RasterLayer(name=tr("Layer {number}", number=number)))

    def duplicate_layer(self) -> None:
        self._try(lambda document, layer: commands.duplicate_layer(document, layer.id))

    def delete_layer(self) -> None:
        self._try(lambda document, layer: commands.delete_layer(document, layer.id))

    def merge_down(self) -> None:
        self._try(lambda document, layer: commands.merge_down(document, layer.id))

    def toggle_mask(self) -> None:
        """Adds a mask that shows all, and lets the brush work on it; removes the one there is."""
        self._try(self._toggle_mask)

    def shift(self, direction: int) -> None:
        """One place up (+1) or down (-1) among its siblings."""
        self._try(lambda document, layer: _shift(document, layer, direction))

    def toggle_visible(self) -> None:
        self._try(lambda document, layer: commands.set_visible(document, layer.id, not layer.is_visible))

    def toggle_locked(self) -> None:
        self._try(lambda document, layer: commands.set_locked(document, layer.id, not layer.is_locked))

    def _toggle_mask(self, document: Document, layer: Layer) -> None:
        if layer.mask is None:
            commands.add_mask(document, layer.id)
            self._settings.edits_layer_mask = True
        else:
            self._settings.edits_layer_mask = False
            commands.remove_mask(document, layer.id)

    def _try(self, act: Callable[[Document, Layer], object]) -> None:
        document = self._document
        layer = document.active_layer if document is not None else None
        if document is None or layer is None:
            return
        try:
            act(document, layer)
        except FluxError as err:
            self.refused.emit(err)

    # -- parts -----------------------------------------------------------------------------------

    def _make_buttons(self, theme: Theme) -> dict[str, QWidget]:
        table = (
            ("add", "plus", tr("Add a layer (Ctrl+Shift+N)"), self.add_layer),
            ("duplicate", "duplicate", tr("Duplicate the layer (Ctrl+J)"), self.duplicate_layer),
            ("mask", "layer-mask", tr("Add or remove a layer mask"), self.toggle_mask),
            ("lock", "lock", tr("Lock or unlock the layer"), self.toggle_locked),
            ("up", "up", tr("Move the layer up (Ctrl+])"), lambda: self.shift(1)),
            ("down", "down", tr("Move the layer down (Ctrl+[)"), lambda: self.shift(-1)),
            ("delete", "trash", tr("Delete the layer (Delete)"), self.delete_layer),
        )
        buttons: dict[str, QWidget] = {}
        for name, icon, tip, act in table:
            button = icon_button(theme, icon, tip)
            button.clicked.connect(lambda _=False, act=act: act())
            buttons[name] = button
        return buttons

    def _lay_out(self) -> None:
        looks = QHBoxLayout()
        looks.setSpacing(SPACE_PX)
        looks.addWidget(self.blend)
        looks.addWidget(self.opacity, 1)
        self.blend.setMinimumWidth(104)
        self.opacity.label.hide()
        self.opacity.slider.setToolTip(tr("Opacity"))
        foot = QHBoxLayout()
        foot.setSpacing(SPACE_PX // 2)
        for name in ("add", "duplicate", "mask", "lock"):
            foot.addWidget(self._buttons[name])
        foot.addStretch()
        for name in ("up", "down", "delete"):
            foot.addWidget(self._buttons[name])
        column = QVBoxLayout(self)
        column.setContentsMargins(2 * SPACE_PX, 2 * SPACE_PX, 2 * SPACE_PX, SPACE_PX)
        column.setSpacing(SPACE_PX)
        column.addWidget(heading(tr("Layers")))
        column.addLayout(looks)
        column.addWidget(self.tree, 1)
        column.addLayout(foot)

    def _refresh(self) -> None:
        layer = self._document.active_layer if self._document is not None else None
        for widget in (self.blend, self.opacity):
            widget.setEnabled(layer is not None)
        for name, button in self._buttons.items():
            button.setEnabled(layer is not None or (name == "add" and self._document is not None))
        if layer is not None:
            self.blend.setCurrentIndex(self.blend.findData(layer.blend))
            self.opacity.set_value(round(layer.opacity * 100))

    # -- signals ---------------------------------------------------------------------------------

    def _on_current(self, current: QModelIndex, _previous: QModelIndex) -> None:
        layer_id = self._model.layer_id(current) if self._model is not None else None
        if layer_id is not None and self._document is not None and layer_id != self._document.active_id:
            self._settings.edits_layer_mask = False
            self._document.active_id = layer_id

    def _on_active(self, layer_id: str | None) -> None:
        if self._model is not None:
            index = self._model.index_of(layer_id)
            if index.isValid() and index != self.tree.currentIndex():
                self.tree.selectionModel().setCurrentIndex(
                    index, QItemSelectionModel.SelectionFlag.ClearAndSelect
                )
        self._refresh()

    def _on_blend(self, _index: int) -> None:
        mode = BlendMode(self.blend.currentData())
        self._try(lambda document, layer: commands.set_blend(document, layer.id, mode))

    def _on_opacity(self, percent: int) -> None:
        self._try(lambda document, layer: commands.set_opacity(document, layer.id, percent / 100))

    def _on_opacity_done(self, _percent: int) -> None:
        if self._document is not None:
            self._document.seal()


def _shift(document: Document, layer: Layer, direction: int) -> None:
    place = document.state.location(layer.id)
    target = place.position + direction
    if 0 <= target < len(document.state.children(place.parent)):
        commands.move_layer(document, layer.id, place.parent, target)
