"""The window: puts the parts together and says who answers whom.

It holds no state of the picture: the document is the workspace's, the jobs are the bridge's, the tools'
settings are theirs. So it can be thrown away and built again, which is how the language changes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QByteArray, QSize, Qt, Signal
from PySide6.QtGui import (
    QActionGroup,
    QCloseEvent,
    QColor,
    QDragEnterEvent,
    QDropEvent,
    QGuiApplication,
    QImage,
    QKeySequence,
)
from PySide6.QtWidgets import (
    QColorDialog,
    QFrame,
    QLabel,
    QMainWindow,
    QSplitter,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from desktop.document import commands
from desktop.document.document import Document
from desktop.i18n import LANGUAGES, tr
from desktop.jobs.bridge import JobBridge
from desktop.jobs.plan import has_picture
from desktop.jobs.wish import Action
from desktop.models.workspace import Session, Workspace
from desktop.tools.settings import ToolSettings
from desktop.views import dialogs
from desktop.views.actions import Needs, key_groups, make_actions
from desktop.views.canvas import CanvasView
from desktop.views.controls import follow, icon_button, rule
from desktop.views.file_desk import FileDesk
from desktop.views.generate_panel import GeneratePanel
from desktop.views.health_line import HealthLine
from desktop.views.job_desk import JobDesk
from desktop.views.layer_panel import LayerPanel
from desktop.views.notice_bar import Notice, NoticeBar
from desktop.views.start_page import StartPage
from desktop.views.theme import SPACE_PX, Theme
from desktop.views.tool_bars import OptionsBar, ToolBar
from desktop.views.undo_titles import UNDO_TITLES
from flux_core.errors import FluxError

SIDE_PX = 320
_GROW_PX = 8
_INFORM_MS = 6000


class MainWindow(QMainWindow):
    """One document, its tools, its layers and its jobs.

    Args:
        theme: The look.
        workspace: The open document.
        jobs: The jobs.
        settings: The tools' settings.
        folder: Where file dialogs begin.
        language: The language in use, for the menu.
        version: Of the program.

    Signals:
        language_asked(str): Another language was chosen.
        closed: The window may go; everything was saved or given up.
    """

    language_asked = Signal(str)
    closed = Signal()

    def __init__(
        self,
        theme: Theme,
        workspace: Workspace,
        jobs: JobBridge,
        settings: ToolSettings,
        *,
        folder: str = "",
        language: str = "en",
        version: str = "",
    ) -> None:
        super().__init__()
        self.theme, self.workspace, self.jobs, self.settings = theme, workspace, jobs, settings
        self._language, self._version = language, version
        self._disconnect: list[Callable[[], None]] = []
        self._may_close = False
        self._make_parts()
        self.files = FileDesk(self, workspace, folder)
        self.job_desk = JobDesk(workspace, jobs, settings, self.generate, self.canvas, self.health, self)
        self._lay_out()
        self._connect()
        self._connect_actions()
        follow(self, settings.changed, self._on_tool)
        self._show_session(workspace.session)

    # -- parts -------------------------------------------------------------------------------------

    def _make_parts(self) -> None:
        theme = self.theme
        self.setAcceptDrops(True)
        self.setWindowIcon(theme.app_icon())
        self.canvas = CanvasView(theme, self.settings)
        self.start = StartPage(theme)
        self.notices = NoticeBar(theme)
        self.tool_bar = ToolBar(theme, self.settings)
        self.options = OptionsBar(theme, self.settings)
        self.generate = GeneratePanel(theme, self._language)
        self.layers = LayerPanel(theme, self.settings)
        self.health = HealthLine(theme)
        self.size_label = QLabel()
        self.zoom_label = QLabel()
        self.zoom_label.setMinimumWidth(64)
        self.zoom_label.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.fit_button = icon_button(theme, "fit", tr("Fit the picture into the window (Ctrl+0)"))
        self.fit_button.setIconSize(QSize(16, 16))
        self.undo_button = icon_button(theme, "undo", tr("Undo (Ctrl+Z)"))
        self.redo_button = icon_button(theme, "redo", tr("Redo (Ctrl+Shift+Z)"))
        self.stack = QStackedWidget()
        self.stack.addWidget(self.start)
        self.stack.addWidget(self.canvas)
        self.actions_by_name, menus = make_actions(self, self.menuBar(), theme)
        languages = menus["&View"].addMenu(tr("Language"))
        menus["&View"].insertSeparator(languages.menuAction())
        group = QActionGroup(self)
        for code, title in LANGUAGES.items():
            action = languages.addAction(title)
            action.setCheckable(True)
            action.setChecked(code == self._language)
            action.triggered.connect(lambda _=False, code=code: self.language_asked.emit(code))
            group.addAction(action)

    def _lay_out(self) -> None:
        self.addToolBar(Qt.ToolBarArea.LeftToolBarArea, self.tool_bar)
        self.addToolBar(Qt.ToolBarArea.TopToolBarArea, self.options)
        self.options.addWidget(self.undo_button)
        self.options.addWidget(self.redo_button)
        for bar in (self.tool_bar, self.options):
            bar.setContextMenuPolicy(Qt.ContextMenuPolicy.PreventContextMenu)
        middle = QWidget()
        column = QVBoxLayout(middle)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.notices)
        column.addWidget(self.stack, 1)
        side = QFrame()
        side.setObjectName("side")
        side.setMinimumWidth(SIDE_PX - 32)
        side.setMaximumWidth(SIDE_PX + 160)
        inner = QVBoxLayout(side)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.setSpacing(0)
        inner.addWidget(self.generate)
        inner.addWidget(rule())
        inner.addWidget(self.layers, 1)
        whole = QWidget()
        row = QSplitter(Qt.Orientation.Horizontal)
        row.addWidget(middle)
        row.addWidget(side)
        row.setStretchFactor(0, 1)
        row.setStretchFactor(1, 0)
        row.setSizes([10_000, SIDE_PX])
        row.setChildrenCollapsible(False)
        row.setHandleWidth(1)
        outer = QVBoxLayout(whole)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(0)
        outer.addWidget(row)
        self.setCentralWidget(whole)
        status = self.statusBar()
        status.setSizeGripEnabled(False)
        status.addWidget(self.health)
        for widget in (self.size_label, self.zoom_label, self.fit_button):
            status.addPermanentWidget(widget)
        status.setContentsMargins(0, 0, SPACE_PX, 0)
        self.resize(1360, 860)
        self.setMinimumSize(960, 640)
        self.setTabOrder(self.generate.prompt, self.generate.strength.slider)

    def _connect(self) -> None:
        workspace = self.workspace
        workspace.session_opened.connect(self._show_session)
        workspace.session_closing.connect(self._on_session_closing)
        workspace.titled.connect(self._refresh)
        workspace.saved.connect(self._on_saved)
        workspace.failed.connect(self.show_error)
        workspace.warned.connect(self._warn)
        workspace.informed.connect(self._inform)
        self.jobs.failed.connect(self.show_error)
        self.job_desk.noticed.connect(self.notices.show_notice)
        self.job_desk.changed.connect(self._refresh)
        self.canvas.refused.connect(self.show_error)
        self.canvas.viewport_changed.connect(self._refresh_status)
        self.layers.refused.connect(self.show_error)
        self.options.color_asked.connect(self._choose_color)
        self.options.invert_asked.connect(self.actions_by_name["mask_invert"].trigger)
        self.options.clear_asked.connect(self.actions_by_name["mask_clear"].trigger)
        self.fit_button.clicked.connect(self.canvas.zoom_to_fit)
        self.undo_button.clicked.connect(self.actions_by_name["undo"].trigger)
        self.redo_button.clicked.connect(self.actions_by_name["redo"].trigger)
        self.start.open_asked.connect(self.files.open)
        self.start.new_asked.connect(self.files.new)
        self.start.paste_asked.connect(self.files.paste)
        self.start.files_dropped.connect(self.files.open_files)
        self.start.image_dropped.connect(self.files.drop_image)
        self.start.recover_asked.connect(workspace.recover)
        self.start.discard_asked.connect(workspace.discard)

    def _connect_actions(self) -> None:
        layers, canvas, files = self.layers, self.canvas, self.files
        acts: dict[str, Callable[[], object]] = {
            "new": files.new,
            "open": files.open,
            "place": files.place,
            "save": files.save,
            "save_as": files.save_as,
            "export": files.export,
            "close": lambda: files.unless_unsaved(self.workspace.close),
            "quit": self.close,
            "undo": lambda: self._edit(lambda document: document.undo()),
            "redo": lambda: self._edit(lambda document: document.redo()),
            "copy": lambda: self.workspace.copy_picture(QGuiApplication.clipboard().setImage),
            "paste": files.paste,
            "swap_colors": self.settings.swap_colors,
            "reset_colors": self.settings.reset_colors,
            "larger": lambda: self.settings.step_size(1),
            "smaller": lambda: self.settings.step_size(-1),
            "add_layer": layers.add_layer,
            "duplicate_layer": layers.duplicate_layer,
            "merge_down": layers.merge_down,
            "delete_layer": layers.delete_layer,
            "layer_up": lambda: layers.shift(1),
            "layer_down": lambda: layers.shift(-1),
            "toggle_visible": layers.toggle_visible,
            "toggle_locked": layers.toggle_locked,
            "toggle_mask": layers.toggle_mask,
            "mask_all": lambda: self._edit(commands.select_all),
            "mask_clear": lambda: self._edit(commands.clear_selection),
            "mask_invert": lambda: self._edit(commands.invert_selection),
            "mask_grow": lambda: self._edit(lambda d: commands.grow_selection(d, _GROW_PX)),
            "mask_shrink": lambda: self._edit(lambda d: commands.grow_selection(d, -_GROW_PX)),
            "mask_tint": self._toggle_tint,
            "generate": self.generate.ask,
            "cancel_job": self.job_desk.cancel_first,
            "prompt": self.generate.prompt.setFocus,
            "select_words": lambda: self._begin_task(Action.SELECT),
            "map_layer": lambda: self._begin_task(Action.MAP),
            "describe": lambda: self._begin_task(Action.DESCRIBE),
            "score": lambda: self._begin_task(Action.SCORE),
            "similar": self.job_desk.looks.find_similar,
            "zoom_in": lambda: canvas.zoom_step(1),
            "zoom_out": lambda: canvas.zoom_step(-1),
            "zoom_fit": canvas.zoom_to_fit,
            "zoom_100": lambda: canvas.zoom_to(1.0),
            "zoom_200": lambda: canvas.zoom_to(2.0),
            "zoom_400": lambda: canvas.zoom_to(4.0),
            "zoom_800": lambda: canvas.zoom_to(8.0),
            "keys": lambda: dialogs.keys_dialog(self, key_groups()),
            "about": lambda: dialogs.about(self, self._version),
        }
        for name, action in self.actions_by_name.items():
            action.triggered.connect(lambda _=False, act=acts[name]: self._unless_painting(act))

    # -- what is shown -----------------------------------------------------------------------------

    def show_error(self, error: FluxError) -> None:
        """Says what went wrong, in the window."""
        self.notices.show_notice(Notice(error.message, error.hint))

    def _warn(self, text: str) -> None:
        self.notices.show_notice(Notice(text, kind="info"))

    def _inform(self, text: str) -> None:
        self.statusBar().showMessage(text, _INFORM_MS)

    def _show_session(self, session: Session | None) -> None:
        for disconnect in self._disconnect:
            disconnect()
        self._disconnect = []
        document = session.document if session is not None else None
        self.stack.setCurrentWidget(self.start if document is None else self.canvas)
        self.canvas.set_document(document)
        self.layers.set_document(document)
        self.job_desk.show_session(session)
        self.settings.edits_layer_mask = False
        if document is None:
            self.start.show_recoverable(self.workspace.recoverable())
            self.start.open_button.setFocus()
        else:
            events = document.events
            self._disconnect = [
                events.history_changed.connect(self._refresh),
                events.modified_changed.connect(lambda _: self._refresh()),
                events.active_changed.connect(lambda _: self._refresh()),
                events.size_changed.connect(lambda _: self._refresh()),
            ]
            self.canvas.setFocus()
        self._refresh()

    def _on_session_closing(self, session: Session, is_gone: bool) -> None:
        self.jobs.detach(session.document_id, is_gone=is_gone)
        self._show_session(None)

    def _on_saved(self, job_ids: list[str]) -> None:
        for job_id in job_ids:
            self.jobs.acknowledge(job_id)
        self._inform(tr("Saved."))
        self._refresh()

    def _refresh(self) -> None:
        session = self.workspace.session
        document = session.document if session is not None else None
        title = f"{session.title}[*] — Flowbrush" if session is not None else "Flowbrush"
        self.setWindowTitle(title)
        self.setWindowModified(document is not None and document.is_modified)
        has_mask = document is not None and _has_mask(document)
        self.generate.set_situation(
            has_document=document is not None,
            has_picture=document is not None and has_picture(document.committed_state),
            has_mask=has_mask,
        )
        self.generate.set_layers(_layer_names(document))
        there = {
            Needs.NOTHING: True,
            Needs.DOCUMENT: document is not None,
            Needs.LAYER: document is not None and document.active_id is not None,
            Needs.MASK: has_mask,
            Needs.UNDO: document is not None and document.can_undo,
            Needs.REDO: document is not None and document.can_redo,
            Needs.JOB: self.job_desk.has_jobs,
        }
        for action in self.actions_by_name.values():
            action.setEnabled(there[Needs(action.data())])
        self._refresh_history(document)
        self._refresh_status()

    def _refresh_history(self, document: Document | None) -> None:
        history = document.history if document is not None else None
        for name, button, label in (
            ("undo", self.undo_button, history.undo_label if history is not None else None),
            ("redo", self.redo_button, history.redo_label if history is not None else None),
        ):
            action = self.actions_by_name[name]
            word = tr("Undo") if name == "undo" else tr("Redo")
            action.setText(f"{word}: {tr(UNDO_TITLES.get(label, label))}" if label else word)
            button.setEnabled(action.isEnabled())
            key = action.shortcut().toString(QKeySequence.SequenceFormat.NativeText)
            button.setToolTip(f"{action.text()} ({key})")
        self.actions_by_name["mask_tint"].setChecked(self.settings.is_mask_tinted)

    def _refresh_status(self) -> None:
        document = self.workspace.document
        for widget in (self.size_label, self.zoom_label, self.fit_button):
            widget.setVisible(document is not None)
        if document is not None:
            self.size_label.setText(f"{document.size.width} × {document.size.height} px")
            zoom = self.canvas.viewport.zoom * 100
            self.zoom_label.setText(f"{zoom:.0f} %" if zoom >= 10 else f"{zoom:.1f} %")

    # -- what a person does ------------------------------------------------------------------------

    def _unless_painting(self, act: Callable[[], object]) -> None:
        """Acts, but not in the middle of a stroke: nothing else may edit the document meanwhile."""
        if not self.canvas.is_busy:
            act()

    def _edit(self, act: Callable[[Document], object]) -> None:
        document = self.workspace.document
        if document is None:
            return
        try:
            act(document)
        except FluxError as err:
            self.show_error(err)

    def _on_tool(self) -> None:
        self.actions_by_name["mask_tint"].setChecked(self.settings.is_mask_tinted)

    def _begin_task(self, action: Action) -> None:
        self.generate.choose_task(action)
        field = self.generate.prompt if self.generate.entry.has_prompt else self.generate.button
        field.setFocus()

    def _toggle_tint(self) -> None:
        self.settings.is_mask_tinted = not self.settings.is_mask_tinted

    def _choose_color(self) -> None:
        dialog = QColorDialog(QColor(*self.settings.front), self)
        dialog.setOption(QColorDialog.ColorDialogOption.DontUseNativeDialog)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.colorSelected.connect(
            lambda color: self.settings.set_front((color.red(), color.green(), color.blue()))
        )
        dialog.open()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if event.mimeData().hasUrls() or event.mimeData().hasImage():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        files = [Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile()]
        if files:
            self.files.drop_files(files)
        elif event.mimeData().hasImage():
            self.files.drop_image(QImage(event.mimeData().imageData()))
        event.acceptProposedAction()

    # -- going away --------------------------------------------------------------------------------

    def geometry_text(self) -> str:
        """The window's place and size, to be found again."""
        return bytes(self.saveGeometry().toBase64().data()).decode()

    def set_geometry_text(self, text: str) -> None:
        if text:
            self.restoreGeometry(QByteArray.fromBase64(text.encode()))

    def discard(self) -> None:
        """Takes the window apart without asking; the document stays open in the workspace."""
        self._may_close = True
        for disconnect in self._disconnect:
            disconnect()
        self._disconnect = []
        self.canvas.set_document(None)
        self.layers.set_document(None)
        self.hide()
        self.deleteLater()

    def closeEvent(self, event: QCloseEvent) -> None:
        if self._may_close:
            event.accept()
            return
        event.ignore()
        self.files.unless_unsaved(self._close_for_good)

    def _close_for_good(self) -> None:
        self._may_close = True
        self.workspace.close()
        self.close()
        self.closed.emit()


def _has_mask(document: Document) -> bool:
    """Whether anything is to be repainted; tiles of nothing are never kept."""
    return bool(document.committed_state.selection.tiles)


def _layer_names(document: Document | None) -> list[tuple[str, str]]:
    """(id, name) of every layer, top-most first."""
    if document is None:
        return []
    return [(layer.id, layer.name) for layer in document.committed_state.walk()][::-1]
