"""`flowbrush upscale`: a larger picture with more detail, in stages of at most 2x.

Each stage is a job of its own: the service enlarges the picture, by an upscaler model if one is named, and
repaints it window by window, so its memory does not grow with the picture.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from desktop.commands import options
from desktop.commands.groups import Painting, Words, grouped

if TYPE_CHECKING:
    from flux_core.imaging.codec import Picture, Pixels


@grouped
def upscale(
    image: Annotated[Path, typer.Argument(help="The picture to enlarge.")],
    painting: Painting,
    words: Words,
    prompt: Annotated[str, typer.Argument(help="What it shows; helps with fine detail.")] = "",
    scale: Annotated[int, typer.Option(help="How many times as wide and high: 2 or 4.")] = 2,
    upscaler: Annotated[
        str,
        typer.Option(help="A file in the folder upscalers that enlarges first; plain resampling if none."),
    ] = "",
    strength: Annotated[
        float | None, typer.Option(help="How much detail may be painted anew, above 0 and up to 1.")
    ] = None,
) -> None:
    """Enlarge a picture and paint the detail that it lacks."""
    from desktop.commands.frame import Blobs, model_for, read_picture
    from desktop.commands.painting import run, write_pictures
    from flux_core.errors import RequestInvalid
    from flux_core.imaging.upscale import STRENGTH, plan_upscale
    from flux_core.request import Task, build_request

    options.check_output(painting.output)
    spec = model_for(painting.model, Task.UPSCALE)
    picture = read_picture(image)
    height, width = picture.pixels.shape[:2]
    share = STRENGTH if strength is None else strength
    stages = plan_upscale(width, height, scale, spec.working_side_px, share).stages
    if painting.count > 1 and len(stages) > 1:
        raise RequestInvalid(
            "Several pictures cannot be enlarged 4 times at once.", "Use --scale 2, or --count 1."
        )
    blobs = Blobs()
    name = blobs.add_pixels(picture.srgb())
    common = {**painting.fields(spec), **words.fields(), "prompt": prompt, "upscaler": upscaler}
    requests = [
        build_request(
            task=Task.UPSCALE,
            **common,
            width_px=stage.width_px,
            height_px=stage.height_px,
            image=name,
            strength=stage.strength,
        )
        for stage in stages
    ]
    screen, outcome = run(painting, requests[0], blobs)
    wall_s = outcome.wall_s
    for request in requests[1:]:
        blobs = Blobs()
        larger = request.model_copy(update={"image": blobs.add(outcome.pictures[0])})
        screen, outcome = run(painting, larger, blobs)
        wall_s += outcome.wall_s
    write_pictures(
        screen,
        replace(outcome, wall_s=wall_s),
        painting.output,
        lambda result: _like_source(result, picture),
        icc=picture.icc,
        more={"stages": len(stages)},
    )


def _like_source(result: Pixels, picture: Picture) -> Pixels:
    """The result in the source's colours, grey or colour, with the source's transparency enlarged."""
    import numpy as np

    from flux_core.imaging import codec, geometry, profiles

    own = profiles.from_srgb(result, picture.icc)
    alpha = geometry.resize(np.ascontiguousarray(picture.pixels[..., 3]), own.shape[1], own.shape[0])
    return codec.in_mode(np.dstack([own, alpha]), picture.mode)
