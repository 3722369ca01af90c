"""Pictures of the real window in several states, for the README and for a look before a release.

`python -m desktop.screenshots --into FOLDER [--scale 2]` opens the window without a screen, paints a mask on
a photo by the same events that a pen makes, lets a real service fill it, and writes a PNG of each state.
With `--forms` it takes the panel with the form of each task instead, with `--answers` what was found out
about results: whatever of it the helpers of this machine can.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from pathlib import Path

from PySide6.QtCore import QEventLoop, QPointF, Qt, QTimer
from PySide6.QtWidgets import QApplication

from backends.remote.client import ServiceClient
from backends.remote.local import ensure_service
from desktop.app import RESOURCES_DIR, Program
from desktop.i18n import LANGUAGES
from desktop.jobs.job import JobDelivered, JobEnded, JobPreviewed
from desktop.jobs.wish import Action, LookWish, Scope, Wish
from desktop.tools.settings import ToolName
from desktop.views.forms.forms import TASKS
from flux_core.errors import ModelMissing

SIZE = (1360, 860)
PHOTO = RESOURCES_DIR / "samples" / "photo.png"
_PATIENCE_MS = 120_000
_ANSWERED = "a red apple, a blue background"


class Photographer:
    """Drives a window from state to state and takes a picture of each.

    Args:
        program: Fresh, nothing open.
        into: Folder for the PNGs.
        suffix: After each name, for example "@2x".
    """

    def __init__(self, program: Program, into: Path, suffix: str) -> None:
        self._program = program
        self._into = into
        self._suffix = suffix
        self.files: list[Path] = []

    def shoot(self, name: str) -> None:
        """Writes what the window shows now."""
        for _ in range(3):  # layouts settle one level at a time
            QApplication.processEvents()
        window = self._program.window
        window.canvas.settle()
        file = self._into / f"{name}{self._suffix}.png"
        window.grab().save(str(file))
        self.files.append(file)

    def open(self, photo: Path) -> None:
        """Opens a picture and waits for it."""
        opened = _Wait(self._program.workspace.session_opened, self._program.workspace.failed)
        self._program.window.files.open_files([photo])
        opened.wait()

    def paint_mask(self, center: tuple[float, float], radii: tuple[float, float]) -> None:
        """Fills an ellipse of the canvas (shares of its size) with the mask brush."""
        program, canvas = self._program, self._program.window.canvas
        document = program.workspace.document
        if document is None or canvas.tools is None:
            return
        width, height = document.size
        program.tools.tool = ToolName.MASK_BRUSH
        program.tools.set_brush(size_px=float(round(min(radii) * min(width, height) * 1.1)))
        scale = canvas.devicePixelRatioF()
        points: list[QPointF] = []
        for ring in (0.45, 0.0):
            for turn in range(25):
                angle = turn / 24 * 2 * math.pi
                x = width * (center[0] + ring * radii[0] * math.cos(angle))
                y = height * (center[1] + ring * radii[1] * math.sin(angle))
                view_x, view_y = canvas.viewport.to_view(x, y)
                points.append(QPointF(view_x / scale, view_y / scale))
        pointers = [canvas.pointer_at(point, Qt.KeyboardModifier.NoModifier) for point in points]
        canvas.tools.press(pointers[0])
        for pointer in pointers[1:]:
            canvas.tools.drag(pointer)
        canvas.tools.release(pointers[-1])

    def fill(self, prompt: str) -> None:
        """Presses the button, and takes a picture when a preview is there and when the layer is."""
        window, jobs = self._program.window, self._program.jobs
        window.generate.prompt.setPlainText(prompt)
        self.shoot("2-mask")
        previewed = _Wait(jobs.job_previewed, jobs.job_ended)
        delivered = _Wait(jobs.job_delivered, jobs.job_ended)
        window.generate.button.click()
        if isinstance(previewed.wait(), JobPreviewed):
            self.shoot("3-running")
        answer = delivered.wait()
        if isinstance(answer, JobEnded):
            self.shoot("4-failed")
        elif isinstance(answer, JobDelivered):
            self._program.tools.tool = ToolName.BRUSH
            self.shoot("4-filled")

    def shoot_forms(self, language: str) -> None:
        """The panel with each task's form, and once with everything open."""
        panel = self._program.window.generate
        for entry in TASKS:
            panel.choose_task(entry.action)
            self._shoot_panel(f"form-{entry.action or 'fits'}-{language}")
        panel.choose_task(Action.EDIT)
        panel.more.setChecked(True)
        self._shoot_panel(f"form-more-{language}")
        bar = panel.fields_scroll.verticalScrollBar()
        bar.setValue(bar.maximum())
        self._shoot_panel(f"form-tuning-{language}")
        panel.more.setChecked(False)

    def paint(self, prompt: str, num_images: int) -> None:
        """Paints some pictures beside the photo, as one layer."""
        wish = Wish(prompt=prompt, action=Action.GENERATE, num_images=num_images, seed=7)
        self._ask(wish, self._program.jobs.job_delivered)

    def look(self, name: str, wish: Wish) -> None:
        """Takes a picture of the answer; where a helper is missing, of what the window says to it."""
        self._ask(wish, self._program.jobs.look_answered)
        self.shoot(name)
        while self._program.window.notices.notices:
            self._program.window.notices.close_first()

    def _ask(self, wish: Wish, answer: object) -> None:
        ended = _Wait(answer, self._program.jobs.job_ended)
        self._program.window.generate.set_wish(wish)
        self._program.window.generate.button.click()
        ended.wait()

    def _shoot_panel(self, name: str) -> None:
        self._program.window.generate.prompt.setFocus()
        for _ in range(6):  # as above, and the window makes room
            QApplication.processEvents()
        file = self._into / f"{name}{self._suffix}.png"
        self._program.window.generate.grab().save(str(file))
        self.files.append(file)


