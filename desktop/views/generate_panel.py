"""The panel that asks the model: a task, a prompt, a few fields, and one button that names the act.

By default the task is what fits: it follows from the document (is there a picture, is there a mask) and the
strength, so there is no mode to choose. The rest (seed, steps, LoRAs) waits behind "More". Running jobs are
listed below the button, each with its own cancel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from PySide6.QtCore import QRegularExpression, QSize, Qt, Signal
from PySide6.QtGui import QKeySequence, QRegularExpressionValidator
from PySide6.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from desktop.i18n import tr
from desktop.jobs.asks import TASK_OF, model_that_fits
from desktop.jobs.job import Job
from desktop.jobs.wish import Action, ControlWish, PictureChoice, Wish, action_for
from desktop.views.answers import AnswerView
from desktop.views.controls import SnugScroll, ValueSlider, dim, icon_button, number_box
from desktop.views.forms.forms import TASKS, PaintForm, TaskEntry
from desktop.views.forms.task_form import LayerNames, TaskForm, choice_box
from desktop.views.forms.texts import BUTTON_TEXT, EXPLAIN, NEEDS_WORDS, PLACEHOLDER
from desktop.views.forms.tuning import TuningForm
from desktop.views.job_row import JobRow
from desktop.views.theme import SPACE_PX, Theme
from flux_core import catalog
from flux_core.catalog import ModelSpec
from flux_core.errors import FluxError
from flux_core.messages import ModelInfo
from flux_core.request import ControlKind

Fields = dict[type[TaskForm], Wish]
_NEED_PICTURE = (Action.REFINE, Action.EDIT, Action.UPSCALE)
_MOST_NAMED = 3  # models that could be got for a task
_JOBS_PX = 200  # the list of jobs scrolls beyond this height


class GeneratePanel(QWidget):
    """Collects a Wish.

    Signals:
        asked(Wish): The button was pressed.
        cancel_asked(str): A job's cancel was pressed; carries its id.
    """

    asked = Signal(object)
    cancel_asked = Signal(str)

    def __init__(self, theme: Theme, language: str = "en", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme, self._language = theme, language
        self._has_document = self._has_picture = self._has_mask = False
        self._rows: dict[str, JobRow] = {}
        self.models: tuple[ModelInfo, ...] = ()
        self.task = choice_box([(tr(entry.title), str(row)) for row, entry in enumerate(TASKS)])
        self.task.setAccessibleName(tr("Task"))
        self.task.setToolTip(tr("What to do; by default what fits the picture and the mask"))
        self.forms = {form: form(theme, language) for form in dict.fromkeys(entry.form for entry in TASKS)}
        self.tuning = TuningForm(theme, language)
        self.model = QComboBox()
        self.model.setAccessibleName(tr("Model"))
        self.model.setToolTip(tr("Model"))
        self.model.setPlaceholderText(tr("Model"))
        self.model.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.about_model = dim(tr("Bundled: an illustration model for emoji-like scenes of everyday things"))
        self.about_model.setWordWrap(True)
        self.about_model.hide()
        self.prompt = QPlainTextEdit()
        self.prompt.setAccessibleName(tr("Prompt"))
        self.prompt.setToolTip(tr("Describe what should be there (Alt+A)"))
        self.prompt.setTabChangesFocus(True)
        self.prompt.setMinimumHeight(72)
        self.prompt.setMaximumHeight(112)
        self.button = QPushButton()
        self.button.setObjectName("primary")
        self.button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.button.clicked.connect(self.ask)
        self.explain = dim("")
        self.explain.setWordWrap(True)
        self.more = QToolButton()
        self.more.setObjectName("disclosure")
        self.more.setText(tr("More"))
        self.more.setToolTip(tr("Seed, steps, what is unwanted, LoRAs"))
        self.more.setCheckable(True)
        self.more.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.more.setIconSize(QSize(14, 14))
        self.more.toggled.connect(self._on_more)
        self._details = self._make_details()
        jobs = QWidget()
        self._jobs = QVBoxLayout(jobs)
        self._jobs.setContentsMargins(0, 0, 0, 0)
        self._jobs.setSpacing(SPACE_PX)
        self._jobs_scroll = SnugScroll(jobs, least_px=0)
        self._jobs_scroll.setMaximumHeight(_JOBS_PX)
        self._jobs_scroll.hide()
        self.answers = AnswerView(theme)
        self._lay_out()
        self._on_more(False)
        for form in self.forms.values():
            form.changed.connect(self._refresh)
        self.task.currentIndexChanged.connect(lambda _: self._refresh())
        self.model.currentIndexChanged.connect(lambda _: self._refresh())
        self.prompt.textChanged.connect(self._on_prompt)
        self.answers.changed.connect(self._refresh)
        self._refresh()

    # -- what the window says ----------------------------------------------------------------------

    def set_situation(self, *, has_document: bool, has_picture: bool, has_mask: bool) -> None:
        """What the document holds, which decides what the button does."""
        self._has_document, self._has_picture, self._has_mask = has_document, has_picture, has_mask
        self._refresh()

    def set_layers(self, layers: LayerNames) -> None:
        """The document's layers, from which pictures can be chosen."""
        for form in self.forms.values():
            form.set_layers(layers)

    def set_models(self, models: Iterable[ModelInfo]) -> None:
        """Offers the models that are installed and can be run; keeps the choice if it is among them."""
        self.models = tuple(models)
        chosen = self.model.currentData()
        self.model.clear()
        offered = [model for model in self.models if model.is_installed and model.tasks]
        if offered:
            self.model.addItem(tr("What fits"), "")
        for model in offered:
            self.model.addItem(model.title, model.model)
        index = self.model.findData(chosen)
        self.model.setCurrentIndex(max(index, 0))
        self.model.setEnabled(self.model.count() > 0)
        self._refresh()

    def show_job(self, job: Job) -> None:
        """Adds a job's row, or brings it up to date."""
        row = self._rows.get(job.id)
        if row is None:
            row = JobRow(self._theme, job.id)
            row.cancel_asked.connect(self.cancel_asked)
            self._rows[job.id] = row
            self._jobs.addWidget(row)
            self._jobs_scroll.show()
        row.show_job(job)

    def remove_job(self, job_id: str) -> None:
        """The job has ended."""
        row = self._rows.pop(job_id, None)
        if row is not None:
            self._jobs.removeWidget(row)
            row.hide()
            row.deleteLater()
            self._jobs_scroll.setVisible(bool(self._rows))

    def clear_jobs(self) -> None:
        for job_id in list(self._rows):
            self.remove_job(job_id)

    @property
    def job_rows(self) -> dict[str, JobRow]:
        """The rows by job id."""
        return dict(self._rows)

    # -- what it wants -----------------------------------------------------------------------------

    @property
    def entry(self) -> TaskEntry:
        """The chosen task."""
        return TASKS[self.task.currentIndex()]

    @property
    def form(self) -> TaskForm:
        """The fields of the chosen task."""
        return self.forms[self.entry.form]

    @property
    def strength(self) -> ValueSlider:
        """How much a painting task may change."""
        form = self.forms[PaintForm]
        assert isinstance(form, PaintForm)
        return form.strength

    @property
    def action(self) -> Action:
        """What the button will do."""
        return self.entry.action or action_for(
            has_picture=self._has_picture, has_mask=self._has_mask, strength=self.strength.value() / 100
        )

    def choose_task(self, action: Action | None) -> None:
        """Shows the form of a task; None is what fits."""
        self.task.setCurrentIndex([entry.action for entry in TASKS].index(action))

    def follow_map(self, layer_id: str, kind: ControlKind) -> None:
        """Shows the form of control with a map that was made."""
        self.choose_task(Action.CONTROL)
        control = ControlWish(kind=kind, picture=PictureChoice(layer_id=layer_id), is_map=True)
        self.form.show_wish(Wish(control=control))
        self._refresh()

    def wish(self) -> Wish:
        """What the panel says now."""
        seed = self.seed.text().strip()
        wish = Wish(
            prompt=self.prompt.toPlainText().strip(),
            seed=int(seed) if seed else None,
            num_steps=self.steps.value() or None,
            guidance=self.guidance.value() if self.guidance.value() >= 0 else None,
            num_images=self.variants.value(),
            action=self.entry.action,
            tuning=self.tuning.tuning(),
        )
        chosen = self.model.currentData()
        wish = self.form.filled_in(wish)
        return wish if chosen is None else replace(wish, model=str(chosen))

    def set_wish(self, wish: Wish) -> None:
        """Shows another wish, for example that of the window before a change of language."""
        self.prompt.setPlainText(wish.prompt)
        self.choose_task(wish.action)
        self.form.show_wish(wish)
        self.tuning.show_tuning(wish.tuning)
        self.seed.setText("" if wish.seed is None else str(wish.seed))
        self.steps.setValue(wish.num_steps or 0)
        self.guidance.setValue(self.guidance.minimum() if wish.guidance is None else wish.guidance)
        self.variants.setValue(wish.num_images)
        index = self.model.findData(wish.model)
        if index >= 0:
            self.model.setCurrentIndex(index)
        self._refresh()

    def all_fields(self) -> Fields:
        """What every form says, also those that are not seen."""
        return {kind: form.filled_in(Wish()) for kind, form in self.forms.items()}

    def set_all_fields(self, fields: Fields) -> None:
        """Shows in every form what another panel's said."""
        for kind, wish in fields.items():
            self.forms[kind].show_wish(wish)
        self._refresh()

    def ask(self) -> None:
        """What a press of the button does."""
        if self.button.isEnabled():
            self.asked.emit(self.wish())

    # -- parts -------------------------------------------------------------------------------------

    def _make_details(self) -> QWidget:
        self.seed = QLineEdit()
        self.seed.setPlaceholderText(tr("random"))
        self.seed.setAccessibleName(tr("Seed"))
        self.seed.setValidator(QRegularExpressionValidator(QRegularExpression(r"\d{0,18}"), self))
        self.new_seed = icon_button(self._theme, "dice", tr("A new seed each time"))
        self.new_seed.clicked.connect(self.seed.clear)
        self.steps = number_box(0, 200)
        self.steps.setSpecialValueText(tr("auto"))
        self.steps.setAccessibleName(tr("Steps"))
        self.guidance = QDoubleSpinBox()
        self.guidance.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self.guidance.setRange(-0.5, 100.0)
        self.guidance.setSingleStep(0.5)
        self.guidance.setDecimals(1)
        self.guidance.setValue(-0.5)
        self.guidance.setSpecialValueText(tr("auto"))
        self.guidance.setAccessibleName(tr("Guidance"))
        self.variants = number_box(1, 16)
        self.variants.setAccessibleName(tr("Variants"))
        numbers = QWidget()
        grid = QGridLayout(numbers)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(SPACE_PX)
        grid.setVerticalSpacing(SPACE_PX)
        seed_row = QHBoxLayout()
        seed_row.setSpacing(SPACE_PX // 2)
        seed_row.addWidget(self.seed, 1)
        seed_row.addWidget(self.new_seed)
        grid.addWidget(dim(tr("Seed")), 0, 0)
        grid.addLayout(seed_row, 0, 1, 1, 3)
        for widget in (self.steps, self.guidance, self.variants):
            widget.setMinimumWidth(56)
        for column, (text, widget) in enumerate(((tr("Steps"), self.steps), (tr("Guidance"), self.guidance))):
            grid.addWidget(dim(text), 1, 2 * column)
            grid.addWidget(widget, 1, 2 * column + 1)
        grid.addWidget(dim(tr("Variants")), 2, 0)
        grid.addWidget(self.variants, 2, 1)
        grid.setColumnStretch(1, 1)
        grid.setColumnStretch(3, 1)
        box = QWidget()
        column = QVBoxLayout(box)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2 * SPACE_PX)
        column.addWidget(numbers)
        column.addWidget(self.tuning)
        return box

    def _lay_out(self) -> None:
        margin = 2 * SPACE_PX
        wishes = QWidget()
        upper = QVBoxLayout(wishes)
        upper.setContentsMargins(margin, margin, margin, 0)
        upper.setSpacing(SPACE_PX)
        upper.addWidget(self.task)
        upper.addWidget(self.model)
        upper.addWidget(self.about_model)
        upper.addWidget(self.prompt)
        for form in self.forms.values():
            upper.addWidget(form)
        upper.addWidget(self.more, 0, Qt.AlignmentFlag.AlignLeft)
        upper.addWidget(self._details)
        lower = QVBoxLayout()  # never scrolled away
        lower.setContentsMargins(margin, SPACE_PX, margin, margin)
        lower.setSpacing(SPACE_PX)
        lower.addWidget(self.button)
        lower.addWidget(self.explain)
        lower.addWidget(self._jobs_scroll)
        lower.addWidget(self.answers)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        self.fields_scroll = SnugScroll(wishes)
        column.addWidget(self.fields_scroll)
        column.addLayout(lower)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)

    def _on_prompt(self) -> None:
        if self.action in NEEDS_WORDS:
            self._refresh()

    def _on_more(self, is_open: bool) -> None:
        self._details.setVisible(is_open and not self.action.is_look)
        self.more.setIcon(self._theme.icon("up" if is_open else "down"))

    def _refresh(self) -> None:
        action = self.action
        self.form.set_act(self.entry.action, action)
        for form in self.forms.values():
            form.setVisible(form is self.form)
        for widget in (self.model, self.more):
            widget.setVisible(not action.is_look)  # whoever looks is no model that paints
        self._details.setVisible(self.more.isChecked() and not action.is_look)
        self.prompt.setVisible(self.entry.has_prompt)
        self._show_model(action)
        reason = self._why_not(action)
        self.button.setEnabled(not reason)
        self.button.setText(tr(BUTTON_TEXT[action]))
        keys = QKeySequence("Ctrl+Return").toString(QKeySequence.SequenceFormat.NativeText)
        self.button.setToolTip(reason or f"{tr(EXPLAIN[action])} ({keys})")
        self.explain.setText(reason or tr(EXPLAIN[action]))
        self.explain.setVisible(bool(reason) or self.answers.isHidden())  # an answer needs the room
        self.prompt.setPlaceholderText(tr(PLACEHOLDER[action]))
        self.variants.setEnabled(action is not Action.UPSCALE)

    def _why_not(self, action: Action) -> str:
        """Why the button cannot be pressed; "" if it can."""
        if not self._has_document:
            return tr("Open or start a picture first")
        needs_picture = action in _NEED_PICTURE or action.is_look and self.form.needs_canvas()
        if needs_picture and not self._has_picture:
            return tr("There is nothing on the canvas yet")
        if action in NEEDS_WORDS and not self.prompt.toPlainText().strip():
            return tr(NEEDS_WORDS[action])
        if action is Action.FILL and not self._has_mask:
            return tr("Paint a mask first")
        if action.is_look:
            return ""
        task = TASK_OF[action].value
        able = [one for one in self.models if task in one.tasks and self.form.fits(one.model)]
        if self.models and not able and (advice := self.form.if_none_fits()):
            return advice
        here = [one.title for one in able if one.is_installed]
        model = next((one for one in self.models if one.model == self.model.currentData()), None)
        if not any(one.is_installed for one in self.models):
            return ""  # the service says what to do then
        if model in able if model is not None else here:
            return ""
        others = " / ".join(here or [one.title for one in able[:_MOST_NAMED]])
        if model is None:
            return tr("No model that is here can do this; get {others} first", others=others)
        if here:
            return tr("{model} cannot do this; choose {others}", model=model.title, others=others)
        return tr("{model} cannot do this; get {others} first", model=model.title, others=others)

    def _show_model(self, action: Action) -> None:
        """Says which model fits, and what the bundled ones are."""
        chosen, fits = self.model.currentData(), self._fitting(action)
        if chosen is not None:
            text = tr("What fits") if fits is None else tr("What fits: {model}", model=fits.title)
            self.model.setItemText(0, text)
        spec = catalog.MODELS.get(chosen) if chosen else fits
        is_bundled = spec is not None and spec.is_bundled and not action.is_look
        self.about_model.setVisible(chosen is not None and is_bundled)

    def _fitting(self, action: Action) -> ModelSpec | None:
        """What the job takes where no model is chosen; None if nothing that is here can do it."""
        here = {one.model for one in self.models if one.is_installed}
        try:
            spec = model_that_fits(action, self.form.filled_in(Wish()), here)
        except FluxError:
            return None
        return spec if spec.model in here else None
