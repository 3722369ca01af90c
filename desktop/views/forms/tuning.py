"""What most people never open: what is unwanted, how steps are taken, LoRAs, regions."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QCheckBox, QDoubleSpinBox, QLineEdit

from desktop.i18n import mark, tr
from desktop.jobs.wish import Tuning
from desktop.views.forms.task_form import TaskForm, choice_box, choose
from desktop.views.theme import Theme
from flux_core.request import Decoder, Solver, StepCache

_SOLVERS = (
    ("Euler", Solver.EULER),
    ("Heun", Solver.HEUN),
    ("DPM++ 2M", Solver.DPMPP_2M),
    ("UniPC", Solver.UNIPC),
)
_CACHES = (
    (mark("off"), StepCache.OFF),
    (mark("careful"), StepCache.CAREFUL),
    (mark("fast"), StepCache.FAST),
)
_DECODERS = ((mark("full"), Decoder.FULL), (mark("fast, softer"), Decoder.FAST))
_AGAINST = 3.0  # what true guidance becomes when something is unwanted and it was off


class TuningForm(TaskForm):
    """The advanced fields of every task."""

    def __init__(self, theme: Theme, language: str) -> None:
        super().__init__(theme, language)
        self.negative = QLineEdit()
        self.negative.setPlaceholderText(tr("nothing"))
        self.negative.setToolTip(tr("What should not be there; every step then takes twice the time"))
        self.add_row(tr("Unwanted"), self.negative)
        self.true_guidance = QDoubleSpinBox()
        self.true_guidance.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self.true_guidance.setRange(1.0, 20.0)
        self.true_guidance.setSingleStep(0.5)
        self.true_guidance.setDecimals(1)
        self.true_guidance.setSpecialValueText(tr("off"))
        self.true_guidance.setToolTip(tr("Weight of your words against what is unwanted"))
        self.add_row(tr("True guidance"), self.true_guidance)
        self.solver = choice_box([(text, value.value) for text, value in _SOLVERS], tr("How steps are taken"))
        self.add_row(tr("Solver"), self.solver)
        self.cache = choice_box(
            [(tr(text), value.value) for text, value in _CACHES],
            tr("Steps that change little take over the one before: faster, a little less exact"),
        )
        self.add_row(tr("Step cache"), self.cache)
        self.decoder = choice_box(
            [(tr(text), value.value) for text, value in _DECODERS], tr("What makes the picture in the end")
        )
        self.add_row(tr("Decoder"), self.decoder)
        self.loras = QLineEdit()
        self.loras.setPlaceholderText(tr("ink:0.8, oil paint"))
        self.loras.setToolTip(tr("Files in the folder loras, each with its strength"))
        self.add_row(tr("LoRAs"), self.loras)
        self.regions = QCheckBox(tr("Layers with a mask are regions"))
        self.regions.setToolTip(tr("Where a layer's mask is white, its name is what should be there"))
        self.add_wide(self.regions)
        self.negative.textChanged.connect(self._on_negative)

    def tuning(self) -> Tuning:
        """What the fields say."""
        return Tuning(
            negative_prompt=self.negative.text().strip(),
            true_guidance=self.true_guidance.value(),
            solver=Solver(str(self.solver.currentData())),
            step_cache=StepCache(str(self.cache.currentData())),
            decoder=Decoder(str(self.decoder.currentData())),
            loras=self.loras.text().strip(),
            has_layer_regions=self.regions.isChecked(),
        )

    def show_tuning(self, tuning: Tuning) -> None:
        """Shows other values."""
        self.negative.setText(tuning.negative_prompt)
        self.true_guidance.setValue(tuning.true_guidance)
        choose(self.solver, tuning.solver.value)
        choose(self.cache, tuning.step_cache.value)
        choose(self.decoder, tuning.decoder.value)
        self.loras.setText(tuning.loras)
        self.regions.setChecked(tuning.has_layer_regions)

    def _on_negative(self, text: str) -> None:
        if text.strip() and self.true_guidance.value() == self.true_guidance.minimum():
            self.true_guidance.setValue(_AGAINST)
