"""One line that says how the service is, in the status bar and never in a dialog."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QHBoxLayout, QLabel, QWidget

from desktop.i18n import tr
from desktop.jobs.job import Health, Job, Phase, ServiceState
from desktop.views.theme import SPACE_PX, Theme

_COLORS = {
    ServiceState.STARTING: "warning",
    ServiceState.CONNECTING: "warning",
    ServiceState.LOADING: "warning",
    ServiceState.READY: "good",
    ServiceState.BUSY: "accent",
    ServiceState.ENGINE_DIED: "danger",
    ServiceState.STALLED: "warning",
    ServiceState.LOST: "danger",
}


class HealthLine(QWidget):
    """A coloured dot and a sentence; the whole reason is in the tool tip."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._dot = _Dot(theme)
        self.text = QLabel()
        self.text.setTextFormat(Qt.TextFormat.PlainText)
        self._health = Health()
        self._jobs: tuple[Job, ...] = ()
        row = QHBoxLayout(self)
        row.setContentsMargins(SPACE_PX, 0, SPACE_PX, 0)
        row.setSpacing(SPACE_PX // 2)
        row.addWidget(self._dot)
        row.addWidget(self.text)
        self._refresh()

    def show_health(self, health: Health) -> None:
        self._health = health
        self._refresh()

    def show_jobs(self, jobs: tuple[Job, ...]) -> None:
        """The jobs that have not ended, which tell more than the service does."""
        self._jobs = jobs
        self._refresh()

    def _refresh(self) -> None:
        text = sentence(self._health, self._jobs)
        is_recovered = self._health.state is ServiceState.READY and self._health.detail
        self._dot.set_color("warning" if is_recovered else _COLORS[self._health.state])
        first = text.splitlines()[0] if text else ""
        self.text.setText(first if len(first) <= 100 else f"{first[:99]}…")
        self.setToolTip(self._health.detail or text)


def sentence(health: Health, jobs: tuple[Job, ...]) -> str:
    """What the line says."""
    loading = next((job for job in jobs if job.phase is Phase.LOADING), None)
    running = next((job for job in jobs if job.phase is Phase.RUNNING), None)
    if health.state in (ServiceState.READY, ServiceState.BUSY, ServiceState.LOADING):
        if loading is not None:
            return tr("Loading the model: {percent} %", percent=round(loading.fraction * 100))
        if running is not None and len(jobs) > 1:
            return tr("Painting, {count} waiting", count=len(jobs) - 1)
        if running is not None:
            return tr("Painting: {percent} %", percent=round(running.fraction * 100))
    detail = health.detail
    if health.state is ServiceState.READY and detail:
        return tr("Ready again. The engine had died: {detail}", detail=detail)
    return {
        ServiceState.STARTING: tr("Starting the engine…"),
        ServiceState.CONNECTING: tr("Connecting…"),
        ServiceState.LOADING: tr("Starting the engine…"),
        ServiceState.READY: tr("Ready"),
        ServiceState.BUSY: tr("Busy"),
        ServiceState.ENGINE_DIED: tr(
            "The engine died; the next job starts a new one. {detail}", detail=detail
        ),
        ServiceState.STALLED: tr("The service is slow to answer"),
        ServiceState.LOST: tr("The service does not answer; trying again. {detail}", detail=detail),
    }[health.state].strip()


class _Dot(QWidget):
    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self._color = "warning"
        self.setFixedSize(16, 16)

    def set_color(self, name: str) -> None:
        self._color = name
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._theme.color(self._color))
        painter.drawEllipse(4, 4, 8, 8)
        painter.end()
