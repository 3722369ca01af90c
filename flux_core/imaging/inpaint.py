"""Inpaint arithmetic: from a picture and a mask to what the model sees, and back without a trace.

The model gets a piece of the picture around the mask at a size it paints well; its answer is matched
in colour to the surroundings, scaled back by exactly the inverse, and laid over the picture through
an alpha that never leaves the mask (grown only if asked). Where that alpha is 0, the picture is
byte-equal, always. The window and the command line use these same functions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import RequestInvalid
from flux_core.imaging import masks
from flux_core.imaging.codec import check_size
from flux_core.imaging.color import match_colours
from flux_core.imaging.geometry import Box, WorkSize, crop, fit_box, resize

Pixels = NDArray[np.uint8]
_ROWS_AT_ONCE = 256  # blending works in strips, so that an 8000 x 8000 picture needs no second copy


@dataclass(frozen=True, slots=True)
class InpaintSettings:
    """How a mask becomes a job.

    Attributes:
        grow_px: How far beyond the mask the picture may change; 0 keeps the promise to the pixel.
        feather_px: Width of the fade, measured inwards from that limit.
        context: How much of the surroundings the model sees on each side, as a share of the mean of
            the mask's width and height.
        working_side_px: Side of the square whose area the model paints best.
        max_side_px: Longest side the model can paint.
        max_upscale: Largest enlargement of the piece for the model.
        is_colour_matched: Whether colours are matched to the ring around the mask.
    """

    grow_px: int = 0
    feather_px: int = 8
    context: float = 0.5
    working_side_px: int = 1024
    max_side_px: int = 2048
    max_upscale: float = 2.0
    is_colour_matched: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.grow_px <= masks.MAX_GROW_PX:
            raise RequestInvalid(
                f"A mask cannot be grown by {self.grow_px} pixels.", f"Use 0 to {masks.MAX_GROW_PX}."
            )
        if not 0 <= self.feather_px <= masks.MAX_FEATHER_PX:
            raise RequestInvalid(
                f"A feather of {self.feather_px} pixels is not possible.", f"Use 0 to {masks.MAX_FEATHER_PX}."
            )
        if not 0.0 <= self.context <= 16.0:  # also refuses NaN
            raise RequestInvalid(f"A context of {self.context} is not possible.", "Use 0 to 16.")


@dataclass(frozen=True, slots=True, eq=False)
class InpaintPlan:
    """Everything that is known before the model runs.

    Attributes:
        picture_size: Width and height of the picture.
        box: The piece that is sent, in picture coordinates; may reach beyond the picture.
        work_width_px, work_height_px: The size it is sent at; the same factor on both sides.
        work_mask: [work_height, work_width] 255 where the model repaints, 0 where it must keep.
        core: The part of the picture that may change, inside the picture and the box.
        alpha: [core.height, core.width] how much of the result shows, 0..255.
        is_colour_matched: Whether `place` matches colours.
    """

    picture_size: tuple[int, int]
    box: Box
    work_width_px: int
    work_height_px: int
    work_mask: Pixels
    core: Box
    alpha: Pixels
    is_colour_matched: bool

    @property
    def scale(self) -> float:
        """Working pixels per picture pixel, the same on both axes."""
        return self.work_width_px / self.box.width


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A result in picture coordinates: `pixels` [h, w, 3] and `alpha` [h, w] with corner (x0, y0)."""

    x0: int
    y0: int
    pixels: Pixels
    alpha: Pixels

    def rgba(self) -> Pixels:
        """[h, w, 4] straight alpha, for a layer."""
        return np.dstack([self.pixels, self.alpha])


def suggest_settings(mask: Pixels, working_side_px: int, max_side_px: int) -> InpaintSettings:
    """Settings that fit the mask: a fade of a sixth of its mean width, at most 32 px, none if thin.

    Raises:
        RequestInvalid: The mask is empty or not [H, W] uint8.
    """
    feather_px = min(32, int(masks.mean_width_px(masks.check(mask)) / 6))
    return InpaintSettings(
        feather_px=feather_px, working_side_px=working_side_px, max_side_px=max(working_side_px, max_side_px)
    )


def plan_inpaint(mask: Pixels, settings: InpaintSettings) -> InpaintPlan:
    """Decides what to send to the model and where its answer will show.

    Args:
        mask: [H, W] uint8 of the picture's size, 255 = repaint; grey is partly.
        settings: See InpaintSettings.

    Raises:
        RequestInvalid: The mask is empty, not [H, W] uint8, or too large.
    """
    core, grown = _reach(mask, settings.grow_px)
    height, width = mask.shape
    check_size(width, height, "the mask")
    work = WorkSize(
        best_area_px=settings.working_side_px**2,
        min_side_px=settings.working_side_px // 2,
        max_side_px=max(settings.max_side_px, settings.working_side_px),
        max_upscale=settings.max_upscale,
    )
    context_px = round(settings.context * (core.width + core.height) / 2)
    box, work_width, work_height = fit_box(core, context_px, (width, height), work)
    return InpaintPlan(
        picture_size=(width, height),
        box=box,
        work_width_px=work_width,
        work_height_px=work_height,
        work_mask=_work_mask(grown, core, box, (width, height), (work_width, work_height)),
        core=core,
        alpha=masks.feathered(grown, settings.feather_px),
        is_colour_matched=settings.is_colour_matched,
    )


