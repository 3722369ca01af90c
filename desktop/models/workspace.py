"""The open document with everything around it: its file, its journal, its jobs' results.

Opening, saving and exporting happen on a thread of their own; the outcome comes back as signals. There is
one document to a window; what happens to unsaved work is the window's question, not decided here.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PySide6.QtCore import QObject, QTimer, Signal
from PySide6.QtGui import QImage

from desktop.document import commands, compositor
from desktop.document.document import Document
from desktop.document.enlarging import enlarged, scale_for
from desktop.document.geometry import Rect, check_canvas_size
from desktop.document.layers import GenerativeLayer, RasterLayer, Recipe, Variant
from desktop.document.state import DocumentState
from desktop.document.tiles import Pixels, TileRaster
from desktop.files import autosave, flat, ora
from desktop.files.autosave import Autosave, Recoverable
from desktop.files.ora import Opened
from desktop.files.png_cache import PngCache
from desktop.jobs.variants import variant_raster
from desktop.models.background import Background
from desktop.models.document_index import DocumentIndex
from flux_core.errors import FluxError, RequestInvalid
from flux_core.imaging import codec
from flux_core.request import GenerationRequest

PROJECT_ENDING = ".ora"
_STROKE_MS = 100  # until it is looked again whether the pen was lifted


@dataclass(slots=True, eq=False)
class Session:
    """A document that is open.

    Attributes:
        document_id: Stable over saves and crashes; jobs find their document by it.
        title: Shown in the window's title.
        path: Its project file; None before the first save.
        inserted_jobs: Jobs whose layer is in the document but perhaps not yet on disk.
    """

    document: Document
    document_id: str
    title: str
    path: Path | None
    autosave: Autosave | None
    cache: PngCache = field(default_factory=PngCache)
    inserted_jobs: list[str] = field(default_factory=list)
    disconnect: Callable[[], None] = lambda: None


class Workspace(QObject):
    """Opens, saves and closes.

    Args:
        home: Flowbrush's home folder; journals and the index of documents lie in it.
        parent: Qt parent.

    Signals:
        session_opened(Session), session_closing(Session, bool is_gone).
        titled: The title or file of the session changed.
        saved(list[str]): A save is done; ids of jobs that are safe now.
        failed(FluxError), warned(str), informed(str).
        busy_changed(bool): Something slow is going on.
    """

    session_opened = Signal(object)
    session_closing = Signal(object, bool)
    titled = Signal()
    saved = Signal(list)
    failed = Signal(object)
    warned = Signal(str)
    informed = Signal(str)
    busy_changed = Signal(bool)

    def __init__(self, home: Path, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._recovery_dir = home / "desktop" / "recovery"
        self._index = DocumentIndex(home / "desktop" / "documents.json")
        self._session: Session | None = None
        self._background = Background(self)
        self._background.busy_changed.connect(self.busy_changed)

    @property
    def session(self) -> Session | None:
        return self._session

    @property
    def document(self) -> Document | None:
        return self._session.document if self._session is not None else None

    @property
    def is_modified(self) -> bool:
        return self._session is not None and self._session.document.is_modified

    # -- opening ---------------------------------------------------------------------------------

    def new_canvas(
        self, width: int, height: int, color: tuple[int, int, int] | None, layer_name: str, title: str
    ) -> None:
        """A blank document with one layer, filled with `color` or transparent."""
        try:
            size = check_canvas_size(width, height)
        except FluxError as err:
            self.failed.emit(err)
            return
        raster = TileRaster()
        if color is not None:
            pixels = np.empty((height, width, 4), np.uint8)
            pixels[...] = (*color, 255)
            raster = TileRaster.from_array(pixels)
        state = DocumentState(size=size, layers=(RasterLayer(name=layer_name, raster=raster),))
        self._adopt(Document(state), uuid.uuid4().hex, title, None)

    def open_file(self, path: Path) -> None:
        """Opens a project or a picture in place of the session."""
        is_project = path.suffix.lower() == PROJECT_ENDING
        cache = PngCache()

        def read() -> Opened:
            return ora.open_ora(path, cache) if is_project else flat.open_picture(path)

        def show(opened: Opened) -> None:
            document_id = self._index.id_of(path) if is_project else uuid.uuid4().hex
            document = Document(opened.state, active_id=opened.active_id)
            self._adopt(document, document_id, path.name, path if is_project else None, cache)
            self._warn(opened.warnings)

        self._background.run(read, show, self.failed.emit)

    def open_image(self, image: QImage, layer_name: str, title: str) -> None:
        """A pasted or dropped picture: a layer of the session, or a new document."""
        self._place(lambda: pixels_of(image), layer_name, title)

    def place_file(self, path: Path) -> None:
        """A picture file as a layer of the session, or as a new document."""
        if self._session is None or path.suffix.lower() == PROJECT_ENDING:
            self.open_file(path)
            return

        def read() -> Pixels:
            try:
                return codec.decode(path.read_bytes(), path.name)
            except OSError as err:
                raise RequestInvalid(
                    f"{path.name} cannot be read: {err.strerror}.", "Choose another file."
                ) from err

        self._place(read, path.stem, path.name)

    def _place(self, read: Callable[[], Pixels], layer_name: str, title: str) -> None:
        def show(pixels: Pixels) -> None:
            height, width = pixels.shape[:2]
            session = self._session
            if session is None:
                layer = RasterLayer(name=layer_name, raster=TileRaster.from_array(pixels))
                state = DocumentState(size=check_canvas_size(width, height), layers=(layer,))
                document = Document(state)
                document.mark_saved(None)
                self._adopt(document, uuid.uuid4().hex, title, None)
                return
            canvas = session.document.size
            x, y = (canvas.width - width) // 2, (canvas.height - height) // 2
            layer = RasterLayer(name=layer_name, raster=TileRaster.from_array(pixels, x, y))
            commands.add_layer(session.document, layer)

        self._background.run(read, show, self.failed.emit)

    # -- recovery --------------------------------------------------------------------------------

    def recoverable(self) -> list[Recoverable]:
        """Work that a crash left behind, newest first."""
        found: list[Recoverable] = []
        if self._recovery_dir.is_dir():
            for folder in self._recovery_dir.iterdir():
                if folder.is_dir():
                    found += autosave.find_recoverable(folder)
                    self._tidy(folder.name)
        return sorted(found, key=lambda one: one.written_at, reverse=True)

    def recover(self, found: Recoverable) -> None:
        """Opens what a crash left behind; it stays unsaved until it is saved."""

        def show(opened: Opened) -> None:
            document = Document(opened.state, active_id=opened.active_id)
            document.mark_saved(None)
            self._adopt(document, found.folder.parent.name, found.title, found.path)
            self._warn(opened.warnings)
            journal = self._session.autosave if self._session is not None else None
            if journal is None:
                return
            # The old copy goes only when the new one is on disk: a crash in between loses nothing.
            self._background.run(
                journal.flush,
                lambda is_written: autosave.discard(found) if is_written else None,
                self.failed.emit,
            )

        self._background.run(lambda: autosave.recover(found), show, self.failed.emit)

    def discard(self, found: Recoverable) -> None:
        """Gives up what a crash left behind."""
        autosave.discard(found)
        self._tidy(found.folder.parent.name)

    # -- saving ----------------------------------------------------------------------------------

    def save(self, path: Path, then: Callable[[], None] | None = None) -> None:
        """Saves the project; `then` is called when it is on disk."""
        session = self._session
        if session is None:
            return
        state, active_id = session.document.committed_state, session.document.active_id
        jobs = tuple(session.inserted_jobs)

        def write() -> tuple[str, ...]:
            return ora.save_ora(state, path, active_id=active_id, cache=session.cache)

        def done(_losses: tuple[str, ...]) -> None:
            session.path, session.title = path, path.name
            session.document.mark_saved(state)
            if session.autosave is not None and not session.document.is_modified:
                session.autosave.note_saved(path.name, path)
            self._index.remember(path, session.document_id)
            session.inserted_jobs = [job for job in session.inserted_jobs if job not in jobs]
            self.titled.emit()
            self.saved.emit(list(jobs))
            if then is not None:
                then()

        self._background.run(write, done, self.failed.emit)

    def export(self, path: Path, *, quality: int, has_metadata: bool, done_text: str) -> None:
        """Writes the picture as it is seen; `done_text` is said when it is on disk."""
        document = self.document
        if document is None:
            return
        state = document.committed_state
        self._background.run(
            lambda: flat.export_picture(state, path, quality=quality, has_metadata=has_metadata),
            lambda _: self.informed.emit(done_text),
            self.failed.emit,
        )

    def copy_picture(self, then: Callable[[QImage], None]) -> None:
        """Renders the picture as it is seen."""
        document = self.document
        if document is None:
            return
        state = document.committed_state
        self._background.run(lambda: image_of(compositor.render(state)), then, self.failed.emit)

    def close(self) -> None:
        """Closes the session; what is not saved is given up."""
        session, self._session = self._session, None
        if session is None:
            return
        session.disconnect()
        self.session_closing.emit(session, session.path is None)
        if session.autosave is not None:
            session.autosave.close()
        self._tidy(session.document_id)

    def wait(self) -> None:
        """Waits for what is being read or written."""
        self._background.wait()

    # -- results ---------------------------------------------------------------------------------

    def insert_result(self, job_id: str, document_id: str, layer: GenerativeLayer) -> bool:
        """Puts a job's layer on top as one undo step; False if its document is not open.

        For an enlargement the canvas and all other layers grow first, without holding up the window.
        """
        session = self._session
        if session is None or session.document_id != document_id:
            return False
        document = session.document
        if document.state.find(layer.id) is None:
            scale = scale_for(document.size, layer.recipe)
            if scale > 1:
                self._enlarge(session, job_id, layer, scale)
                return True
            state = document.committed_state.inserted(layer, None, len(document.committed_state.layers))
            document.commit("Insert result", state, active_id=layer.id)
        session.inserted_jobs.append(job_id)
        return True

    def _enlarge(self, session: Session, job_id: str, layer: GenerativeLayer, scale: int) -> None:
        document, before = session.document, session.document.committed_state

        def show(after: DocumentState) -> None:
            if self._session is not session:
                return
            if document.committed_state is not before:  # it was edited meanwhile
                self.insert_result(job_id, session.document_id, layer)
            elif document.state is not before:  # a stroke is going on
                QTimer.singleShot(_STROKE_MS, lambda: show(after))
            else:
                state = after.inserted(layer, None, len(after.layers))
                document.commit("Enlarge picture", state, active_id=layer.id)
                session.inserted_jobs.append(job_id)

        self._background.run(lambda: enlarged(before, scale), show, self.failed.emit)

    def show_result(self, layer_id: str, number: int) -> None:
        """Makes a generated layer active and seen, and shows this of its variants."""
        session = self._session
        layer = session.document.committed_state.find(layer_id) if session is not None else None
        if session is None or not isinstance(layer, GenerativeLayer):
            return
        self.show_layer(layer_id)
        if number == layer.recipe.chosen:
            return
        document, state = session.document, session.document.committed_state

        def show(raster: TileRaster) -> None:
            if self._session is session:
                try:
                    commands.choose_variant(document, layer_id, number, raster)
                except FluxError as err:
                    self.failed.emit(err)

        self._background.run(lambda: variant_raster(state, layer, number), show, self.failed.emit)

    def show_layer(self, layer_id: str) -> None:
        """Makes a layer active, and seen if it was hidden."""
        document = self.document
        layer = document.state.find(layer_id) if document is not None else None
        if document is None or layer is None:
            return
        document.active_id = layer_id
        commands.set_visible(document, layer_id, True)

    def insert_kept(self, name: str, request: GenerationRequest, variant: Variant) -> None:
        """Puts an earlier result of another picture on top, in the middle of the canvas."""
        session = self._session
        if session is None:
            return

        def show(pixels: Pixels) -> None:
            if self._session is not session:
                return
            document, (height, width) = session.document, pixels.shape[:2]
            x, y = (document.size.width - width) // 2, (document.size.height - height) // 2
            commands.insert_generated(
                document,
                name=name,
                recipe=Recipe(request, Rect(x, y, width, height), (variant,)),
                raster=TileRaster.from_array(pixels, x, y),
            )

        self._background.run(lambda: codec.decode(variant.png, "the earlier result"), show, self.failed.emit)

    # -- parts -----------------------------------------------------------------------------------

    def _adopt(
        self,
        document: Document,
        document_id: str,
        title: str,
        path: Path | None,
        cache: PngCache | None = None,
    ) -> None:
        self.close()
        cache = cache or PngCache()
        cache = cache or PngCache()
        journal = self._journal(self._recovery_dir / document_id, title, path, cache)
        session = Session(document, document_id, title, path, journal, cache)
        told: list[str] = []

        def note() -> None:
            if journal is None or not document.is_modified:
                return
            journal.note(document.committed_state, document.active_id)
            trouble = journal.last_error
            if trouble is not None and trouble not in told:
                told.append(trouble)
                self.warned.emit(trouble)

        session.disconnect = document.events.history_changed.connect(note)
        self._session = session
        note()
        self.session_opened.emit(session)

    def _journal(self, folder: Path, title: str, path: Path | None, cache: PngCache) -> Autosave | None:
        try:
            return Autosave(folder, title, path, cache=cache)
        except FluxError as err:
            self.failed.emit(err)  # work goes on without a net, and the person knows it
            return None

    def _tidy(self, document_id: str) -> None:
        """Removes a document's recovery folder if nothing is in it."""
        with contextlib.suppress(OSError):
            (self._recovery_dir / document_id).rmdir()

    def _warn(self, warnings: tuple[str, ...]) -> None:
        if warnings:
            self.warned.emit(" ".join(warnings))


def pixels_of(image: QImage) -> Pixels:
    """Straight RGBA uint8 [H, W, 4] of a Qt image."""
    rgba = image.convertToFormat(QImage.Format.Format_RGBA8888)
    rows = np.frombuffer(rgba.constBits(), np.uint8).reshape(rgba.height(), rgba.bytesPerLine())
    return rows[:, : rgba.width() * 4].reshape(rgba.height(), rgba.width(), 4).copy()


def image_of(pixels: Pixels) -> QImage:
    """A Qt image of straight RGBA uint8 [H, W, 4]; owns its pixels."""
    height, width = pixels.shape[:2]
    return QImage(pixels.data, width, height, 4 * width, QImage.Format.Format_RGBA8888).copy()


def layer_ids(document: Document) -> tuple[str, ...]:
    """Ids of all layers."""
    return tuple(layer.id for layer in document.state.walk())
