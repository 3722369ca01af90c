"""`flowbrush describe`: what a picture shows, an answer to a question about it, or where things are in it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from desktop.commands import look_job, options
from desktop.commands.options import Backend
from desktop.commands.screen import Screen

if TYPE_CHECKING:
    from flux_core.looking import BoxesFound, Look


class LengthName(StrEnum):
    """As flux_core.looking.CaptionLength, which is too heavy to import for --help."""

    SHORT = "short"
    MEDIUM = "medium"
    LONG = "long"


def describe(
    image: look_job.PictureToRead,
    question: Annotated[str, typer.Option(help="What to answer; without one the picture is described.")] = "",
    length: Annotated[LengthName, typer.Option(help="How much a description says.")] = LengthName.MEDIUM,
    find: Annotated[
        list[str] | None, typer.Option(help="Say where this is instead, in pixels; may be given again.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Where the answer to a question is cut.")] = 256,
    helper: look_job.Helper = "",
    backend: options.BackendOption = Backend.AUTO,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Say what a picture shows, answer a question about it, or find things in it."""
    from flux_core.errors import RequestInvalid
    from flux_core.looking import BoxesFound, Ground, TextFound

    if find and question:
        raise RequestInvalid("--find and --question are two requests.", "Give one of them.")
    if find:
        look = look_job.built(Ground, phrases=tuple(find), model=helper)
    else:
        look = _words_of(question, length, max_tokens, helper)
    screen = Screen(json)
    seen = look_job.look_at([image], look, screen, backend)
    found = seen.findings[0]
    if isinstance(found, BoxesFound):
        _show_boxes(screen, found)
        boxes = [each.model_dump(mode="json") for each in found.boxes]
        screen.result({"boxes": boxes, **seen.summary})
    elif isinstance(found, TextFound):
        screen.say(found.text)
        if found.is_cut:
            screen.note("The answer was cut; --max-tokens lets it be longer.")
        screen.result({"text": found.text, "is_cut": found.is_cut, **seen.summary})


def _words_of(question: str, length: LengthName, max_tokens: int, helper: str) -> Look:
    """A caption, or a description where there is a question or only a helper that answers questions."""
    from desktop.commands.model_files import models_dirs
    from flux_core.catalog import helpers
    from flux_core.errors import FluxError
    from flux_core.looking import Caption, CaptionLength, Describe

    caption = look_job.built(Caption, length=CaptionLength(length.value), model=helper)
    description = look_job.built(Describe, question=question, max_tokens=max_tokens, model=helper)
    if question.strip():
        return description
    folders = models_dirs()
    try:
        helpers.choose(caption, lambda model: helpers.folder_of_helper(model, folders))
    except FluxError:
        try:
            helpers.choose(description, lambda model: helpers.folder_of_helper(model, folders))
        except FluxError:
            return caption  # the service says what is missing
        return description
    return caption


def _show_boxes(screen: Screen, found: BoxesFound) -> None:
    if not found.boxes:
        screen.say("Nothing of it was found.")
        return
    rows: list[tuple[str, ...]] = []
    for each in found.boxes:
        box = each.box
        rows.append((each.label, f"{box.left_px},{box.top_px},{box.right_px},{box.bottom_px}"))
    screen.table(("WHAT", "LEFT,TOP,RIGHT,BOTTOM"), rows)