def with_mask(plan: InpaintPlan, mask: Pixels, grow_px: int, feather_px: int) -> InpaintPlan:
    """The same job shown through another mask, after it ran: nothing is generated again.

    The new mask is cut to the piece that was sent; the model's own mask stays as it was.

    Raises:
        RequestInvalid: The mask has another size than the picture, or is empty.
    """
    _check_same_size(mask.shape, plan.picture_size, "mask")
    width, height = plan.picture_size
    seen = plan.box.clipped(width, height)
    core, grown = _reach(mask, grow_px)
    # The border of the piece is an edge to fade to, unless it is the border of the picture.
    limit = Box(
        seen.x0 + (seen.x0 > 0),
        seen.y0 + (seen.y0 > 0),
        seen.x1 - (seen.x1 < width),
        seen.y1 - (seen.y1 < height),
    )
    cut = Box(max(core.x0, limit.x0), max(core.y0, limit.y0), min(core.x1, limit.x1), min(core.y1, limit.y1))
    shown = np.zeros((seen.height, seen.width), np.uint8)
    if cut.width > 0 and cut.height > 0:
        shown[cut.y0 - seen.y0 : cut.y1 - seen.y0, cut.x0 - seen.x0 : cut.x1 - seen.x0] = grown[
            cut.y0 - core.y0 : cut.y1 - core.y0, cut.x0 - core.x0 : cut.x1 - core.x0
        ]
    return replace(plan, core=seen, alpha=masks.feathered(shown, feather_px))


def extract(picture: Pixels, plan: InpaintPlan) -> tuple[Pixels, Pixels]:
    """What the model gets: image [work_height, work_width, 3] and mask [work_height, work_width].

    Args:
        picture: [H, W, 3] or [H, W, 4] sRGB; transparency is laid on white.
        plan: From a mask of the same size.

    Raises:
        RequestInvalid: The picture has another size than the mask.
    """
    _check_same_size(picture.shape, plan.picture_size, "picture")
    piece = _opaque(crop(picture, plan.box))
    return resize(piece, plan.work_width_px, plan.work_height_px), plan.work_mask


def place(picture: Pixels, plan: InpaintPlan, generated: Pixels) -> Patch:
    """Brings the model's answer back to the picture's size and colours.

    Args:
        picture: As given to `extract`.
        plan: As given to `extract`.
        generated: [work_height, work_width, 3 or 4] uint8; a fourth channel is ignored.

    Raises:
        RequestInvalid: The answer or the picture has another size than planned.
    """
    _check_same_size(generated.shape, (plan.work_width_px, plan.work_height_px), "generated picture")
    answer = np.ascontiguousarray(generated[..., :3])
    if plan.is_colour_matched:
        original, repaint = extract(picture, plan)
        answer = match_colours(original, answer, repaint, _is_picture(plan))
    core, box, scale = plan.core, plan.box, plan.scale
    source = (
        (core.x0 - box.x0) * scale,
        (core.y0 - box.y0) * scale,
        min((core.x1 - box.x0) * scale, plan.work_width_px),
        min((core.y1 - box.y0) * scale, plan.work_height_px),
    )
    return Patch(core.x0, core.y0, resize(answer, core.width, core.height, source), plan.alpha)


def apply(picture: Pixels, patch: Patch) -> Pixels:
    """The picture with the patch laid over it (source-over), as a new array.

    Args:
        picture: [H, W, 3] or [H, W, 4] uint8, straight alpha.
        patch: Must lie inside the picture.

    Returns:
        Same shape; byte-equal to `picture` wherever the patch's alpha is 0.
    """
    result = picture.copy()
    for top in range(0, patch.alpha.shape[0], _ROWS_AT_ONCE):
        rows = slice(top, min(top + _ROWS_AT_ONCE, patch.alpha.shape[0]))
        y = slice(patch.y0 + rows.start, patch.y0 + rows.stop)
        x = slice(patch.x0, patch.x0 + patch.alpha.shape[1])
        _blend(result[y, x], patch.pixels[rows], patch.alpha[rows])
    return result


