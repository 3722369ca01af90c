"""`flowbrush edit`: change a picture as an instruction says; what it does not touch stays, to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from desktop.commands import options
from desktop.commands.groups import Painting, Words, grouped
from desktop.commands.styles import instruction_in

if TYPE_CHECKING:
    from flux_core.imaging.codec import Pixels


@grouped
def edit(
    image: Annotated[Path, typer.Argument(help="The picture to change.")],
    painting: Painting,
    words: Words,
    text: Annotated[str, typer.Argument(help="What to change; may be left out with --style.")] = "",
    ref: Annotated[
        list[Path] | None, typer.Option(help="Another picture that the text speaks of; may be given again.")
    ] = None,
    style: options.StyleOption = None,
) -> None:
    """Change a picture as a text says, with a model such as Kontext; the size stays."""
    from desktop.commands.frame import Blobs, model_for, read_picture, size_like
    from desktop.commands.painting import run, write_pictures
    from flux_core.imaging import geometry, profiles
    from flux_core.request import Task, build_request

    options.check_output(painting.output)
    spec = model_for(painting.model, Task.EDIT)
    picture = read_picture(image)
    height, width = picture.pixels.shape[:2]
    work_width, work_height = size_like(width, height, spec)
    blobs = Blobs()
    request = build_request(
        task=Task.EDIT,
        prompt=instruction_in(style, text),
        **painting.fields(spec),
        **words.fields(),
        width_px=work_width,
        height_px=work_height,
        image=blobs.add_pixels(picture.srgb()),
        references=[blobs.add_picture(path) for path in ref or ()],
    )
    screen, outcome = run(painting, request, blobs)

    def arrange(result: Pixels) -> Pixels:
        return profiles.from_srgb(geometry.resize(result, width, height), picture.icc)

    write_pictures(screen, outcome, painting.output, arrange, icc=picture.icc)
