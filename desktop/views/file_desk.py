"""Everything that ends in a file or begins with one: the dialogs, the clipboard, and unsaved work."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from PySide6.QtCore import QObject, Signal
from PySide6.QtGui import QGuiApplication, QImage
from PySide6.QtWidgets import QFileDialog, QWidget

from desktop.i18n import tr
from desktop.models.workspace import PROJECT_ENDING, Workspace
from desktop.views import dialogs

_PICTURES = "*.png *.jpg *.jpeg *.webp *.tif *.tiff *.bmp *.gif *.avif"
EXPORT_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


class FileDesk(QObject):
    """File menus' answers.

    Args:
        window: Parent of the dialogs.
        workspace: Does the work.
        folder: Where dialogs begin.

    Signals:
        folder_changed(str): A file was chosen in another folder.
    """

    folder_changed = Signal(str)

    def __init__(self, window: QWidget, workspace: Workspace, folder: str) -> None:
        super().__init__(window)
        self._window = window
        self._workspace = workspace
        self._folder = folder

    # -- new, open, place --------------------------------------------------------------------------

    def new(self) -> None:
        """Asks for a size, then about unsaved work."""
        dialog = dialogs.NewCanvasDialog(self._window)

        def create() -> None:
            width, height = dialog.width_px.value(), dialog.height_px.value()
            color = dialog.background.currentData()
            self.unless_unsaved(
                lambda: self._workspace.new_canvas(width, height, color, tr("Background"), tr("Untitled"))
            )

        dialog.accepted.connect(create)
        dialog.open()

    def open(self) -> None:
        """Asks for a file; unsaved work is asked about when one was chosen."""
        filters = ";;".join(
            (
                tr("Pictures and projects ({endings})", endings=f"*{PROJECT_ENDING} {_PICTURES}"),
                tr("All files (*)"),
            )
        )
        dialog = self._dialog(tr("Open"), filters)
        dialog.fileSelected.connect(lambda name: self.open_files([Path(name)]))
        dialog.open()

    def place(self) -> None:
        """Asks for a picture to put on top as a layer."""
        dialog = self._dialog(tr("Place as a layer"), tr("Pictures ({endings})", endings=_PICTURES))
        dialog.fileSelected.connect(lambda name: self._place(Path(name)))
        dialog.open()

    def open_files(self, files: Iterable[Path]) -> None:
        """The first file becomes the document, the others its layers."""
        paths = list(files)
        if paths:
            self.unless_unsaved(lambda: self._open_all(paths))

    def drop_files(self, files: Iterable[Path]) -> None:
        """Dropped on the picture: a project is opened, pictures become layers."""
        paths = list(files)
        if self._workspace.session is None or any(path.suffix.lower() == PROJECT_ENDING for path in paths):
            self.open_files(paths)
            return
        for path in paths:
            self._place(path)

    def drop_image(self, image: QImage) -> None:
        if not image.isNull():
            self._workspace.open_image(image, tr("Pasted"), tr("Untitled"))

    def paste(self) -> None:
        """The clipboard's picture as a layer, or as a new document."""
        mime = QGuiApplication.clipboard().mimeData()
        files = [Path(url.toLocalFile()) for url in mime.urls() if url.isLocalFile()]
        if mime.hasImage():
            self.drop_image(QGuiApplication.clipboard().image())
        elif files:
            self.drop_files(files)
        else:
            self._workspace.informed.emit(tr("There is no picture to paste."))

    def _open_all(self, paths: list[Path]) -> None:
        self._remember(paths[0])
        self._workspace.open_file(paths[0])
        for path in paths[1:]:
            self._workspace.place_file(path)

    def _place(self, path: Path) -> None:
        self._remember(path)
        self._workspace.place_file(path)

    # -- save, export ------------------------------------------------------------------------------

    def save(self, then: Callable[[], None] | None = None) -> None:
        """Saves the project; asks where, the first time."""
        session = self._workspace.session
        if session is None:
            return
        if session.path is None:
            self.save_as(then)
        else:
            self._workspace.save(session.path, then)

    def save_as(self, then: Callable[[], None] | None = None) -> None:
        """Asks where to save the project."""
        session = self._workspace.session
        if session is None:
            return
        dialog = self._dialog(tr("Save the project"), tr("OpenRaster project ({endings})", endings="*.ora"))
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setDefaultSuffix(PROJECT_ENDING[1:])
        dialog.selectFile(Path(session.title).stem + PROJECT_ENDING)
        dialog.fileSelected.connect(lambda name: self._save_to(Path(name), then))
        dialog.open()

    def _save_to(self, path: Path, then: Callable[[], None] | None) -> None:
        self._remember(path)
        self._workspace.save(path, then)

    def export(self) -> None:
        """Asks where, and then how, to write a picture."""
        session = self._workspace.session
        if session is None:
            return
        filters = ";;".join(("PNG (*.png)", "JPEG (*.jpg *.jpeg)", "WebP (*.webp)"))
        dialog = self._dialog(tr("Export a picture"), filters)
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setDefaultSuffix("png")
        endings = {"PNG (*.png)": "png", "JPEG (*.jpg *.jpeg)": "jpg", "WebP (*.webp)": "webp"}
        dialog.filterSelected.connect(lambda chosen: dialog.setDefaultSuffix(endings.get(chosen, "png")))
        dialog.selectFile(Path(session.title).stem)
        dialog.fileSelected.connect(lambda name: self._ask_how_to_export(Path(name)))
        dialog.open()

    def _ask_how_to_export(self, path: Path) -> None:
        self._remember(path)
        how = dialogs.ExportDialog(path, self._window)
        how.accepted.connect(
            lambda: self._workspace.export(
                path,
                quality=how.quality.value(),
                has_metadata=how.metadata.isChecked(),
                done_text=tr("Exported {name}", name=path.name),
            )
        )
        how.open()

    # -- unsaved work ------------------------------------------------------------------------------

    def unless_unsaved(self, act: Callable[[], None]) -> None:
        """Acts, after asking about unsaved work if there is any."""
        session = self._workspace.session
        if session is None or not session.document.is_modified:
            act()
            return
        dialogs.ask_about_unsaved(self._window, session.title, on_save=lambda: self.save(act), on_discard=act)

    def _dialog(self, title: str, filters: str) -> QFileDialog:
        dialog = QFileDialog(self._window, title, self._folder, filters)
        dialog.setOption(
            QFileDialog.Option.DontUseNativeDialog, QGuiApplication.platformName() == "offscreen"
        )
        return dialog

    def _remember(self, path: Path) -> None:
        folder = str(path.resolve().parent)
        if folder != self._folder:
            self._folder = folder
            self.folder_changed.emit(folder)
