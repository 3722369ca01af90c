"""`flowbrush fill`: repaint a part of a picture, or beyond its edge; the rest stays, to the byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from desktop.commands import notation, options
from desktop.commands.groups import Guides, Painting, Words, grouped

if TYPE_CHECKING:
    from flux_core.catalog import ModelSpec
    from flux_core.imaging.codec import Pixels
    from flux_core.imaging.inpaint import InpaintSettings


@grouped
def fill(
    image: Annotated[Path, typer.Argument(help="The picture to change.")],
    prompt: Annotated[str, typer.Argument(help="What should be there.")],
    painting: Painting,
    words: Words,
    guides: Guides,
    mask: Annotated[
        Path | None, typer.Option(help="Grey picture of the same size: white is repainted, black is kept.")
    ] = None,
    outpaint: Annotated[
        str | None, typer.Option(help="Extend by left,top,right,bottom pixels and paint there.")
    ] = None,
    grow: Annotated[int, typer.Option(help="Pixels beyond the mask that may change too.")] = 0,
    feather: Annotated[
        int | None,
        typer.Option(help="Width in pixels of the fade inside the mask; fits the mask by default."),
    ] = None,
    strength: options.Strength = 1.0,
) -> None:
    """Repaint where a mask is white; every pixel outside it stays as it was."""
    from desktop.commands.frame import Blobs, Frame, model_for, read_picture
    from desktop.commands.painting import run, write_pictures
    from flux_core.imaging import codec, inpaint, profiles
    from flux_core.request import Task, build_request

    options.check_output(painting.output)
    spec = model_for(painting.model, Task.FILL)
    picture = read_picture(image)
    pixels, repaint = _canvas(picture.pixels, mask, outpaint)
    plan = inpaint.plan_inpaint(repaint, _settings(repaint, spec, grow, feather))
    srgb = profiles.to_srgb(pixels, picture.icc)
    work_image, work_mask = (codec.encode_png(part) for part in inpaint.extract(srgb, plan))
    blobs = Blobs()
    request = build_request(
        task=Task.FILL,
        prompt=prompt,
        **painting.fields(spec),
        **words.fields(),
        **guides.fields(Frame.of(plan), blobs),
        width_px=plan.work_width_px,
        height_px=plan.work_height_px,
        image=blobs.add(work_image),
        mask=blobs.add(work_mask),
        strength=strength,
    )
    screen, outcome = run(painting, request, blobs)

    def arrange(result: Pixels) -> Pixels:
        patch = inpaint.place(srgb, plan, result)
        patch = replace(patch, pixels=profiles.from_srgb(patch.pixels, picture.icc))
        return codec.in_mode(inpaint.apply(pixels, patch), picture.mode)

    write_pictures(screen, outcome, painting.output, arrange, icc=picture.icc)


def _canvas(pixels: Pixels, mask: Path | None, outpaint: str | None) -> tuple[Pixels, Pixels]:
    """The picture, extended if asked, and what to repaint of it."""
    import numpy as np

    from desktop.commands.frame import check_same_size
    from flux_core.errors import RequestInvalid
    from flux_core.imaging import codec, inpaint

    if mask is None and outpaint is None:
        raise RequestInvalid(
            "Nothing says what to repaint.", "Give --mask FILE, --outpaint L,T,R,B, or both."
        )
    height, width = pixels.shape[:2]
    painted = np.zeros((height, width), np.uint8)
    if mask is not None:
        painted = codec.decode_grey(options.read_input(mask), mask.name)
        check_same_size(painted, (width, height), f"The mask {mask.name}")
    if outpaint is None:
        return pixels, painted
    left, top, right, bottom = notation.parse_sides(outpaint)
    canvas, repaint = inpaint.extend(pixels, left, top, right, bottom)
    repaint[top : top + height, left : left + width] = painted
    return canvas, repaint


def _settings(repaint: Pixels, spec: ModelSpec, grow: int, feather: int | None) -> InpaintSettings:
    from flux_core.imaging import inpaint

    settings = inpaint.suggest_settings(repaint, spec.working_side_px, spec.max_side_px)
    feather_px = settings.feather_px if feather is None else feather
    return replace(settings, grow_px=grow, feather_px=feather_px)
