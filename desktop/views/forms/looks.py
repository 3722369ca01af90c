"""The forms of the tasks that find something out: score, describe, select, map, similar."""

from __future__ import annotations

from dataclasses import replace

from PySide6.QtWidgets import QCheckBox, QLineEdit, QWidget

from desktop.i18n import mark, tr
from desktop.jobs.wish import Combine, LookWish, Scope, Wish
from desktop.views.forms.pictures import PictureList, PicturePicker
from desktop.views.forms.task_form import LayerNames, TaskForm, choice_box, choose
from desktop.views.theme import Theme
from flux_core.looking import MAX_PICTURES, CaptionLength
from flux_core.request import ControlKind

_SCOPES = (
    (mark("Chosen pictures"), Scope.CHOSEN),
    (mark("Variants of the active layer"), Scope.VARIANTS),
    (mark("All results, with variants"), Scope.RESULTS),
)
_LENGTHS = (
    (mark("A sentence"), CaptionLength.SHORT),
    (mark("A few sentences"), CaptionLength.MEDIUM),
    (mark("A paragraph"), CaptionLength.LONG),
)
_COMBINES = (
    (mark("Replaces the mask"), Combine.REPLACE),
    (mark("Adds to the mask"), Combine.ADD),
    (mark("Takes away from the mask"), Combine.SUBTRACT),
)
_OUTLINE, _BOX = "outline", "box"
_SHAPES = ((mark("Its outline"), _OUTLINE), (mark("A box around it"), _BOX))
_MAP_KINDS = ((mark("Depth"), ControlKind.DEPTH), (mark("Edges"), ControlKind.CANNY))


class ScoreForm(TaskForm):
    """How well pictures show words."""

    def __init__(self, theme: Theme, language: str) -> None:
        super().__init__(theme, language)
        self.scope = choice_box([(tr(text), scope.value) for text, scope in _SCOPES], tr("What is scored"))
        self.add_row(tr("Of"), self.scope)
        self.pictures = PictureList(theme, least=1, most=MAX_PICTURES, has_strengths=False)
        self._pictures_label = self.add_row(tr("Pictures"), self.pictures, is_list=True)
        self.phrases = QLineEdit()
        self.phrases.setPlaceholderText(tr("the parts of the prompt"))
        self.phrases.setToolTip(tr("What else to score, with commas between; by default the prompt's parts"))
        self.add_row(tr("Phrases"), self.phrases)
        self.scope.currentIndexChanged.connect(self._on_scope)
        self.pictures.changed.connect(self.changed)

    def filled_in(self, wish: Wish) -> Wish:
        parts = self.phrases.text().replace("，", ",").split(",")
        look = LookWish(
            pictures=self.pictures.choices(),
            scope=Scope(str(self.scope.currentData())),
            phrases=tuple(part.strip() for part in parts if part.strip()),
        )
        return replace(wish, look=look)

    def show_wish(self, wish: Wish) -> None:
        self.pictures.set_choices(wish.look.pictures)
        choose(self.scope, wish.look.scope.value)
        self.phrases.setText(", ".join(wish.look.phrases))
        self._on_scope()

    def needs_canvas(self) -> bool:
        look = self.filled_in(Wish()).look
        return look.scope is not Scope.CHOSEN or any(choice.file is None for choice in look.pictures)

    def set_layers(self, layers: LayerNames) -> None:
        self.pictures.set_layers(layers)

    def _on_scope(self) -> None:
        is_chosen = self.scope.currentData() == Scope.CHOSEN.value
        for widget in (self.pictures, self._pictures_label):
            widget.setVisible(is_chosen)
        self.changed.emit()


class _OnePictureForm(TaskForm):
    """Whatever looks at one picture."""

    def __init__(self, theme: Theme, language: str) -> None:
        super().__init__(theme, language)
        self.picture = PicturePicker()
        self.add_row(tr("Of"), self.picture)
        self.picture.picked.connect(self.changed)

    def needs_canvas(self) -> bool:
        return self.picture.choice().file is None

    def set_layers(self, layers: LayerNames) -> None:
        self.picture.set_layers(layers)


