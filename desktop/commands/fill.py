"""`flowbrush fill`: repaint a part of a picture, or beyond its edge; the rest stays, to the byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from desktop.commands import options
from desktop.commands.generate import report
from desktop.commands.options import Backend, PrecisionName
from desktop.commands.screen import Screen

if TYPE_CHECKING:
    from flux_core.catalog import ModelSpec
    from flux_core.imaging.codec import Pixels
    from flux_core.imaging.inpaint import InpaintSettings


def fill(
    image: Annotated[Path, typer.Argument(help="The picture to change.")],
    prompt: Annotated[str, typer.Argument(help="What should be there.")],
    output: options.Output,
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
    model: options.Model = "tiny",
    seed: options.Seed = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    lora: options.Lora = None,
    precision: options.PrecisionOption = PrecisionName.AUTO,
    backend: options.BackendOption = Backend.AUTO,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Repaint where a mask is white; every pixel outside it stays as it was."""
    from desktop.commands.run_job import blob_name, connect, run_job
    from flux_core import catalog
    from flux_core.imaging import codec, inpaint, metadata, profiles
    from flux_core.request import Task, build_request
    from flux_core.storage import write_atomically

    options.check_output(output)
    spec = catalog.find(model)
    picture = codec.read(options.read_input(image), image.name)
    pixels, repaint = _canvas(picture.pixels, mask, outpaint)
    plan = inpaint.plan_inpaint(repaint, _settings(repaint, spec, grow, feather))
    srgb = profiles.to_srgb(pixels, picture.icc)
    work_image, work_mask = (codec.encode_png(part) for part in inpaint.extract(srgb, plan))
    request = build_request(
        task=Task.FILL,
        **options.request_fields(spec, prompt, seed, steps, guidance, precision, lora),
        width_px=plan.work_width_px,
        height_px=plan.work_height_px,
        image=blob_name(work_image),
        mask=blob_name(work_mask),
        strength=strength,
    )
    screen = Screen(json)
    with connect() as client:
        outcome = run_job(client, request, screen, blobs=(work_image, work_mask), backend=backend)
    patch = inpaint.place(srgb, plan, codec.decode(outcome.pictures[0], "the result"))
    patch = replace(patch, pixels=profiles.from_srgb(patch.pixels, picture.icc))
    result = codec.in_mode(inpaint.apply(pixels, patch), picture.mode)
    recipe = metadata.Recipe.of(request)
    format = codec.format_of(output.name)
    write_atomically(output, metadata.encode(result, format, recipe, icc=picture.icc))
    if format != "png":
        screen.note(
            f"{output.name} is a lossy {format.upper()}, so pixels outside the mask changed a little, too; "
            "write a .png to keep them to the byte."
        )
    report(screen, outcome, output, result.shape[1], result.shape[0])


def _canvas(pixels: Pixels, mask: Path | None, outpaint: str | None) -> tuple[Pixels, Pixels]:
    """The picture, extended if asked, and what to repaint of it."""
    import numpy as np

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
        if painted.shape != (height, width):
            mask_height, mask_width = painted.shape
            raise RequestInvalid(
                f"The mask is {mask_width} x {mask_height} pixels, the picture {width} x {height}.",
                "Make them the same size.",
            )
    if outpaint is None:
        return pixels, painted
    left, top, right, bottom = options.parse_sides(outpaint)
    canvas, repaint = inpaint.extend(pixels, left, top, right, bottom)
    repaint[top : top + height, left : left + width] = painted
    return canvas, repaint


def _settings(repaint: Pixels, spec: ModelSpec, grow: int, feather: int | None) -> InpaintSettings:
    from flux_core.imaging import inpaint

    settings = inpaint.suggest_settings(repaint, spec.working_side_px, spec.max_side_px)
    feather_px = settings.feather_px if feather is None else feather
    return replace(settings, grow_px=grow, feather_px=feather_px)
