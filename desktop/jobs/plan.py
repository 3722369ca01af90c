"""From a document and a wish to what the service gets, and from its answer to a layer.

The model sees what a person sees, the visible layers. What comes back keeps the whole crop as pixels and the
fade as an editable layer mask, so nothing outside the mask is covered and nothing inside it is lost.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from desktop.document import compositor
from desktop.document.geometry import Rect
from desktop.document.layers import GenerativeLayer, Recipe, Variant
from desktop.document.state import DocumentState
from desktop.document.tiles import Pixels
from desktop.jobs import results
from desktop.jobs.asks import TASK_OF, meant_by, model_that_fits, strength_of, task_fields, words_of
from desktop.jobs.pieces import on_canvas, plan_for, seen_by
from desktop.jobs.sources import Sources, tuning_fields
from desktop.jobs.wish import Action, Wish, action_for
from flux_core import catalog
from flux_core.catalog import ModelSpec
from flux_core.errors import RequestInvalid
from flux_core.imaging import codec
from flux_core.imaging.geometry import Box
from flux_core.imaging.inpaint import InpaintPlan
from flux_core.imaging.upscale import plan_upscale
from flux_core.request import GenerationRequest, build_request

MAX_RANDOM_SEED = 2**31
_SEND_CANVAS = (Action.REFINE, Action.FILL, Action.EDIT, Action.UPSCALE)
_KEEP_PIECE = (Action.FILL, Action.EDIT, Action.UPSCALE)
_NAME_CHARS = 40


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A job that is ready to be sent, with all that its answer needs later.

    Attributes:
        request: Names the blobs by their sha256.
        image_png, mask_png: The blobs, b"" where the task takes none.
        plan: Where the answer goes. Its core is the whole piece of canvas that was sent.
        piece: The canvas in `core`, RGBA [core.height, core.width, 4], to match colours against; empty
            where nothing is matched.
        blobs: The other pictures that the request names.
        is_laid_back: Of an edit: whether it is moved onto its source and shows only what it changed.
        rest: Further jobs, each of which starts from the result of the one before.
    """

    action: Action
    request: GenerationRequest
    image_png: bytes
    mask_png: bytes
    plan: InpaintPlan
    piece: Pixels
    blobs: tuple[bytes, ...] = ()
    is_laid_back: bool = True
    rest: tuple[GenerationRequest, ...] = ()

    def following(self, picture_png: bytes) -> Prepared:
        """The next job, which starts from a result of this one."""
        request = self.rest[0].model_copy(update={"image": blob_name(picture_png)})
        return replace(self, request=request, image_png=picture_png, rest=self.rest[1:])

    @property
    def all_blobs(self) -> tuple[bytes, ...]:
        """Everything that has to be sent before the request."""
        return tuple(blob for blob in (self.image_png, self.mask_png, *self.blobs) if blob)

    @property
    def result_box(self) -> Rect:
        """Where the model's picture lies on the canvas, once the result is there."""
        if self.action is Action.UPSCALE:
            return Rect(0, 0, self.request.width_px, self.request.height_px)
        return _rect(self.plan.box)

    @property
    def box(self) -> Rect:
        """The part of the canvas that the result covers."""
        return _rect(self.plan.core)

    @property
    def sent_box(self) -> Rect:
        """The part that the model paints; may reach beyond the canvas."""
        return _rect(self.plan.box)


def spec_for(state: DocumentState, wish: Wish, here: Collection[str]) -> ModelSpec:
    """The model that will do what a wish asks for.

    Args:
        state: The document.
        wish: Names a model, or leaves it open.
        here: Ids of the models that are on the service's machine.

    Raises:
        RequestInvalid: There is no such model, or none for the task.
    """
    if wish.model:
        return catalog.find(wish.model)
    has_mask = bool(state.selection.read(state.canvas).any())
    return model_that_fits(_action_of(state, wish, has_mask), wish, here)


def _action_of(state: DocumentState, wish: Wish, has_mask: bool) -> Action:
    return wish.action or action_for(
        has_picture=has_picture(state), has_mask=has_mask, strength=wish.strength
    )


