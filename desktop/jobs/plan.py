"""From a document and a wish to what the service gets, and from its answer to a layer.

All three acts are one: Generate and Refine are a fill of the whole canvas. The model sees what a person
sees, the visible layers. What comes back keeps the whole crop as pixels and the fade as an editable layer
mask, so nothing outside the mask is covered and nothing inside it is lost.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from desktop.document import compositor, mask
from desktop.document.geometry import Rect
from desktop.document.layers import GenerativeLayer, Recipe, Variant
from desktop.document.state import DocumentState
from desktop.document.tiles import Pixels, TileRaster
from desktop.jobs.job import Action, Wish, action_for
from flux_core.catalog import ModelSpec
from flux_core.errors import RequestInvalid
from flux_core.imaging import codec, inpaint
from flux_core.imaging.geometry import Box
from flux_core.imaging.inpaint import InpaintPlan
from flux_core.request import GenerationRequest, Task, build_request

TASK_OF = {Action.GENERATE: Task.GENERATE, Action.REFINE: Task.TRANSFORM, Action.FILL: Task.FILL}
MAX_RANDOM_SEED = 2**31
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
    """

    action: Action
    request: GenerationRequest
    image_png: bytes
    mask_png: bytes
    plan: InpaintPlan
    piece: Pixels

    @property
    def box(self) -> Rect:
        """The part of the canvas that the result covers."""
        return _rect(self.plan.core)

    @property
    def sent_box(self) -> Rect:
        """The part that the model paints; may reach beyond the canvas."""
        return _rect(self.plan.box)


def prepare(state: DocumentState, wish: Wish, spec: ModelSpec) -> Prepared:
    """Cuts out what the model needs; slow for large canvases, so not for the GUI thread.

    Raises:
        RequestInvalid: The wish cannot be carried out; says why.
    """
    canvas = state.canvas
    selection = state.selection.read(canvas)
    has_mask = bool(selection.any())
    action = action_for(has_picture=has_picture(state), has_mask=has_mask, strength=wish.strength)
    if not has_mask:
        selection = np.full(selection.shape, mask.REPAINT, np.uint8)
    settings = inpaint.suggest_settings(selection, spec.working_side_px, spec.max_side_px)
    if not has_mask:
        settings = replace(settings, feather_px=0, context=0.0, is_colour_matched=False)
    plan = _with_whole_piece(inpaint.plan_inpaint(selection, settings))
    piece = np.zeros((0, 0, 4), np.uint8)
    image_png = mask_png = b""
    if action is not Action.GENERATE:
        piece = compositor.render(state, _rect(plan.core))
        image, repaint = inpaint.extract(on_canvas(piece, plan), plan)
        image_png = codec.encode_png(image)
        mask_png = codec.encode_png(repaint) if action is Action.FILL else b""
    request = build_request(
        task=TASK_OF[action],
        model=wish.model,
        prompt=wish.prompt,
        seed=random.randrange(MAX_RANDOM_SEED) if wish.seed is None else wish.seed,
        num_steps=wish.num_steps,
        guidance=wish.guidance,
        width_px=plan.work_width_px,
        height_px=plan.work_height_px,
        image=blob_name(image_png),
        mask=blob_name(mask_png),
        strength=1.0 if action is Action.GENERATE else wish.strength,
        num_images=wish.num_images,
    )
    kept = piece if action is Action.FILL else piece[:0, :0]
    return Prepared(action, request, image_png, mask_png, plan, kept)


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
    plan = prepared.plan
    generated = codec.decode(pictures[0][0], "the result")
    patch = inpaint.place(on_canvas(prepared.piece, plan), plan, generated)
    solid = np.full(patch.alpha.shape, 255, np.uint8)
    raster = TileRaster.from_array(np.dstack([patch.pixels, solid]), patch.x0, patch.y0)
    layer_mask = None
    if prepared.action is Action.FILL:
        layer_mask = mask.hide_all().with_pixels(patch.alpha, patch.x0, patch.y0)
    variants = tuple(Variant(png, seed) for png, seed in pictures)
    return GenerativeLayer(
        id=layer_id,
        name=layer_name(prepared.request.prompt, variants[0].seed),
        raster=raster,
        mask=layer_mask,
        recipe=Recipe(prepared.request, _rect(plan.box), variants),
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


def on_canvas(piece: Pixels, plan: InpaintPlan) -> Pixels:
    """The piece at its place on an otherwise untouched canvas; the rest costs no memory."""
    width, height = plan.picture_size
    picture = np.zeros((height, width, 4), np.uint8)
    core = plan.core
    if piece.size:
        picture[core.y0 : core.y1, core.x0 : core.x1] = piece
    return picture


def _with_whole_piece(plan: InpaintPlan) -> InpaintPlan:
    """The plan with all of the canvas that is sent as its core, so that the mask can grow later."""
    width, height = plan.picture_size
    seen, core = plan.box.clipped(width, height), plan.core
    alpha = np.zeros((seen.height, seen.width), np.uint8)
    alpha[core.y0 - seen.y0 : core.y1 - seen.y0, core.x0 - seen.x0 : core.x1 - seen.x0] = plan.alpha
    return replace(plan, core=seen, alpha=alpha)


def _rect(box: Box) -> Rect:
    return Rect(box.x0, box.y0, box.width, box.height)
