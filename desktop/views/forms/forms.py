"""The forms of the tasks, each with the fields that matter for it, and the table of them all."""

from __future__ import annotations

from dataclasses import dataclass, replace

from PySide6.QtWidgets import QCheckBox, QComboBox, QLineEdit

from desktop.i18n import mark, tr
from desktop.jobs.wish import Action, ControlWish, Wish
from desktop.presets import styles
from desktop.views.controls import ValueSlider
from desktop.views.forms.looks import DescribeForm, MapForm, ScoreForm, SelectForm, SimilarForm
from desktop.views.forms.pictures import PictureList, PicturePicker
from desktop.views.forms.task_form import LayerNames, TaskForm, choice_box, choose
from desktop.views.theme import Theme
from flux_core.catalog import MODELS, follows
from flux_core.request import MAX_REFERENCES, ControlKind

_INTENTS = (
    (mark("As painted"), ""),
    (mark("Fill in"), "fill"),
    (mark("Expand"), "expand"),
    (mark("Add something"), "add"),
    (mark("Remove"), "remove"),
    (mark("Replace background"), "replace-background"),
)
_KINDS = (
    (mark("Edges"), ControlKind.CANNY),
    (mark("Depth"), ControlKind.DEPTH),
    (mark("Pose"), ControlKind.POSE),
    (mark("Soft edges"), ControlKind.SOFT_EDGE),
    (mark("Tile"), ControlKind.TILE),
    (mark("Blur"), ControlKind.BLUR),
    (mark("Grey"), ControlKind.GREY),
    (mark("Low quality"), ControlKind.LOW_QUALITY),
)
_ALL_PERCENT = 100
_REFINE_PERCENT = 60
_DETAIL_PERCENT = 30
_FOLLOW_PERCENT = 70
_MAX_FOLLOW_PERCENT = 200


class PaintForm(TaskForm):
    """Text to image, image to image, fill."""

    def __init__(self, theme: Theme, language: str) -> None:
        super().__init__(theme, language)
        self._chosen: Action | None = None
        self.strength = ValueSlider(tr("Strength"), 1, _ALL_PERCENT, " %")
        self.strength.set_value(_ALL_PERCENT)
        self.strength.setToolTip(tr("How much may change: 100 % forgets what was there"))
        self.add_wide(self.strength)
        self.intent = choice_box(
            [(tr(text), value) for text, value in _INTENTS],
            tr("What is meant by the mask: decides what lies under it and how far it reaches"),
        )
        self._intent_label = self.add_row(tr("Meaning"), self.intent)
        self.strength.value_changed.connect(lambda _: self.changed.emit())
        self.intent.currentIndexChanged.connect(lambda _: self.changed.emit())

    def filled_in(self, wish: Wish) -> Wish:
        intent = str(self.intent.currentData()) if self.intent.isVisibleTo(self) else ""
        return replace(wish, strength=self.strength.value() / 100, intent=intent)

    def show_wish(self, wish: Wish) -> None:
        self.strength.set_value(round(wish.strength * 100))
        choose(self.intent, wish.intent)

    def set_act(self, chosen: Action | None, act: Action) -> None:
        if chosen is Action.REFINE and self._chosen is not chosen and self.strength.value() == _ALL_PERCENT:
            self.strength.set_value(_REFINE_PERCENT)  # at 100 % nothing of the picture would be left
        self._chosen = chosen
        self.strength.setVisible(chosen is not Action.GENERATE)
        for widget in (self.intent, self._intent_label):
            widget.setVisible(act is Action.FILL)


