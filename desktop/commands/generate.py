"""`flowbrush generate` and `flowbrush transform`: a picture from text, and one from another picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from desktop import notation
from desktop.commands import options
from desktop.commands.groups import Likes, Maps, Painting, Places, Words, grouped
from desktop.commands.screen import Screen

if TYPE_CHECKING:
    from flux_core.imaging.codec import Pixels


@grouped
def generate(
    prompt: Annotated[str, typer.Argument(help="What the picture should show.")],
    painting: Painting,
    words: Words,
    likes: Likes,
    maps: Maps,
    places: Places,
    size: options.Size = None,
    quick: options.Quick = False,
) -> None:
    """Make a picture from text."""
    from desktop.commands.frame import Blobs, Frame, model_for
    from desktop.commands.painting import run, write_pictures
    from flux_core.request import Task, build_request

    options.check_output(painting.output)
    spec = model_for(painting.model, Task.GENERATE, is_quick=quick)
    width, height = notation.parse_size(size) if size else (spec.working_side_px, spec.working_side_px)
    frame, blobs = Frame(width, height), Blobs()
    request = build_request(
        task=Task.GENERATE,
        prompt=prompt,
        **painting.fields(spec),
        **words.fields(),
        **likes.fields(blobs),
        **maps.fields(frame, blobs),
        **places.fields(frame, blobs),
        width_px=width,
        height_px=height,
    )
    if max(width, height) > spec.max_side_px:
        Screen(painting.json).note(
            f"{spec.title} was made for sides of up to {spec.max_side_px} pixels; larger pictures may repeat "
            "or break. flowbrush upscale enlarges a good one."
        )
    screen, outcome = run(painting, request, blobs)
    write_pictures(screen, outcome, painting.output)


@grouped
def transform(
    image: Annotated[Path, typer.Argument(help="The picture to start from.")],
    prompt: Annotated[str, typer.Argument(help="What it should show.")],
    painting: Painting,
    words: Words,
    likes: Likes,
    maps: Maps,
    places: Places,
    strength: options.Strength = 0.6,
    mask: Annotated[
        Path | None,
        typer.Option(help="Grey picture of the same size: how much of the strength each place has."),
    ] = None,
    quick: options.Quick = False,
) -> None:
    """Make a picture from another picture and text; the size stays."""
    import numpy as np

    from desktop.commands.frame import Blobs, Frame, check_same_size, model_for, read_picture, whole
    from desktop.commands.painting import run, write_pictures
    from flux_core.imaging import codec, inpaint, profiles
    from flux_core.request import Task, build_request

    options.check_output(painting.output)
    spec = model_for(painting.model, Task.TRANSFORM, is_quick=quick)
    picture = read_picture(image)
    pixels = picture.srgb()
    plan = whole(pixels.shape[1], pixels.shape[0], spec)
    frame, blobs = Frame.of(plan), Blobs()
    grey = None if mask is None else codec.decode_grey(options.read_input(mask), mask.name)
    if mask is not None and grey is not None:
        check_same_size(grey, plan.picture_size, f"The mask {mask.name}")
    request = build_request(
        task=Task.TRANSFORM,
        prompt=prompt,
        **painting.fields(spec),
        **words.fields(),
        **likes.fields(blobs),
        **maps.fields(frame, blobs),
        **places.fields(frame, blobs),
        width_px=plan.work_width_px,
        height_px=plan.work_height_px,
        image=blobs.add(codec.encode_png(inpaint.extract(pixels, plan)[0])),
        mask=None if grey is None else blobs.add(codec.encode_png(frame.mask(grey, f"{mask}"))),
        strength=strength,
    )
    screen, outcome = run(painting, request, blobs)

    def arrange(result: Pixels) -> Pixels:
        patch = inpaint.place(pixels, plan, result)
        patch = replace(patch, pixels=profiles.from_srgb(patch.pixels, picture.icc))
        if grey is None:
            return patch.pixels
        patch = replace(patch, alpha=np.where(grey > 0, np.uint8(255), np.uint8(0)))
        return codec.in_mode(inpaint.apply(picture.pixels, patch), picture.mode)

    kept = "" if mask is None else "where the mask is black"
    write_pictures(screen, outcome, painting.output, arrange, icc=picture.icc, kept=kept)
