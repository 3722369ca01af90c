"""Which piece of the canvas a task sends, and at which size.

Generate, Refine, Control and Vary are a fill of the whole canvas; an edit works at one of the sizes that its
model knows; an enlargement starts from the canvas as it is.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from desktop.document import mask
from desktop.document.geometry import Extent
from desktop.document.tiles import Pixels
from desktop.jobs.wish import Action
from flux_core.catalog import ModelSpec
from flux_core.imaging import codec, inpaint, intents, sizes
from flux_core.imaging.geometry import Box
from flux_core.imaging.inpaint import InpaintPlan
from flux_core.imaging.intents import IntentSettings
from flux_core.imaging.prefill import prefill
from flux_core.imaging.sizes import Fit


def plan_for(
    action: Action, selection: Pixels | None, size: Extent, spec: ModelSpec, meant: IntentSettings | None
) -> InpaintPlan:
    """What to send.

    Args:
        action: What is done.
        selection: [H, W] of the canvas, 255 = repaint; None where nothing is marked.
        size: Of the canvas.
        spec: The model.
        meant: What is meant by the mask; None takes it as it is.

    Raises:
        RequestInvalid: The mask cannot be used.
    """
    everything = np.full((size.height, size.width), mask.REPAINT, np.uint8)
    if action is Action.EDIT:
        return _edit_plan(everything if selection is None else selection, size, spec)
    if action is Action.UPSCALE:
        canvas = Box(0, 0, size.width, size.height)
        return InpaintPlan(size, canvas, size.width, size.height, everything, canvas, everything, False)
    if action is Action.FILL and selection is not None:
        repaint = selection if meant is None else intents.mask_for(meant.row.intent, selection)
        settings = inpaint.suggest_settings(repaint, spec.working_side_px, spec.max_side_px)
        if meant is not None:
            settings = intents.inpaint_settings(meant.row.intent, repaint, settings)
        return _with_whole_piece(inpaint.plan_inpaint(repaint, settings))
    settings = inpaint.suggest_settings(everything, spec.working_side_px, spec.max_side_px)
    settings = replace(settings, feather_px=0, context=0.0, is_colour_matched=False)
    return _with_whole_piece(inpaint.plan_inpaint(everything, settings))


def seen_by(
    action: Action, canvas: Pixels, plan: InpaintPlan, meant: IntentSettings | None
) -> tuple[Pixels, Pixels]:
    """The picture and the mask that the model gets, of RGBA [H, W, 4] of the canvas' size."""
    if action is Action.EDIT:
        return sizes.fit_picture(codec.flat(canvas), fit_of(plan)), plan.work_mask
    if action is Action.UPSCALE:
        return codec.flat(canvas), plan.work_mask
    image, repaint = inpaint.extract(canvas, plan)
    if meant is not None:
        image = prefill(image, repaint, meant.row.prefill, meant.row.falloff_px)
    return image, repaint


def fit_of(plan: InpaintPlan) -> Fit:
    """How the canvas of an edit lies on its working size."""
    return sizes.fit(plan.picture_size, (plan.work_width_px, plan.work_height_px))


def edit_box(size: Extent, work_size: tuple[int, int]) -> Box:
    """Where an edit at a working size lies on a canvas; reaches beyond it on two sides."""
    fitted = sizes.fit(size, work_size)
    return Box(
        math.floor(fitted.x0),
        math.floor(fitted.y0),
        math.ceil(size.width - fitted.x0),
        math.ceil(size.height - fitted.y0),
    )


def on_canvas(piece: Pixels, plan: InpaintPlan) -> Pixels:
    """The piece at its place on an otherwise untouched canvas; the rest costs no memory."""
    width, height = plan.picture_size
    picture = np.zeros((height, width, 4), np.uint8)
    core = plan.core
    if piece.size:
        picture[core.y0 : core.y1, core.x0 : core.x1] = piece
    return picture


def _edit_plan(shown: Pixels, size: Extent, spec: ModelSpec) -> InpaintPlan:
    """The whole canvas at a size that the model knows; `shown` [H, W] is where the result may show."""
    width, height = sizes.nearest_size(size.width, size.height, spec.working_side_px, spec.max_side_px)
    return InpaintPlan(
        picture_size=size,
        box=edit_box(size, (width, height)),
        work_width_px=width,
        work_height_px=height,
        work_mask=np.full((height, width), mask.REPAINT, np.uint8),
        core=Box(0, 0, size.width, size.height),
        alpha=shown,
        is_colour_matched=False,
    )


def _with_whole_piece(plan: InpaintPlan) -> InpaintPlan:
    """The plan with all of the canvas that is sent as its core, so that the mask can grow later."""
    width, height = plan.picture_size
    seen, core = plan.box.clipped(width, height), plan.core
    alpha = np.zeros((seen.height, seen.width), np.uint8)
    alpha[core.y0 - seen.y0 : core.y1 - seen.y0, core.x0 - seen.x0 : core.x1 - seen.x0] = plan.alpha
    return replace(plan, core=seen, alpha=alpha)