class EditForm(TaskForm):
    """Edit by instruction."""

    def __init__(self, theme: Theme, language: str) -> None:
        super().__init__(theme, language)
        self.style_box = _style_box(language, is_for_editing=True)
        self.add_row(tr("Style"), self.style_box)
        self.references = PictureList(theme, least=0, most=MAX_REFERENCES, has_strengths=False)
        self.references.setToolTip(tr("More pictures that your words may refer to"))
        self.add_row(tr("References"), self.references, is_list=True)
        self.keeps = QCheckBox(tr("Keep what did not change"))
        self.keeps.setToolTip(
            tr("Lays the result back onto the picture and hides it where nothing changed, by a layer mask")
        )
        self.keeps.setChecked(True)
        self.add_wide(self.keeps)
        self.style_box.currentIndexChanged.connect(lambda _: self.changed.emit())
        self.references.changed.connect(self.changed)
        self.keeps.toggled.connect(lambda _: self.changed.emit())

    def filled_in(self, wish: Wish) -> Wish:
        return replace(
            wish,
            style=str(self.style_box.currentData()),
            references=self.references.choices(),
            keeps_unchanged=self.keeps.isChecked(),
        )

    def show_wish(self, wish: Wish) -> None:
        choose(self.style_box, wish.style)
        self.references.set_choices(wish.references)
        self.keeps.setChecked(wish.keeps_unchanged)

    def set_layers(self, layers: LayerNames) -> None:
        self.references.set_layers(layers)


class ControlForm(TaskForm):
    """Follow a map."""

    def __init__(self, theme: Theme, language: str) -> None:
        super().__init__(theme, language)
        self.kind = choice_box(
            [(tr(text), kind.value) for text, kind in _KINDS], tr("What the result follows")
        )
        self.add_row(tr("Follow"), self.kind)
        self.picture = PicturePicker()
        self.add_row(tr("Of"), self.picture)
        self.is_map = QCheckBox(tr("It is a map already"))
        self.is_map.setToolTip(tr("Off: edges and depth are found in the picture"))
        self.add_wide(self.is_map)
        self.model = QLineEdit()
        self.model.setPlaceholderText(tr("the model itself"))
        self.model.setToolTip(tr("A ControlNet or control LoRA: its name in the catalog or its file"))
        self.add_row(tr("ControlNet"), self.model)
        self.strength = ValueSlider(tr("Strictness"), 0, _MAX_FOLLOW_PERCENT, " %")
        self.strength.set_value(_FOLLOW_PERCENT)
        self.strength.setToolTip(tr("How strictly a ControlNet is followed"))
        self.add_wide(self.strength)
        self.kind.currentIndexChanged.connect(lambda _: self.changed.emit())
        self.picture.picked.connect(self.changed)
        self.is_map.toggled.connect(lambda _: self.changed.emit())
        self.model.textChanged.connect(self._on_model)
        self.strength.value_changed.connect(lambda _: self.changed.emit())
        self.strength.setEnabled(False)

    def filled_in(self, wish: Wish) -> Wish:
        name = self.model.text().strip()
        control = ControlWish(
            kind=ControlKind(str(self.kind.currentData())),
            picture=self.picture.choice(),
            is_map=self.is_map.isChecked(),
            model=name,
            strength=self.strength.value() / 100 if name else None,
        )
        return replace(wish, control=control)

    def show_wish(self, wish: Wish) -> None:
        control = wish.control
        choose(self.kind, control.kind.value)
        self.picture.set_choice(control.picture)
        self.is_map.setChecked(control.is_map)
        self.model.setText(control.model)
        if control.strength is not None:
            self.strength.set_value(round(control.strength * 100))

    def set_layers(self, layers: LayerNames) -> None:
        self.picture.set_layers(layers)

    def fits(self, model: str) -> bool:
        """A model of maps follows those of its kind by itself; the others need somebody who follows."""
        spec = MODELS.get(model)
        if spec is None:  # the service knows it, and will say
            return True
        is_followed = bool(self.model.text().strip())
        return follows(spec, None if is_followed else ControlKind(str(self.kind.currentData())))

    def if_none_fits(self) -> str:
        return "" if self.model.text().strip() else tr("No model follows this by itself; name a ControlNet")

    def _on_model(self, text: str) -> None:
        self.strength.setEnabled(bool(text.strip()))
        self.changed.emit()


