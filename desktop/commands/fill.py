"""`flowbrush fill`: repaint a part of a picture, or beyond its edge; the rest stays, to the byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from desktop import notation
from desktop.commands import options
from desktop.commands.groups import Likes, Maps, Painting, Places, Words, grouped
from desktop.commands.options import IntentName

if TYPE_CHECKING:
    from flux_core.catalog import ModelSpec
    from flux_core.imaging.codec import Pixels
    from flux_core.imaging.inpaint import InpaintSettings
    from flux_core.imaging.intents import IntentSettings


@grouped
def fill(
    image: Annotated[Path, typer.Argument(help="The picture to change.")],
    painting: Painting,
    words: Words,
    likes: Likes,
    maps: Maps,
    places: Places,
    prompt: Annotated[str, typer.Argument(help="What should be there; --intent may need no words.")] = "",
    mask: Annotated[
        Path | None, typer.Option(help="Grey picture of the same size: white is repainted, black is kept.")
    ] = None,
    intent: Annotated[
        IntentName | None,
        typer.Option(help="What is meant: sets strength, reach, fade and what lies under the mask before."),
    ] = None,
    outpaint: Annotated[
        str | None, typer.Option(help="Extend by left,top,right,bottom pixels and paint there.")
    ] = None,
    grow: Annotated[
        int | None, typer.Option(help="Pixels beyond the mask that may change too; 0, or the intent's.")
    ] = None,
    feather: Annotated[
        int | None,
        typer.Option(help="Width in pixels of the fade inside the mask; fits the mask by default."),
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="How much may change, above 0 and up to 1; all, or the intent's.")
    ] = None,
) -> None:
    """Repaint where a mask is white; every pixel outside it stays as it was."""
    from desktop.commands.frame import Blobs, Frame, model_for, read_picture
    from desktop.commands.painting import run, write_pictures
    from flux_core.imaging import codec, inpaint, intents, profiles
    from flux_core.imaging.prefill import prefill
    from flux_core.request import Task, build_request

    options.check_output(painting.output)
    spec = model_for(painting.model, Task.FILL)
    picture = read_picture(image)
    pixels, repaint = _canvas(picture.pixels, mask, outpaint)
    meant = None if intent is None else _meant(intent, prompt, spec)
    if meant is not None:
        repaint = intents.mask_for(meant.row.intent, repaint)
    plan = inpaint.plan_inpaint(repaint, _settings(repaint, spec, grow, feather, meant))
    srgb = profiles.to_srgb(pixels, picture.icc)
    seen, work_mask = inpaint.extract(srgb, plan)
    if meant is not None:
        seen = prefill(seen, work_mask, meant.row.prefill, meant.row.falloff_px)
    added = (0, 0, 0, 0) if outpaint is None else notation.parse_sides(outpaint)
    frame, blobs = Frame.of(plan, added), Blobs()
    fields = painting.fields(spec)
    if meant is not None and painting.guidance is None and meant.guidance is not None:
        fields["guidance"] = meant.guidance
    request = build_request(
        task=Task.FILL,
        prompt=prompt if meant is None else meant.prompt,
        **fields,
        **words.fields(),
        **likes.fields(blobs),
        **maps.fields(frame, blobs),
        **places.fields(frame, blobs),
        width_px=plan.work_width_px,
        height_px=plan.work_height_px,
        image=blobs.add(codec.encode_png(seen)),
        mask=blobs.add(codec.encode_png(work_mask)),
        strength=_strength(strength, meant),
    )
    screen, outcome = run(painting, request, blobs)

    def arrange(result: Pixels) -> Pixels:
        patch = inpaint.place(srgb, plan, result)
        patch = replace(patch, pixels=profiles.from_srgb(patch.pixels, picture.icc))
        return codec.in_mode(inpaint.apply(pixels, patch), picture.mode)

    write_pictures(screen, outcome, painting.output, arrange, icc=picture.icc, kept="outside the mask")


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


def _settings(
    repaint: Pixels, spec: ModelSpec, grow: int | None, feather: int | None, meant: IntentSettings | None
) -> InpaintSettings:
    from flux_core.imaging import inpaint, intents

    settings = inpaint.suggest_settings(repaint, spec.working_side_px, spec.max_side_px)
    if meant is not None:
        settings = intents.inpaint_settings(meant.row.intent, repaint, settings)
    return replace(
        settings,
        grow_px=settings.grow_px if grow is None else grow,
        feather_px=settings.feather_px if feather is None else feather,
    )


def _strength(asked: float | None, meant: IntentSettings | None) -> float:
    if asked is not None:
        return asked
    return 1.0 if meant is None else meant.strength


def _meant(intent: IntentName, prompt: str, spec: ModelSpec) -> IntentSettings:
    from flux_core.imaging import intents

    return intents.settings_for(
        intents.Intent(intent.value),
        prompt,
        has_fill_inputs=spec.is_fill,
        is_guidance_distilled=spec.is_guidance_distilled,
    )
