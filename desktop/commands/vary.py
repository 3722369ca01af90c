"""`flowbrush vary`: other pictures like the given ones, by Redux or an IP-Adapter, with or without words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from desktop import notation
from desktop.commands import options
from desktop.commands.groups import Maps, Painting, Places, Words, grouped, likeness_fields
from desktop.commands.styles import prompt_in
from flux_core.errors import RequestInvalid

_PICTURE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}


@grouped
def vary(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE... [PROMPT]", help="The pictures, and words if you like.")
    ],
    painting: Painting,
    words: Words,
    maps: Maps,
    places: Places,
    strength: Annotated[
        list[float] | None,
        typer.Option(help="How much a picture counts, 0 to 2: once for all, or again for each."),
    ] = None,
    adapter: Annotated[str, typer.Option(help="Who reads the pictures; by default the model's Redux.")] = "",
    style: options.StyleOption = None,
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT; by default the first picture's proportions.")
    ] = None,
) -> None:
    """Make pictures like others; several are mixed by their strengths."""
    from desktop.commands.frame import Blobs, Frame, model_for, read_picture, size_like
    from desktop.commands.painting import run, write_pictures
    from flux_core.request import Task, build_request

    options.check_output(painting.output)
    spec = model_for(painting.model, Task.VARY)
    paths, prompt = _paths_and_prompt(images)
    blobs = Blobs()
    pictures = [
        likeness_fields(notation.Likeness(path, adapter, weight), blobs)
        for path, weight in zip(paths, _strengths(strength, len(paths)), strict=True)
    ]
    if size:
        width, height = notation.parse_size(size)
    else:
        first = read_picture(paths[0]).pixels
        width, height = size_like(first.shape[1], first.shape[0], spec)
    frame = Frame(width, height)
    request = build_request(
        task=Task.VARY,
        prompt=prompt_in(style, prompt),
        **painting.fields(spec),
        **words.fields(),
        **maps.fields(frame, blobs),
        **places.fields(frame, blobs),
        width_px=width,
        height_px=height,
        pictures=pictures,
    )
    screen, outcome = run(painting, request, blobs)
    write_pictures(screen, outcome, painting.output)


def _paths_and_prompt(texts: list[str]) -> tuple[list[Path], str]:
    """Splits IMAGE... [PROMPT]: the last one is the prompt unless it is, or is named like, a picture."""
    last = Path(texts[-1])
    is_picture = last.suffix.lower() in _PICTURE_ENDINGS or (len(texts[-1]) < 255 and last.is_file())
    if len(texts) == 1 or is_picture:
        return [Path(text) for text in texts], ""
    return [Path(text) for text in texts[:-1]], texts[-1]


def _strengths(given: list[float] | None, count: int) -> list[float | None]:
    if not given:
        return [None] * count
    if len(given) == 1:
        return [given[0]] * count
    if len(given) != count:
        raise RequestInvalid(
            f"There are {len(given)} strengths for {count} pictures.",
            "Give --strength once, or once for each.",
        )
    return list(given)