class VaryForm(TaskForm):
    """Variation and style."""

    def __init__(self, theme: Theme, language: str) -> None:
        super().__init__(theme, language)
        self.pictures = PictureList(theme, least=1, most=MAX_REFERENCES, has_strengths=True)
        self.add_row(tr("Like"), self.pictures, is_list=True)
        self.style_box = _style_box(language, is_for_editing=False)
        self.add_row(tr("Style"), self.style_box)
        self.pictures.changed.connect(self.changed)
        self.style_box.currentIndexChanged.connect(lambda _: self.changed.emit())

    def filled_in(self, wish: Wish) -> Wish:
        return replace(wish, likenesses=self.pictures.choices(), style=str(self.style_box.currentData()))

    def show_wish(self, wish: Wish) -> None:
        self.pictures.set_choices(wish.likenesses)
        choose(self.style_box, wish.style)

    def set_layers(self, layers: LayerNames) -> None:
        self.pictures.set_layers(layers)


class UpscaleForm(TaskForm):
    """Enlargement."""

    def __init__(self, theme: Theme, language: str) -> None:
        super().__init__(theme, language)
        self.scale = choice_box([("2 ×", "2"), ("4 ×", "4")], tr("How many times as wide and high"))
        self.add_row(tr("Size"), self.scale)
        self.detail = ValueSlider(tr("New detail"), 1, 100, " %")
        self.detail.set_value(_DETAIL_PERCENT)
        self.detail.setToolTip(tr("How much may be painted anew; more invents more"))
        self.add_wide(self.detail)
        self.upscaler = QLineEdit()
        self.upscaler.setPlaceholderText(tr("plain resampling"))
        self.upscaler.setToolTip(tr("A file in the folder upscalers that enlarges first"))
        self.add_row(tr("Upscaler"), self.upscaler)
        self.scale.currentIndexChanged.connect(lambda _: self.changed.emit())
        self.detail.value_changed.connect(lambda _: self.changed.emit())
        self.upscaler.textChanged.connect(lambda _: self.changed.emit())

    def filled_in(self, wish: Wish) -> Wish:
        return replace(
            wish,
            scale=int(str(self.scale.currentData())),
            strength=self.detail.value() / 100,
            upscaler=self.upscaler.text().strip(),
        )

    def show_wish(self, wish: Wish) -> None:
        choose(self.scale, str(wish.scale))
        self.detail.set_value(round(wish.strength * 100))
        self.upscaler.setText(wish.upscaler)


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """One choice of the panel.

    Attributes:
        action: None is what fits the picture, the mask and the strength.
        title: In the list of tasks.
        form: Who asks for what the task needs.
        has_prompt: Whether words belong to it.
    """

    action: Action | None
    title: str
    form: type[TaskForm]
    has_prompt: bool = True


TASKS = (
    TaskEntry(None, mark("What fits"), PaintForm),
    TaskEntry(Action.GENERATE, mark("Text to image"), PaintForm),
    TaskEntry(Action.REFINE, mark("Image to image"), PaintForm),
    TaskEntry(Action.FILL, mark("Fill the mask"), PaintForm),
    TaskEntry(Action.EDIT, mark("Edit by words"), EditForm),
    TaskEntry(Action.CONTROL, mark("Follow a map"), ControlForm),
    TaskEntry(Action.VARY, mark("Vary and style"), VaryForm),
    TaskEntry(Action.UPSCALE, mark("Enlarge"), UpscaleForm),
    TaskEntry(Action.SELECT, mark("Select by words"), SelectForm),
    TaskEntry(Action.MAP, mark("Depth or edges as a layer"), MapForm, has_prompt=False),
    TaskEntry(Action.DESCRIBE, mark("Describe a picture"), DescribeForm),
    TaskEntry(Action.SCORE, mark("Score against the prompt"), ScoreForm),
    TaskEntry(Action.SIMILAR, mark("Find similar results"), SimilarForm, has_prompt=False),
)


def _style_box(language: str, *, is_for_editing: bool) -> QComboBox:
    fitting = [style for style in styles() if (style.editing if is_for_editing else style.painting)]
    return choice_box(
        [(tr("none"), ""), *((style.title_in(language), style.name) for style in fitting)],
        tr("A style that comes with the program"),
    )
