"""`flowbrush control`: a picture from text that follows the edges, the depth or another map of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from desktop import notation
from desktop.commands import options
from desktop.commands.groups import Likes, Painting, Places, Words, given, grouped, map_fields
from desktop.commands.options import ControlKindName


@grouped
def control(
    image: Annotated[Path, typer.Argument(help="The picture whose map is followed.")],
    prompt: Annotated[str, typer.Argument(help="What the new picture should show.")],
    kind: Annotated[ControlKindName, typer.Option(help="What to follow.")],
    painting: Painting,
    words: Words,
    likes: Likes,
    places: Places,
    is_map: Annotated[bool, typer.Option("--map", help="The picture is the map already.")] = False,
    controlnet: Annotated[
        str | None, typer.Option(help="Who follows it: a ControlNet or a control LoRA; the model itself.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="How strictly, 0 to 2; its authors' own by default.")
    ] = None,
    start: Annotated[float, typer.Option(help="Share of the steps after which it is heard.")] = 0.0,
    end: Annotated[float, typer.Option(help="Share of the steps after which it is not heard.")] = 1.0,
    also: Annotated[
        list[str] | None,
        typer.Option(help="One more map: KIND=MAP:NAME or KIND=MAP:NAME:STRENGTH; may be given again."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT; by default the picture's proportions.")
    ] = None,
) -> None:
    """Make a picture from text along a map of another picture."""
    from desktop.commands.frame import Blobs, Frame, model_for, read_picture, size_like
    from desktop.commands.painting import run, write_pictures
    from flux_core.request import ControlKind, Task, build_request

    options.check_output(painting.output)
    spec = model_for(painting.model, Task.CONTROL, None if controlnet else ControlKind(kind.value))
    pixels = read_picture(image).srgb()
    width, height = notation.parse_size(size) if size else size_like(pixels.shape[1], pixels.shape[0], spec)
    frame, blobs = Frame(width, height), Blobs()
    use = given(
        kind=kind.value,
        image=blobs.add_pixels(pixels),
        is_map=is_map,
        model=controlnet or "",
        strength=strength,
        start=start,
        end=end,
    )
    request = build_request(
        task=Task.CONTROL,
        prompt=prompt,
        **painting.fields(spec),
        **words.fields(),
        **likes.fields(blobs),
        **places.fields(frame, blobs),
        width_px=width,
        height_px=height,
        controls=[use, *map_fields(also, frame, blobs)],
    )
    screen, outcome = run(painting, request, blobs)
    write_pictures(screen, outcome, painting.output)