class _Wait:
    """Waits for the first of some signals, from now on."""

    def __init__(self, *signals: object) -> None:
        self._loop = QEventLoop()
        self._answers: list[object] = []
        for signal in signals:
            signal.connect(self._on_signal)  # type: ignore[attr-defined]

    def wait(self) -> object:
        """The signal's payload; None if it did not come in time."""
        if not self._answers:
            QTimer.singleShot(_PATIENCE_MS, self._loop.quit)
            self._loop.exec()
        return self._answers[0] if self._answers else None

    def _on_signal(self, payload: object = None) -> None:
        self._answers.append(payload)
        self._loop.quit()


def take(program: Program, photo: Path, prompt: str, into: Path, suffix: str) -> list[Path]:
    """Takes all pictures with a program that was not begun yet; returns the files."""
    photographer = Photographer(program, into, suffix)
    program.window.resize(*SIZE)
    program.window.show()
    ready = _Wait(program.jobs.service_known, program.jobs.failed)
    program.begin()
    ready.wait()
    photographer.shoot("1-start")
    photographer.open(photo)
    photographer.paint_mask(center=(0.62, 0.70), radii=(0.15, 0.20))
    photographer.fill(prompt)
    program.window.generate.more.setChecked(True)
    program.set_language("zh_CN")
    program.window.resize(*SIZE)
    program.window.show_error(
        ModelMissing("FLUX.1 [dev] is not on this machine.", "Put its files into models/.")
    )
    photographer.shoot("5-chinese")
    return photographer.files


def _begun(program: Program, photo: Path, into: Path, suffix: str) -> Photographer:
    """Shows a program that was not begun yet, with a picture open and its service there."""
    photographer = Photographer(program, into, suffix)
    program.window.resize(*SIZE)
    program.window.show()
    ready = _Wait(program.jobs.service_known, program.jobs.failed)
    program.begin()
    ready.wait()
    photographer.open(photo)
    return photographer


def take_forms(program: Program, photo: Path, into: Path, suffix: str) -> list[Path]:
    """Takes the panel's forms in every language with a program that was not begun yet; returns the files."""
    photographer = _begun(program, photo, into, suffix)
    for language in LANGUAGES:
        program.set_language(language)
        program.window.resize(*SIZE)
        photographer.shoot_forms(language)
    return photographer.files


def take_answers(program: Program, photo: Path, into: Path, suffix: str) -> list[Path]:
    """Takes what looks find out, with a program that was not begun yet; returns the files."""
    photographer = _begun(program, photo, into, suffix)
    photographer.paint(_ANSWERED, 3)
    for language in LANGUAGES:
        program.set_language(language)
        program.window.resize(*SIZE)
        for action in (Action.SCORE, Action.SIMILAR, Action.DESCRIBE, Action.SELECT, Action.MAP):
            wish = Wish(prompt=_ANSWERED, action=action, look=LookWish(scope=Scope.RESULTS))
            photographer.look(f"answer-{action}-{language}", wish)
    return photographer.files


def main(arguments: list[str] | None = None) -> int:
    """Writes the pictures and their names; returns the exit code."""
    parser = argparse.ArgumentParser(description="Writes pictures of the window.")
    parser.add_argument("--into", type=Path, required=True, help="folder for the PNGs")
    parser.add_argument("--scale", type=float, default=1.0, help="device pixel ratio")
    parser.add_argument("--photo", type=Path, default=PHOTO, help="the picture to open")
    parser.add_argument("--prompt", default="a cupcake on a brown background", help="what to fill in")
    parser.add_argument("--engine", default="auto", help="as for flowbrush serve")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--forms", action="store_true", help="only the forms of the tasks, in every language")
    only.add_argument("--answers", action="store_true", help="only what looks find out, in every language")
    given = parser.parse_args(arguments)
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    os.environ["QT_SCALE_FACTOR"] = f"{given.scale:g}"
    given.into.mkdir(parents=True, exist_ok=True)
    app = QApplication(["flowbrush"])
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        program = Program(
            app,
            home,
            lambda: ServiceClient(ensure_service(home, engine=given.engine, idle_exit_s=5.0)),
            language="en",
        )
        suffix = f"@{given.scale:g}x"
        if given.forms:
            files = take_forms(program, given.photo, given.into, suffix)
        elif given.answers:
            files = take_answers(program, given.photo, given.into, suffix)
        else:
            files = take(program, given.photo, given.prompt, given.into, suffix)
        for file in files:
            sys.stdout.write(f"{file}\n")
        program.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
