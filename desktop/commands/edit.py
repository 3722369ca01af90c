"""`flowbrush edit`: change a picture as an instruction says; what it does not touch stays, to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from desktop.commands import options
from desktop.commands.groups import Likes, Painting, Places, Words, grouped
from desktop.commands.styles import instruction_in

if TYPE_CHECKING:
    from flux_core.imaging.codec import Picture, Pixels


@grouped
def edit(
    image: Annotated[Path, typer.Argument(help="The picture to change.")],
    painting: Painting,
    words: Words,
    likes: Likes,
    places: Places,
    text: Annotated[str, typer.Argument(help="What to change; may be left out with --style.")] = "",
    ref: Annotated[
        list[Path] | None, typer.Option(help="Another picture that the text speaks of; may be given again.")
    ] = None,
    style: options.StyleOption = None,
    register: Annotated[
        bool, typer.Option("--register/--no-register", help="Lay the result back onto the source.")
    ] = True,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Take the whole result, also where nothing was changed.")
    ] = False,
) -> None:
    """Change a picture as a text says, with a model such as Kontext; the size stays."""
    from desktop.commands.frame import Blobs, Frame, model_for, read_picture
    from desktop.commands.painting import run, write_pictures
    from flux_core.imaging import codec, profiles, registration, sizes
    from flux_core.request import Task, build_request

    options.check_output(painting.output)
    spec = model_for(painting.model, Task.EDIT)
    picture = read_picture(image)
    source = codec.flat(picture.srgb())
    size = (source.shape[1], source.shape[0])
    fitted = sizes.fit(size, sizes.nearest_size(*size, spec.working_side_px, spec.max_side_px))
    seen, blobs = sizes.fit_picture(source, fitted), Blobs()
    frame = Frame(fitted.width_px, fitted.height_px, fitted=fitted)
    request = build_request(
        task=Task.EDIT,
        prompt=instruction_in(style, text),
        **painting.fields(spec),
        **words.fields(),
        **likes.fields(blobs),
        **places.fields(frame, blobs),
        width_px=fitted.width_px,
        height_px=fitted.height_px,
        image=blobs.add(codec.encode_png(seen)),
        references=[blobs.add_picture(path) for path in ref or ()],
    )
    screen, outcome = run(painting, request, blobs)

    def arrange(result: Pixels) -> Pixels:
        edited, before = (sizes.unfit_picture(each, fitted) for each in (result, seen))
        if register:
            edited = registration.lay_back(edited, registration.register(before, edited))
        if keep_all:
            return profiles.from_srgb(edited, picture.icc)
        return _kept(picture, source, before, edited)

    kept = "" if keep_all else "that the edit left alone"
    write_pictures(screen, outcome, painting.output, arrange, icc=picture.icc, kept=kept)


def _kept(picture: Picture, source: Pixels, before: Pixels, edited: Pixels) -> Pixels:
    """The edit in the file's colours and mode; where it changed nothing, the file's bytes.

    Args:
        picture: The file.
        source: Its pixels [H, W, 3] in sRGB.
        before: The source scaled to the model's size and back, so that lost detail is no change.
        edited: The edit, laid onto the source.
    """
    from flux_core.imaging import change_mask, codec, profiles

    mask = change_mask.change_mask(source, edited, round_trip=before)
    matched = profiles.from_srgb(change_mask.match_to_kept(source, edited, mask), picture.icc)
    return codec.in_mode(change_mask.keep_unchanged(picture.pixels, matched, mask), picture.mode)
