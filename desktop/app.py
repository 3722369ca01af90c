"""The composition root: the only place that knows every part of the desktop program.

It shows the window first and starts the service after that, in the jobs' thread, so the picture is there
before the engine is. Settings are read and written here and nowhere else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from PySide6.QtCore import QObject, Qt, QTimer, QTranslator
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QApplication

from backends.remote.client import ServiceClient
from backends.remote.local import ensure_service
from backends.service.state_folder import default_home
from desktop.i18n import choose_language, install_language
from desktop.jobs.bridge import JobBridge
from desktop.jobs.embeddings import EmbeddingMemory
from desktop.jobs.pending import PendingStore
from desktop.jobs.service import Service
from desktop.models.workspace import Workspace
from desktop.settings import Settings, read_settings, write_settings
from desktop.tools.settings import ToolSettings
from desktop.views.main_window import MainWindow
from desktop.views.theme import apply_theme, load_theme

RESOURCES_DIR = Path(__file__).parents[1] / "resources"


def main(files: Sequence[Path]) -> int:
    """Opens the window with these files and returns the program's exit code."""
    QGuiApplication.setHighDpiScaleFactorRoundingPolicy(Qt.HighDpiScaleFactorRoundingPolicy.PassThrough)
    app = QApplication.instance() or QApplication(sys.argv[:1])
    assert isinstance(app, QApplication)
    app.setApplicationName("Flowbrush")
    app.setDesktopFileName("flowbrush")
    program = Program(app, default_home(os.environ))
    program.window.show()
    QTimer.singleShot(0, lambda: program.begin(files))
    code = app.exec()
    program.end()
    return code


class Program(QObject):
    """Everything that lives as long as the program.

    Args:
        app: Qt's application.
        home: Flowbrush's home folder.
        connect: Finds or starts a service; by default this home's own.
        language: Instead of the one in the settings.
    """

    def __init__(
        self,
        app: QApplication,
        home: Path,
        connect: Callable[[], Service] | None = None,
        language: str | None = None,
    ) -> None:
        super().__init__()
        self._app = app
        self._file = home / "desktop" / "settings.json"
        self._settings = read_settings(self._file)
        self._language = choose_language(self._settings.language if language is None else language)
        self._translators: list[QTranslator] = []
        self.theme = load_theme(RESOURCES_DIR)
        apply_theme(app, self.theme)
        self.tools = ToolSettings()
        self.workspace = Workspace(home, self)
        self.jobs = JobBridge(
            connect or (lambda: ServiceClient(ensure_service(home))),
            PendingStore(home / "desktop" / "jobs"),
            EmbeddingMemory(home / "desktop" / "embeddings"),
            self,
        )
        self.window = self._build_window()

    def begin(self, files: Sequence[Path] = ()) -> None:
        """The window is there: starts the service and opens the files."""
        self.jobs.start()
        self.window.files.open_files(files)

    def end(self) -> None:
        """Writes the settings and ends the threads; a document that is still open stays in its journal."""
        self._remember(geometry=self.window.geometry_text())
        self.workspace.wait()
        self.jobs.shutdown()
        self._remove_language()

    def set_language(self, language: str) -> None:
        """Speaks another language at once; the document stays as it is."""
        if language == self._language:
            return
        self._remember(language=language)
        self._language = language
        old, wish = self.window, self.window.generate.wish()
        models, fields = old.generate.models, old.generate.all_fields()
        geometry = old.geometry_text()
        old.discard()
        self.window = self._build_window()
        self.window.set_geometry_text(geometry)
        self.window.generate.set_models(models)
        self.window.generate.set_all_fields(fields)
        self.window.generate.set_wish(wish)
        self.window.show()

    def _build_window(self) -> MainWindow:
        self._remove_language()
        self._translators = install_language(self._app, self._language, RESOURCES_DIR / "translations")
        window = MainWindow(
            self.theme,
            self.workspace,
            self.jobs,
            self.tools,
            folder=self._settings.folder or str(Path.home()),
            language=self._language,
            version=_version(),
        )
        window.set_geometry_text(self._settings.geometry)
        window.language_asked.connect(self.set_language, Qt.ConnectionType.QueuedConnection)
        window.files.folder_changed.connect(lambda folder: self._remember(folder=folder))
        window.closed.connect(self._app.quit)
        return window

    def _remove_language(self) -> None:
        for translator in self._translators:
            self._app.removeTranslator(translator)
        self._translators = []

    def _remember(self, **changes: str) -> None:
        self._settings: Settings = replace(self._settings, **changes)
        write_settings(self._file, self._settings)


def _version() -> str:
    try:
        return version("flowbrush")
    except PackageNotFoundError:
        return ""
