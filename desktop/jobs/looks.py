"""From a wish to find something out to what the service gets, and from what was found to an answer.

A look is of the moment: it is about the document as it was when it was asked, and nothing is lost with it.
So, unlike a job that paints, it is kept in memory alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from desktop.document.geometry import Extent
from desktop.document.layers import GenerativeLayer, Layer
from desktop.document.state import DocumentState
from desktop.document.tiles import Pixels
from desktop.jobs.answers import Answer, FoundMap, FoundMask, Ranked, Ranking, Words
from desktop.jobs.sources import pixels_of
from desktop.jobs.wish import Action, LookWish, PictureChoice, Scope, Wish
from flux_core import scoring
from flux_core.errors import FluxError, Internal, RequestInvalid
from flux_core.imaging import codec, edges, geometry
from flux_core.looking import (
    BoxesFound,
    Caption,
    DepthFound,
    Describe,
    Finding,
    Ground,
    Look,
    MaskFound,
    Score,
    ScoreFound,
    SegmentPhrase,
    SegmentPoints,
    TextFound,
)
from flux_core.looking import Depth as LookDepth
from flux_core.request import ControlKind, GenerationRequest, Task, build_look, build_request

THUMBNAIL_PX = 96


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A look that somebody waits for.

    Attributes:
        state: The document when it was asked.
        refusal: Why nobody could write a caption, where now somebody who answers questions is asked.
    """

    job_id: str
    document_id: str
    state: DocumentState
    wish: Wish
    refusal: FluxError | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Errand:
    """One job of a look.

    Attributes:
        blobs: What has to be sent before; a picture that the service has itself is not among them.
        choices: The pictures of the request, in its order.
    """

    request: GenerationRequest
    blobs: tuple[bytes, ...]
    choices: tuple[PictureChoice, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The sha256 of each picture."""
        return tuple(name for name in (self.request.image, *self.request.references) if name is not None)


def chosen_pictures(look: LookWish, state: DocumentState, active_id: str | None) -> tuple[PictureChoice, ...]:
    """The pictures that are meant.

    Raises:
        RequestInvalid: There are none.
    """
    match look.scope:
        case Scope.CHOSEN:
            return look.pictures
        case Scope.VARIANTS:
            layer = state.find(active_id)
            if not isinstance(layer, GenerativeLayer):
                raise RequestInvalid("The active layer was not generated.", "Choose a layer with variants.")
            return variants_of(layer)
        case Scope.RESULTS:
            found = tuple(choice for layer in results_of(state) for choice in variants_of(layer))
            if not found:
                raise RequestInvalid("Nothing was generated in this document yet.", "Choose other pictures.")
            return found


def results_of(state: DocumentState) -> tuple[GenerativeLayer, ...]:
    """The generated layers, the top-most first."""
    return tuple(layer for layer in state.walk() if isinstance(layer, GenerativeLayer))[::-1]


def variants_of(layer: GenerativeLayer) -> tuple[PictureChoice, ...]:
    return tuple(PictureChoice(layer.id, variant=number) for number in range(len(layer.recipe.variants)))


def png_of(state: DocumentState, choice: PictureChoice) -> bytes:
    """A chosen picture as it is sent; a variant exactly as the engine gave it.

    Raises:
        RequestInvalid: It has gone.
    """
    if choice.variant is None:
        return codec.encode_png(pixels_of(state, choice))
    layer = state.find(choice.layer_id)
    if not isinstance(layer, GenerativeLayer) or choice.variant >= len(layer.recipe.variants):
        raise RequestInvalid("The chosen result is no longer there.", "Choose another picture.")
    return layer.recipe.variants[choice.variant].png


class PictureReader:
    """Pictures as they are sent. What is visible is kept, because one click on a canvas follows another."""

    def __init__(self) -> None:
        self._visible: tuple[tuple[Layer, ...], Extent, bytes] | None = None

    def png_of(self, state: DocumentState, choice: PictureChoice) -> bytes:
        """As the function `png_of`."""
        if choice != PictureChoice():
            return png_of(state, choice)
        kept = self._visible
        if kept is None or kept[0] is not state.layers or kept[1] != state.size:
            kept = self._visible = (state.layers, state.size, png_of(state, choice))
        return kept[2]


def local_answer(asked: Asked) -> Answer | None:
    """The answer to what takes no helper."""
    look = asked.wish.look
    if asked.wish.action is not Action.MAP or look.map_kind is not ControlKind.CANNY:
        return None
    choice = look.pictures[0]
    return FoundMap(look.map_kind, edges.canny_map(pixels_of(asked.state, choice)), choice)


def errand_for(asked: Asked, reader: PictureReader) -> Errand:
    """What to send; slow for large canvases, so not for the GUI thread.

    Raises:
        RequestInvalid: The wish cannot be carried out; says why.
    """
    look = _look(asked.wish) if asked.refusal is None else Describe()
    choices = asked.wish.look.pictures
    if asked.wish.action is Action.SELECT:
        choices = (PictureChoice(),)  # a mask is one of the canvas
    elif asked.wish.action is not Action.SCORE:
        choices = choices[:1]
    blobs = [reader.png_of(asked.state, choice) for choice in choices]
    return errand(look, [hashlib.sha256(blob).hexdigest() for blob in blobs], blobs, choices)


def errand(
    look: Look, names: Sequence[str], blobs: Sequence[bytes], choices: Sequence[PictureChoice]
) -> Errand:
    """A job that looks at pictures, named by their sha256, each of them once."""
    chosen: dict[str, PictureChoice] = {}
    for name, choice in zip(names, choices, strict=True):
        chosen.setdefault(name, choice)
    request = build_request(task=Task.LOOK, image=next(iter(chosen)), references=tuple(chosen)[1:], look=look)
    return Errand(request, tuple(dict.fromkeys(blobs)), tuple(chosen.values()))


def answer_of(
    asked: Asked, sent: Errand, findings: Sequence[Finding], image: Callable[[int], bytes]
) -> Answer:
    """What was found, for people.

    Args:
        asked: What somebody waits for.
        sent: The job of it.
        findings: Its result.
        image: Number -> PNG of a picture of the result.

    Raises:
        Corrupt: A picture is damaged.
        Internal: It is no answer to what was asked.
    """
    first = findings[0] if findings else None
    if isinstance(first, TextFound):
        return Words(first.text.strip(), first.is_cut)
    if isinstance(first, ScoreFound):
        return _ranking(sent, [found for found in findings if isinstance(found, ScoreFound)])
    if isinstance(first, BoxesFound):
        return FoundMask(_boxes(first, asked.state.size))
    if isinstance(first, MaskFound):
        return FoundMask(codec.decode_grey(image(first.image), "the mask"))
    if isinstance(first, DepthFound):
        pixels = codec.decode(image(first.image), "the map")[..., :3]
        return FoundMap(ControlKind.DEPTH, np.ascontiguousarray(pixels), sent.choices[0])
    raise Internal("The helper looked and found no words for it.", "Look into the service's log.")


def thumbnail(png: bytes) -> Pixels:
    """[h, w, 3] whose longer side is at most THUMBNAIL_PX; a picture that cannot be read is black."""
    try:
        pixels = np.ascontiguousarray(codec.decode(png)[..., :3])
    except RequestInvalid:
        return np.zeros((THUMBNAIL_PX, THUMBNAIL_PX, 3), np.uint8)
    height, width = pixels.shape[:2]
    scale = min(1.0, THUMBNAIL_PX / max(height, width))
    return geometry.resize(pixels, max(1, round(width * scale)), max(1, round(height * scale)))


def _look(wish: Wish) -> Look:
    look = wish.look
    match wish.action:
        case Action.SCORE:
            return build_look(Score, prompt=wish.prompt, phrases=look.phrases)
        case Action.DESCRIBE if look.question:
            return build_look(Describe, question=look.question)
        case Action.DESCRIBE:
            return build_look(Caption, length=look.length)
        case Action.SELECT if look.points or look.box is not None:
            return build_look(SegmentPoints, points=look.points, box=look.box)
        case Action.SELECT if look.is_boxed:
            return build_look(Ground, phrases=scoring.split_phrases(wish.prompt) or (wish.prompt,))
        case Action.SELECT:
            return build_look(SegmentPhrase, phrase=wish.prompt)
        case Action.MAP:
            return build_look(LookDepth)
        case other:
            raise Internal(f"{other} finds nothing out.", "Please report it.")


def _ranking(sent: Errand, found: Sequence[ScoreFound]) -> Ranking:
    pngs = {hashlib.sha256(blob).hexdigest(): blob for blob in sent.blobs}
    prompt = sent.request.look.prompt if isinstance(sent.request.look, Score) else ""
    rows = tuple(
        Ranked(
            sent.choices[each.picture],
            each.similarity,
            each.rank,
            thumbnail(pngs[sent.names[each.picture]]),
            () if [part.phrase for part in each.phrases] == [prompt] else each.phrases,
        )
        for each in scoring.ranked(found)
    )
    return Ranking(rows, found[0].is_prompt_cut)


def _boxes(found: BoxesFound, size: Extent) -> Pixels:
    grey = np.zeros((size.height, size.width), np.uint8)
    for each in found.boxes:
        box = each.box
        grey[box.top_px : box.bottom_px, box.left_px : box.right_px] = 255
    return grey