def extend(picture: Pixels, left: int, top: int, right: int, bottom: int) -> tuple[Pixels, Pixels]:
    """A larger canvas for outpainting: the picture's edge is repeated into the new part.

    Args:
        picture: [H, W, 3] or [H, W, 4] uint8.
        left: Pixels to add on the left, >= 0; at least one side must be above 0.
        top: Pixels to add above.
        right: Pixels to add on the right.
        bottom: Pixels to add below.

    Returns:
        (canvas, mask): the canvas, and its mask with 255 exactly where it is new.

    Raises:
        RequestInvalid: A side is negative, all are zero, or the canvas becomes too large.
    """
    if min(left, top, right, bottom) < 0 or not (left or top or right or bottom):
        raise RequestInvalid(
            f"A picture cannot be extended by {left},{top},{right},{bottom} pixels.",
            "Give left,top,right,bottom with at least one above 0.",
        )
    height, width = picture.shape[:2]
    check_size(width + left + right, height + top + bottom, "the extended picture")
    canvas = np.pad(picture, ((top, bottom), (left, right), (0, 0)), mode="edge")
    mask = np.full(canvas.shape[:2], 255, np.uint8)
    mask[top : top + height, left : left + width] = 0
    return canvas, mask


def _reach(mask: Pixels, grow_px: int) -> tuple[Box, Pixels]:
    """Where the picture may change, and the grown mask there."""
    checked = masks.check(mask)
    height, width = checked.shape
    tight = masks.bounds(checked)
    if tight is None:  # check() has seen to it
        raise RequestInvalid("The mask is empty.", "Paint where the picture should change.")
    # One pixel more, so that an edge of the mask is seen as one and the picture's border is not.
    view = tight.padded(grow_px + 1).clipped(width, height)
    grown = masks.grown(checked[view.y0 : view.y1, view.x0 : view.x1], grow_px)
    return view, grown


def _work_mask(grown: Pixels, core: Box, box: Box, picture: tuple[int, int], work: tuple[int, int]) -> Pixels:
    seen = box.clipped(*picture)
    mask = np.zeros((seen.height, seen.width), np.uint8)
    mask[core.y0 - seen.y0 : core.y1 - seen.y0, core.x0 - seen.x0 : core.x1 - seen.x0] = grown
    local = Box(box.x0 - seen.x0, box.y0 - seen.y0, box.x1 - seen.x0, box.y1 - seen.y0)
    return masks.shrunk_to(crop(mask, local), *work)


def _is_picture(plan: InpaintPlan) -> NDArray[np.bool_]:
    """[work_height, work_width] false where the piece reaches beyond the picture."""
    seen = plan.box.clipped(*plan.picture_size)
    x = (np.arange(plan.work_width_px) + 0.5) / plan.scale + plan.box.x0
    y = (np.arange(plan.work_height_px) + 0.5) / plan.scale + plan.box.y0
    return ((y >= seen.y0) & (y < seen.y1))[:, None] & ((x >= seen.x0) & (x < seen.x1))[None, :]


def _opaque(piece: Pixels) -> Pixels:
    if piece.shape[2] == 3:
        return piece
    alpha = piece[..., 3]
    if int(alpha.min()) == 255:
        return piece[..., :3]
    paper = np.full((*piece.shape[:2], 3), 255, np.uint8)
    _blend(paper, piece[..., :3], alpha)
    return paper


def _blend(under: Pixels, over: Pixels, alpha: Pixels) -> None:
    """Source-over in place: under [h, w, 3 or 4], over [h, w, 3], alpha [h, w]."""
    if under.shape[2] == 3 or int(under[..., 3].min()) == 255:
        _blend_opaque(under[..., :3], over, alpha)
        return
    changed = alpha > 0
    a = alpha[changed].astype(np.uint32)[:, None]
    old, new = under[changed].astype(np.uint32), over[changed]
    old_a = (old[:, 3:] * (255 - a) + 127) // 255
    total = a + old_a
    old[:, :3] = (new * a + old[:, :3] * old_a + total // 2) // total
    old[:, 3:] = total
    under[changed] = old


def _blend_opaque(under: Pixels, over: Pixels, alpha: Pixels) -> None:
    """The same over pixels without transparency; exact at alpha 0 and 255, rounded between."""
    if int(alpha.min()) == 255:
        under[...] = over
        return
    a = alpha.astype(np.uint16)[..., None]
    mixed = over * a
    mixed += under * (np.uint16(255) - a)
    mixed += np.uint16(128)
    mixed += mixed >> np.uint16(8)  # a division by 255 with rounding
    under[...] = mixed >> np.uint16(8)


def _check_same_size(shape: tuple[int, ...], size: tuple[int, int], name: str) -> None:
    height, width = shape[:2]
    if (width, height) != size:
        raise RequestInvalid(
            f"The {name} is {width} x {height} pixels, but {size[0]} x {size[1]} are needed.",
            "Use pictures of the same size.",
        )