def prepare(state: DocumentState, wish: Wish, spec: ModelSpec) -> Prepared:
    """Cuts out what the model needs; slow for large canvases, so not for the GUI thread.

    Raises:
        RequestInvalid: The wish cannot be carried out; says why.
    """
    selection = state.selection.read(state.canvas)
    has_mask = bool(selection.any())
    action = _action_of(state, wish, has_mask)
    if action is Action.FILL and not has_mask:
        raise RequestInvalid("Nothing says what to repaint.", "Paint a mask first.")
    meant = meant_by(wish, spec) if action is Action.FILL else None
    plan = plan_for(action, selection if has_mask else None, state.size, spec, meant)
    piece = np.zeros((0, 0, 4), np.uint8)
    image_png = mask_png = b""
    if action in _SEND_CANVAS:
        piece = compositor.render(state, _rect(plan.core))
        image, repaint = seen_by(action, on_canvas(piece, plan), plan, meant)
        image_png = codec.encode_png(image)
        mask_png = codec.encode_png(repaint) if action is Action.FILL else b""
    sources = Sources(state, plan)
    strength = strength_of(action, wish, meant)
    sizes = [(plan.work_width_px, plan.work_height_px, strength)]
    if action is Action.UPSCALE:
        stages = plan_upscale(*plan.picture_size, wish.scale, spec.working_side_px, strength).stages
        sizes = [(stage.width_px, stage.height_px, stage.strength) for stage in stages]
    fields: dict[str, Any] = dict(
        task=TASK_OF[action],
        model=spec.model,
        prompt=words_of(action, wish, meant),
        seed=random.randrange(MAX_RANDOM_SEED) if wish.seed is None else wish.seed,
        num_steps=wish.num_steps,
        guidance=wish.guidance if wish.guidance is not None or meant is None else meant.guidance,
        image=blob_name(image_png),
        mask=blob_name(mask_png),
        num_images=1 if action is Action.UPSCALE else wish.num_images,
        **tuning_fields(wish, sources),
        **task_fields(action, wish, sources),
    )
    request, *rest = [
        build_request(**fields, width_px=width, height_px=height, strength=share)
        for width, height, share in sizes
    ]
    kept = piece if action in _KEEP_PIECE else piece[:0, :0]
    return Prepared(
        action,
        request,
        image_png,
        mask_png,
        plan,
        kept,
        sources.blobs,
        is_laid_back=wish.keeps_unchanged,
        rest=tuple(rest),
    )


def finish(prepared: Prepared, pictures: Sequence[tuple[bytes, int]], layer_id: str) -> GenerativeLayer:
    """Makes the layer that shows a result.

    Args:
        prepared: As it was sent.
        pictures: (PNG, seed) of every variant; the first one is shown.
        layer_id: Id of the new layer.

    Raises:
        RequestInvalid: There is no picture, or it has another size than was asked for.
        Corrupt: A picture is damaged.
    """
    if not pictures:
        raise RequestInvalid("The job came back without a picture.", "Start it again.")
    generated = codec.decode(pictures[0][0], "the result")[..., :3]
    plan, piece = prepared.plan, prepared.piece
    match prepared.action:
        case Action.EDIT:
            raster, layer_mask = results.edited(plan, piece, generated, is_laid_back=prepared.is_laid_back)
        case Action.UPSCALE:
            size = (prepared.request.width_px, prepared.request.height_px)
            raster, layer_mask = results.enlarged(piece, generated, size)
        case action:
            raster, layer_mask = results.placed(plan, piece, generated, is_masked=action is Action.FILL)
    variants = tuple(Variant(png, seed) for png, seed in pictures)
    return GenerativeLayer(
        id=layer_id,
        name=layer_name(prepared.request.prompt, variants[0].seed),
        raster=raster,
        mask=layer_mask,
        recipe=Recipe(prepared.request, prepared.result_box, variants),
    )


def has_picture(state: DocumentState) -> bool:
    """Whether anything visible is on the canvas."""
    return any(
        layer.is_visible and not layer.bounds.intersection(state.canvas).is_empty for layer in state.layers
    )


def layer_name(prompt: str, seed: int) -> str:
    """The prompt, shortened, and the seed."""
    words = " ".join(prompt.split())
    short = words if len(words) <= _NAME_CHARS else f"{words[: _NAME_CHARS - 1].rstrip()}…"
    return f"{short} ({seed})" if short else f"({seed})"


def blob_name(data: bytes) -> str | None:
    """The sha256 under which a blob travels; None for none."""
    return hashlib.sha256(data).hexdigest() if data else None


def _rect(box: Box) -> Rect:
    return Rect(box.x0, box.y0, box.width, box.height)
