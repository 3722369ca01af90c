"""The window's side of looks: what is asked goes out, and an answer becomes a mask, a layer or a ranking.

An answer that would edit the document in the middle of a stroke waits for the pen to be lifted.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PySide6.QtCore import QObject, Signal
from PySide6.QtGui import QGuiApplication

from desktop.document import commands
from desktop.document.document import Document
from desktop.document.layers import GenerativeLayer, RasterLayer, Variant
from desktop.document.state import DocumentState
from desktop.document.tiles import TileRaster
from desktop.i18n import mark, tr
from desktop.jobs.answers import FoundMap, FoundMask, Ranked, Ranking, Words
from desktop.jobs.bridge import JobBridge
from desktop.jobs.job import JobEnded, LookAnswered
from desktop.jobs.looks import chosen_pictures
from desktop.jobs.plan import layer_name
from desktop.jobs.wish import Action, Combine, LookWish, PictureChoice, Wish
from desktop.models.workspace import Workspace
from desktop.tools.click_mask import Clicks
from desktop.tools.settings import ToolSettings
from desktop.views.canvas import CanvasView
from desktop.views.generate_panel import GeneratePanel
from desktop.views.notice_bar import Notice
from flux_core.errors import FluxError, RequestInvalid
from flux_core.looking import Box, Point
from flux_core.request import ControlKind

_MAP_TITLES = {ControlKind.DEPTH: mark("Depth"), ControlKind.CANNY: mark("Edges")}
_TITLES = {
    Action.SCORE: mark("Score"),
    Action.SIMILAR: mark("Similar results"),
    Action.DESCRIBE: mark("Description"),
}


class LookDesk(QObject):
    """Connects the looks of the job bridge with panel and canvas.

    Signals:
        noticed(Notice): Something could not be done, or was not found.
    """

    noticed = Signal(object)

    def __init__(
        self,
        workspace: Workspace,
        jobs: JobBridge,
        settings: ToolSettings,
        panel: GeneratePanel,
        canvas: CanvasView,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._workspace, self._jobs, self._settings = workspace, jobs, settings
        self._panel, self._canvas = panel, canvas
        self._clicks: dict[str, Clicks] = {}  # job id -> what the tool asked
        self._replaced: set[str] = set()  # jobs that newer clicks took the place of
        self._waiting: list[LookAnswered] = []
        self._map_layer = ("", ControlKind.DEPTH)  # the layer of the newest map
        jobs.look_answered.connect(self._on_answered)
        jobs.job_ended.connect(self._on_ended)
        canvas.mask_asked.connect(self.ask_mask)
        canvas.gesture_ended.connect(self._go_on)
        answers = panel.answers
        answers.picked.connect(self._on_picked)
        answers.words_wanted.connect(panel.prompt.setPlainText)
        answers.copy_wanted.connect(lambda text: QGuiApplication.clipboard().setText(text))
        answers.map_wanted.connect(self._follow_map)

    def ask(self, wish: Wish) -> None:
        """Asks what the panel says about the document as it is now."""
        session = self._workspace.session
        if session is None:
            return
        document = session.document
        try:
            pictures = chosen_pictures(wish.look, document.committed_state, document.active_id)
        except FluxError as err:
            self._refuse(err)
            return
        self._jobs.look(session.document_id, document.committed_state, _with_pictures(wish, pictures))

    def ask_mask(self, clicks: Clicks) -> None:
        """Asks for the mask of clicks; only the newest one counts, so an older one is cancelled."""
        session = self._workspace.session
        if session is None:
            return
        for job_id in self._clicks:
            self._replaced.add(job_id)
            self._jobs.cancel(job_id)
        box = clicks.box
        look = LookWish(
            points=tuple(
                Point(x_px=each.x_px, y_px=each.y_px, is_positive=each.is_included) for each in clicks.marks
            ),
            box=None
            if box is None
            else Box(left_px=box.x, top_px=box.y, right_px=box.right, bottom_px=box.bottom),
        )
        wish = Wish(action=Action.SELECT, look=look)
        job_id = self._jobs.look(session.document_id, session.document.committed_state, wish)
        self._clicks[job_id] = clicks

    def was_replaced(self, job_id: str) -> bool:
        """Whether a job that has ended was cancelled for newer clicks, so that nobody has to be told."""
        was_there = job_id in self._replaced
        self._replaced.discard(job_id)
        return was_there

    def find_similar(self) -> None:
        """Searches for results like the active layer."""
        document = self._workspace.document
        if document is None:
            return
        self._panel.choose_task(Action.SIMILAR)
        form = self._panel.form
        wish = self._panel.wish()
        choice = PictureChoice(layer_id=document.active_id or "")
        form.show_wish(_with_pictures(wish, (choice,)))
        self._panel.ask()

    # -- answers -----------------------------------------------------------------------------------

    def _on_answered(self, message: LookAnswered) -> None:
        self._waiting.append(message)
        self._go_on()

    def _on_ended(self, message: JobEnded) -> None:
        clicks = self._clicks.pop(message.job_id, None)
        if clicks is not None and self._canvas.tools is not None:
            self._canvas.tools.click_mask.give_up(clicks)

    def _go_on(self) -> None:
        if self._canvas.is_busy:
            return
        waiting, self._waiting = self._waiting, []
        for message in waiting:
            session = self._workspace.session
            clicks = self._clicks.pop(message.job_id, None)
            if session is None or session.document_id != message.document_id:
                continue
            try:
                self._take(message, session.document, clicks)
            except FluxError as err:
                self._refuse(err)

    def _take(self, message: LookAnswered, document: Document, clicks: Clicks | None) -> None:
        wish, answers = message.wish, self._panel.answers
        match message.answer:
            case FoundMask() as found:
                self._take_mask(document, found, wish, clicks)
            case FoundMap() as found:
                self._take_map(document, found)
            case Words() as words:
                answers.show_words(wish.look.question or tr(_TITLES[Action.DESCRIBE]), words)
            case Ranking() as ranking:
                names = [_name(ranked, document.state) for ranked in ranking.rows]
                answers.show_ranking(tr(_TITLES[wish.action or Action.SCORE]), ranking, names)

    def _take_mask(self, document: Document, found: FoundMask, wish: Wish, clicks: Clicks | None) -> None:
        self._settings.is_mask_tinted = True
        if clicks is not None and self._canvas.tools is not None:
            self._canvas.tools.click_mask.take(clicks, found.grey)
            return
        if found.is_empty:
            words = " ".join(wish.prompt.split())
            raise RequestInvalid(tr("“{words}” was not found.", words=words), tr("Say it in other words."))
        canvas = document.committed_state.canvas
        if found.grey.shape != (canvas.height, canvas.width):
            raise RequestInvalid(tr("The canvas changed its size meanwhile."), tr("Ask again."))
        before = document.committed_state.selection.read(canvas)
        match wish.look.combine:
            case Combine.REPLACE:
                grey = found.grey
            case Combine.ADD:
                grey = np.maximum(before, found.grey)
            case Combine.SUBTRACT:
                grey = np.minimum(before, 255 - found.grey)
        label = "Select by words" if wish.prompt else "Select by clicks"
        commands.set_selection(document, TileRaster.from_array(grey), label)

    def _take_map(self, document: Document, found: FoundMap) -> None:
        height, width = found.pixels.shape[:2]
        title, source = tr(_MAP_TITLES[found.kind]), document.state.find(found.choice.layer_id)
        name = title if source is None else f"{title}: {source.name}"
        x, y = (document.size.width - width) // 2, (document.size.height - height) // 2
        solid = np.full((height, width), 255, np.uint8)
        raster = TileRaster.from_array(np.dstack([found.pixels, solid]), x, y)
        layer = RasterLayer(name=name, raster=raster)
        commands.add_layer(document, layer, index=len(document.layers))
        self._map_layer = (layer.id, found.kind)
        self._panel.answers.show_map(title, name)

    # -- what a person does with them ----------------------------------------------------------------

    def _on_picked(self, ranked: Ranked) -> None:
        choice, kept = ranked.choice, ranked.kept
        if self._canvas.is_busy:
            return
        if choice.layer_id and choice.variant is not None:
            self._workspace.show_result(choice.layer_id, choice.variant)
        elif choice.layer_id:
            self._workspace.show_layer(choice.layer_id)
        elif kept is not None:
            name = layer_name(kept.request.prompt, kept.seed)
            self._jobs.fetch(
                kept.sha256,
                lambda png: self._workspace.insert_kept(name, kept.request, Variant(png, kept.seed)),
            )

    def _follow_map(self) -> None:
        layer_id, kind = self._map_layer
        self._panel.follow_map(layer_id, kind)

    def _refuse(self, error: FluxError) -> None:
        self.noticed.emit(Notice(error.message, error.hint))


def _with_pictures(wish: Wish, pictures: tuple[PictureChoice, ...]) -> Wish:
    return replace(wish, look=replace(wish.look, pictures=pictures))


def _name(ranked: Ranked, state: DocumentState) -> str:
    """What a ranked picture is called."""
    choice, kept = ranked.choice, ranked.kept
    if kept is not None:
        return layer_name(kept.request.prompt, kept.seed)
    if choice.file is not None:
        return choice.file.name
    layer = state.find(choice.layer_id)
    if layer is None:
        return tr("What is visible")
    if isinstance(layer, GenerativeLayer) and choice.variant is not None and len(layer.recipe.variants) > 1:
        return tr("Variant {number} of {name}", number=choice.variant + 1, name=layer.name)
    return layer.name
