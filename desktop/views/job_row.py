"""A job in the list: what it is, how far it is, and a cancel that is for this one alone."""

from __future__ import annotations

from PySide6.QtCore import QSize, Signal
from PySide6.QtWidgets import QFrame, QGridLayout, QProgressBar, QWidget

from desktop.i18n import mark, tr
from desktop.jobs.job import Job, Phase
from desktop.views.controls import ElidedLabel, dim, icon_button
from desktop.views.forms.texts import BUTTON_TEXT
from desktop.views.theme import SPACE_PX, Theme

_PHASE = {
    Phase.PREPARING: mark("Preparing"),
    Phase.WAITING: mark("Waiting"),
    Phase.LOADING: mark("Loading the model"),
    Phase.RUNNING: mark("Painting"),
    Phase.FETCHING: mark("Fetching the result"),
    Phase.CANCELLING: mark("Cancelling"),
}
_PER_CENT = 1000


class JobRow(QFrame):
    """One job.

    Signals:
        cancel_asked(str): Carries the job's id.
    """

    cancel_asked = Signal(str)

    def __init__(self, theme: Theme, job_id: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("job")
        self._job_id = job_id
        self.title = ElidedLabel()
        self.detail = dim("")
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setRange(0, _PER_CENT)
        self.cancel = icon_button(theme, "close", tr("Cancel this job (Shift+X)"))
        self.cancel.setIconSize(QSize(16, 16))
        self.cancel.clicked.connect(lambda: self.cancel_asked.emit(self._job_id))
        grid = QGridLayout(self)
        grid.setContentsMargins(SPACE_PX, SPACE_PX // 2, SPACE_PX // 2, SPACE_PX)
        grid.setHorizontalSpacing(SPACE_PX)
        grid.setVerticalSpacing(SPACE_PX // 2)
        grid.addWidget(self.title, 0, 0)
        grid.addWidget(self.detail, 0, 1)
        grid.addWidget(self.cancel, 0, 2)
        grid.addWidget(self.bar, 1, 0, 1, 3)
        grid.setColumnStretch(0, 1)

    def show_job(self, job: Job) -> None:
        """Brings the row up to date."""
        words = " ".join(job.title.split())
        self.title.set_text(words or tr(BUTTON_TEXT[job.action]))
        self.title.setToolTip(words)
        self.detail.setText(describe(job))
        is_known = job.phase in (Phase.RUNNING, Phase.LOADING, Phase.FETCHING)
        # A range of nothing would pulse for ever; waiting is not work, so the bar stays empty.
        self.bar.setValue(round(job.fraction * _PER_CENT) if is_known else 0)
        self.cancel.setEnabled(job.phase is not Phase.CANCELLING)


def describe(job: Job) -> str:
    """Where the job is, in a few words."""
    if job.phase is Phase.RUNNING and job.num_steps:
        return tr("Step {step} of {total}", step=job.step, total=job.num_steps)
    if job.phase is Phase.RUNNING and job.action.is_look:
        return f"{tr('Looking')}…"
    if job.phase is Phase.WAITING and job.position:
        return tr("{count} before it", count=job.position)
    return f"{tr(_PHASE[job.phase])}…"
