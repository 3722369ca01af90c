"""The window's side of jobs: what is asked goes out, progress and previews show, results become layers.

A result that arrives in the middle of a brush stroke waits for the pen to be lifted. Nothing here waits
for the service.
"""

from __future__ import annotations

import numpy as np
from PySide6.QtCore import QObject, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QImage, QPainter

from desktop.document.geometry import Rect
from desktop.i18n import tr
from desktop.jobs.bridge import JobBridge
from desktop.jobs.job import Job, JobDelivered, JobEnded, JobPreviewed, JobWentOn, LookAnswered, Phase
from desktop.jobs.wish import Action, Wish
from desktop.models.workspace import Session, Workspace, layer_ids
from desktop.tools.settings import ToolSettings
from desktop.views.canvas import CanvasView
from desktop.views.generate_panel import GeneratePanel
from desktop.views.health_line import HealthLine
from desktop.views.look_desk import LookDesk
from desktop.views.notice_bar import Notice
from flux_core.messages import Hello

_PREVIEW_SIDE_PX = 768  # a preview is small; this only keeps the edge of its mask smooth


class JobDesk(QObject):
    """Connects the job bridge with panel, canvas and health line.

    Signals:
        noticed(Notice): A job failed, or was not done quite as asked.
        changed: Jobs began or ended.
    """

    noticed = Signal(object)
    changed = Signal()

    def __init__(
        self,
        workspace: Workspace,
        jobs: JobBridge,
        settings: ToolSettings,
        panel: GeneratePanel,
        canvas: CanvasView,
        health: HealthLine,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._workspace, self._jobs, self._settings = workspace, jobs, settings
        self._panel, self._canvas, self._health = panel, canvas, health
        self._waiting: list[JobDelivered] = []
        self.looks = LookDesk(workspace, jobs, settings, panel, canvas, self)
        self.looks.noticed.connect(self.noticed)
        jobs.job_changed.connect(self._on_job)
        jobs.job_previewed.connect(self._on_preview)
        jobs.job_delivered.connect(self._on_delivered)
        jobs.job_ended.connect(self._on_ended)
        jobs.look_answered.connect(self._on_over)
        jobs.job_went_on.connect(self._on_over)
        jobs.health_changed.connect(health.show_health)
        jobs.service_known.connect(self._on_service)
        panel.asked.connect(self.submit)
        panel.cancel_asked.connect(jobs.cancel)
        canvas.gesture_ended.connect(self._insert_waiting)
        health.show_health(jobs.health)

    def show_session(self, session: Session | None) -> None:
        """Another document is open; its jobs from an earlier time are taken up."""
        self._panel.clear_jobs()
        self._panel.answers.clear()
        if session is not None:
            for job in self._jobs.jobs():
                self._on_job(job)
            self._jobs.attach(session.document_id, layer_ids(session.document))

    def submit(self, wish: Wish) -> None:
        """Starts what the button says, for the document as it is now."""
        session = self._workspace.session
        if session is None:
            return
        if self._panel.action.is_look:
            self.looks.ask(wish)
            return
        state = session.document.committed_state
        selected = state.selection.bounds.intersection(state.canvas)
        action = self._panel.action
        box: Rect = selected if action is Action.FILL and not selected.is_empty else state.canvas
        self._jobs.submit(session.document_id, state, wish, action, box)

    def cancel_first(self) -> None:
        """Cancels the oldest job that is not being cancelled already."""
        mine = (job for job in self._mine() if job.phase is not Phase.CANCELLING)
        job = next(mine, None)
        if job is not None:
            self._jobs.cancel(job.id)

    @property
    def has_jobs(self) -> bool:
        return bool(self._mine())

    def _mine(self) -> tuple[Job, ...]:
        session = self._workspace.session
        if session is None:
            return ()
        return tuple(job for job in self._jobs.jobs() if job.document_id == session.document_id)

    def _is_mine(self, document_id: str) -> bool:
        session = self._workspace.session
        return session is not None and session.document_id == document_id

    def _on_job(self, job: Job) -> None:
        self._health.show_jobs(self._jobs.jobs())
        if not self._is_mine(job.document_id) or all(one.id != job.id for one in self._jobs.jobs()):
            return
        self._panel.show_job(job)
        if job.phase in (Phase.LOADING, Phase.RUNNING) and not job.action.is_look:
            self._canvas.show_frame(job.id, job.box)
        elif job.phase is Phase.CANCELLING:
            self._canvas.remove_preview(job.id)
        self.changed.emit()

    def _on_preview(self, message: JobPreviewed) -> None:
        is_running = message.job_id in self._panel.job_rows
        if is_running and self._is_mine(message.document_id):
            image = preview_image(message)
            if not image.isNull():
                self._canvas.show_preview(message.job_id, message.core, image)

    def _on_delivered(self, message: JobDelivered) -> None:
        self._finish(message.job_id)
        if not self._is_mine(message.document_id):
            return
        for warning in message.warnings:
            self.noticed.emit(Notice(warning, kind="info"))
        self._waiting.append(message)
        self._insert_waiting()

    def _insert_waiting(self) -> None:
        if self._canvas.is_busy:
            return
        waiting, self._waiting = self._waiting, []
        for message in waiting:
            if self._workspace.insert_result(message.job_id, message.document_id, message.layer):
                self._settings.is_mask_tinted = False

    def _on_ended(self, message: JobEnded) -> None:
        self._finish(message.job_id)
        if self.looks.was_replaced(message.job_id):
            return
        if message.error is not None:
            self.noticed.emit(Notice(message.error.message, message.error.hint))
        elif self._is_mine(message.document_id):
            self._workspace.informed.emit(tr("Cancelled."))

    def _on_over(self, message: LookAnswered | JobWentOn) -> None:
        self._finish(message.job_id)

    def _on_service(self, hello: Hello) -> None:
        self._panel.set_models(hello.models)

    def _finish(self, job_id: str) -> None:
        self._panel.remove_job(job_id)
        self._canvas.remove_preview(job_id)
        self._health.show_jobs(self._jobs.jobs())
        self.changed.emit()


def preview_image(message: JobPreviewed) -> QImage:
    """The preview as it will lie on the canvas, faded where the result will be; null if it is no picture."""
    image = QImage.fromData(message.webp)
    if image.isNull():
        return image
    box, core = message.box, message.core
    x_scale, y_scale = image.width() / box.width, image.height() / box.height
    part = QRectF(
        (core.x - box.x) * x_scale,
        (core.y - box.y) * y_scale,
        core.width * x_scale,
        core.height * y_scale,
    )
    size = QSize(core.width, core.height)
    if max(core.width, core.height) > _PREVIEW_SIDE_PX:
        size.scale(_PREVIEW_SIDE_PX, _PREVIEW_SIDE_PX, Qt.AspectRatioMode.KeepAspectRatio)
    shown = QImage(size, QImage.Format.Format_RGB32)
    painter = QPainter(shown)
    painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
    painter.drawImage(QRectF(0, 0, size.width(), size.height()), image, part)
    painter.end()
    if message.alpha is None:
        return shown
    alpha = np.ascontiguousarray(message.alpha)
    mask = QImage(alpha.data, core.width, core.height, core.width, QImage.Format.Format_Grayscale8)
    mask = mask.scaled(size, Qt.AspectRatioMode.IgnoreAspectRatio, Qt.TransformationMode.SmoothTransformation)
    shown.setAlphaChannel(mask)
    return shown.convertToFormat(QImage.Format.Format_ARGB32_Premultiplied)