class DescribeForm(_OnePictureForm):
    """A caption, or an answer."""

    def __init__(self, theme: Theme, language: str) -> None:
        super().__init__(theme, language)
        self.length = choice_box(
            [(tr(text), length.value) for text, length in _LENGTHS], tr("How much a description says")
        )
        choose(self.length, CaptionLength.MEDIUM.value)
        self._length_label = self.add_row(tr("Length"), self.length)
        self.question = QLineEdit()
        self.question.setPlaceholderText(tr("none; the picture is described"))
        self.question.setToolTip(tr("What to answer about the picture"))
        self.add_row(tr("Question"), self.question)
        self.question.textChanged.connect(self._on_question)

    def filled_in(self, wish: Wish) -> Wish:
        look = LookWish(
            pictures=(self.picture.choice(),),
            question=self.question.text().strip(),
            length=CaptionLength(str(self.length.currentData())),
        )
        return replace(wish, look=look)

    def show_wish(self, wish: Wish) -> None:
        self.picture.set_choice(wish.look.pictures[0])
        choose(self.length, wish.look.length.value)
        self.question.setText(wish.look.question)

    def _on_question(self, text: str) -> None:
        widgets: tuple[QWidget, ...] = (self.length, self._length_label)
        for widget in widgets:
            widget.setEnabled(not text.strip())


class SelectForm(TaskForm):
    """A mask of what words name."""

    def __init__(self, theme: Theme, language: str) -> None:
        super().__init__(theme, language)
        self.combine = choice_box(
            [(tr(text), combine.value) for text, combine in _COMBINES],
            tr("What becomes of the mask that is there"),
        )
        self.add_row(tr("Result"), self.combine)
        self.shape = choice_box([(tr(text), shape) for text, shape in _SHAPES], tr("What of it is masked"))
        self.add_row(tr("Shape"), self.shape)

    def filled_in(self, wish: Wish) -> Wish:
        look = LookWish(
            combine=Combine(str(self.combine.currentData())), is_boxed=self.shape.currentData() == _BOX
        )
        return replace(wish, look=look)

    def show_wish(self, wish: Wish) -> None:
        choose(self.combine, wish.look.combine.value)
        choose(self.shape, _BOX if wish.look.is_boxed else _OUTLINE)


class MapForm(_OnePictureForm):
    """Depth or edges."""

    def __init__(self, theme: Theme, language: str) -> None:
        super().__init__(theme, language)
        self.kind = choice_box(
            [(tr(text), kind.value) for text, kind in _MAP_KINDS], tr("What the map shows")
        )
        self.add_row(tr("Map"), self.kind)

    def filled_in(self, wish: Wish) -> Wish:
        kind = ControlKind(str(self.kind.currentData()))
        return replace(wish, look=LookWish(pictures=(self.picture.choice(),), map_kind=kind))

    def show_wish(self, wish: Wish) -> None:
        self.picture.set_choice(wish.look.pictures[0])
        choose(self.kind, wish.look.map_kind.value)


class SimilarForm(_OnePictureForm):
    """Results that are like a picture."""

    def __init__(self, theme: Theme, language: str) -> None:
        super().__init__(theme, language)
        self.kept = QCheckBox(tr("Also in results of other pictures"))
        self.kept.setToolTip(tr("Everything that the service painted and still keeps, about a week of work"))
        self.kept.setChecked(True)
        self.add_wide(self.kept)

    def filled_in(self, wish: Wish) -> Wish:
        look = LookWish(pictures=(self.picture.choice(),), has_kept=self.kept.isChecked())
        return replace(wish, look=look)

    def show_wish(self, wish: Wish) -> None:
        self.picture.set_choice(wish.look.pictures[0])
        self.kept.setChecked(wish.look.has_kept)
