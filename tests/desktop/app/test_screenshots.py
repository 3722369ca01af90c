from __future__ import annotations

import pytest
from PIL import Image
from PySide6.QtWidgets import QApplication

from backends.remote.client import ServiceClient
from desktop.app import Program
from desktop.screenshots import SIZE, take, take_answers

pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints")  # the offscreen platform has no size hints


def test_every_state_of_the_window_is_pictured(qtbot, tmp_path, picture, service):
    app = QApplication.instance()
    assert isinstance(app, QApplication)
    program = Program(app, tmp_path / "home", lambda: ServiceClient(service.endpoint), "en")
    files = take(program, picture, "steps=3 step_s=0.05", tmp_path, "@1x")
    program.workspace.close()
    program.window.discard()
    program.end()
    assert [file.name for file in files] == [
        "1-start@1x.png", "2-mask@1x.png", "3-running@1x.png", "4-filled@1x.png", "5-chinese@1x.png"
    ]  # fmt: skip
    contents = set()
    for file in files:
        with Image.open(file) as image:
            assert image.size == SIZE
            contents.add(image.tobytes())
    assert len(contents) == len(files)


def test_what_looks_find_out_is_pictured_in_every_language(qtbot, tmp_path, picture, service):
    app = QApplication.instance()
    assert isinstance(app, QApplication)
    program = Program(app, tmp_path / "home", lambda: ServiceClient(service.endpoint), "en")
    files = take_answers(program, picture, tmp_path, "@1x")
    program.workspace.close()
    program.window.discard()
    program.end()
    looks = ("score", "similar", "describe", "select", "map")
    names = [f"answer-{look}-{language}@1x.png" for language in ("en", "zh_CN") for look in looks]
    assert [file.name for file in files] == names
    assert len({file.read_bytes() for file in files}) == len(files)
