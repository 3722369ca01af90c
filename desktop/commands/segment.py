"""`flowbrush segment`: the mask of a phrase, of clicks, or of what a box holds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from desktop.commands import look_job, options
from desktop.commands.options import Backend
from desktop.commands.screen import Screen
from flux_core.errors import RequestInvalid

if TYPE_CHECKING:
    from flux_core.looking import Look


def segment(
    image: look_job.PictureToRead,
    output: look_job.GreyOutput,
    phrase: Annotated[str, typer.Argument(help="What to mask, in words.")] = "",
    point: Annotated[
        list[str] | None, typer.Option(help="X,Y that belongs to the mask; may be given again.")
    ] = None,
    not_point: Annotated[
        list[str] | None, typer.Option("--not", help="X,Y that must not; may be given again.")
    ] = None,
    box: Annotated[str | None, typer.Option(help="LEFT,TOP,RIGHT,BOTTOM around it, in pixels.")] = None,
    helper: look_job.Helper = "",
    backend: options.BackendOption = Backend.AUTO,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Make a mask, white on black, of what a phrase, clicks or a box mean."""
    from flux_core.looking import MaskFound
    from flux_core.storage import write_atomically

    look_job.check_grey_output(output)
    look = _look(phrase, point or [], not_point or [], box, helper)
    screen = Screen(json)
    seen = look_job.look_at([image], look, screen, backend)
    found = seen.findings[0]
    if not isinstance(found, MaskFound):
        raise AssertionError(f"a mask was asked for, not {found.kind}")
    write_atomically(output, seen.outcome.pictures[found.image])
    if found.box is None:
        screen.note("Nothing of it was found; the mask is empty.")
    screen.say(f"Wrote {output}.")
    edges = found.box.model_dump() if found.box is not None else None
    screen.result({"file": str(output), "box": edges, "score": found.score, **seen.summary})


def _look(phrase: str, points: list[str], not_points: list[str], box: str | None, helper: str) -> Look:
    from flux_core.looking import SegmentPhrase, SegmentPoints

    clicks = [*points, *not_points, *([box] if box else [])]
    if phrase and clicks:
        raise RequestInvalid("A phrase and clicks are two requests.", "Give one of them.")
    if phrase:
        return look_job.built(SegmentPhrase, phrase=phrase, model=helper)
    if not clicks:
        raise RequestInvalid("Nothing says what to mask.", "Give a phrase, --point X,Y or --box L,T,R,B.")
    return look_job.built(
        SegmentPoints,
        points=[
            *({"x_px": x, "y_px": y} for x, y in map(_point, points)),
            *({"x_px": x, "y_px": y, "is_positive": False} for x, y in map(_point, not_points)),
        ],
        box=None
        if box is None
        else dict(zip(("left_px", "top_px", "right_px", "bottom_px"), _edges(box), strict=True)),
        model=helper,
    )


def _point(text: str) -> tuple[int, ...]:
    return _numbers(text, 2, "is not a point", "Write X,Y in pixels, for example 120,80.")


def _edges(text: str) -> tuple[int, ...]:
    return _numbers(
        text, 4, "is not a box", "Write LEFT,TOP,RIGHT,BOTTOM in pixels, for example 10,20,200,180."
    )


def _numbers(text: str, count: int, problem: str, hint: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != count or not all(re.fullmatch(r"\d{1,6}", part) for part in parts):
        raise RequestInvalid(f"{text[:40]!r} {problem}.", hint)
    return tuple(map(int, parts))
