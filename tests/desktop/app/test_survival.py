"""What outlives the window: unsaved work, settings, and jobs that are still running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QPushButton

from backends.remote.client import ServiceClient
from desktop.app import Program
from desktop.document.layers import GenerativeLayer
from tests.support.service_process import eventually
from tests.support.window import no_service, run_program

pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints")  # the offscreen platform has no size hints

VICTIM = """
import sys
from pathlib import Path
from PySide6.QtWidgets import QApplication
from desktop.app import Program
from desktop.document import commands
from flux_core.errors import ConnectionLost

def no_service():
    raise ConnectionLost("none")

app = QApplication([])
home, picture = Path(sys.argv[1]), Path(sys.argv[2])
program = Program(app, home, no_service, "en")
program.window.show()

def edit(session):
    commands.select_all(session.document)
    assert session.autosave.flush()
    print("edited", flush=True)

program.workspace.session_opened.connect(edit)
program.begin([picture])
app.exec()
"""


def test_work_of_a_killed_window_is_offered_and_restored(qtbot, tmp_path, picture):
    home = tmp_path / "home"
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(home), str(picture)],
        stdout=subprocess.PIPE,
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
    )
    assert victim.stdout is not None
    assert victim.stdout.readline() == b"edited\n"
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    victim.stdout.close()
    with run_program(qtbot, home, no_service) as desk:
        offers = [one for one in desk.window.start.findChildren(QPushButton) if one.text() == "Restore"]
        assert len(offers) == 1
        with qtbot.waitSignal(desk.program.workspace.session_opened):
            QTest.mouseClick(offers[0], Qt.MouseButton.LeftButton)
        assert desk.layer_names() == ["lake"]
        assert desk.window.generate.button.text() == "Fill"
        assert desk.window.isWindowModified()


def test_an_orderly_end_leaves_nothing_to_restore(qtbot, tmp_path, picture):
    home = tmp_path / "home"
    with run_program(qtbot, home, no_service) as desk:
        desk.open(picture)
        desk.do("mask_all")
        desk.program.workspace.close()
    with run_program(qtbot, home, no_service) as desk:
        assert desk.program.workspace.recoverable() == []


def test_a_result_that_comes_while_the_project_is_closed_is_there_when_it_is_opened(
    qtbot, tmp_path, picture, service
):
    home = tmp_path / "home"

    def connect() -> ServiceClient:
        return ServiceClient(service.endpoint)

    project = tmp_path / "work.ora"
    with run_program(qtbot, home, connect) as desk:
        desk.open(picture)
        desk.do("mask_all")
        with qtbot.waitSignal(desk.program.workspace.saved):
            desk.program.workspace.save(project)
        desk.ask(f"until={tmp_path / 'go'}")
        desk.until(lambda: bool(desk.window.canvas.previews))
    (tmp_path / "go").touch()
    with run_program(qtbot, home, connect) as desk:
        desk.open(project)
        desk.until(lambda: len(desk.document.layers) == 2)
        assert isinstance(desk.document.layers[-1], GenerativeLayer)
        with qtbot.waitSignal(desk.program.workspace.saved):
            desk.do("save")
        eventually(lambda: not any((home / "desktop" / "jobs").iterdir()))
    with run_program(qtbot, home, connect) as desk:
        desk.open(project)
        desk.until(lambda: desk.window.health.text.text() == "Ready")
        assert len(desk.document.layers) == 2


def test_language_and_window_are_found_again(qtbot, tmp_path):
    home = tmp_path / "home"
    app = QApplication.instance()
    assert isinstance(app, QApplication)
    first = Program(app, home, no_service)
    first.set_language("zh_CN")
    first.window.discard()
    first.end()
    second = Program(app, home, no_service)
    assert second.window.generate.button.text() == "生成"
    second.set_language("en")
    second.window.discard()
    second.end()


def test_settings_that_cannot_be_read_are_no_trouble(qtbot, tmp_path):
    home = tmp_path / "home"
    (home / "desktop").mkdir(parents=True)
    (home / "desktop" / "settings.json").write_text('{"language": ')
    with run_program(qtbot, home, no_service) as desk:
        assert desk.window.isVisible()
