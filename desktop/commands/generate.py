"""`flowbrush generate` and `flowbrush transform`: a picture from text, and one from another picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from desktop.commands import options
from desktop.commands.options import Backend, PrecisionName
from desktop.commands.screen import Screen

if TYPE_CHECKING:
    from desktop.commands.run_job import Outcome


def generate(
    prompt: Annotated[str, typer.Argument(help="What the picture should show.")],
    output: options.Output,
    model: options.Model = "tiny",
    seed: options.Seed = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT; the model's best by default.")] = None,
    lora: options.Lora = None,
    precision: options.PrecisionOption = PrecisionName.AUTO,
    backend: options.BackendOption = Backend.AUTO,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Make a picture from text."""
    from desktop.commands.run_job import connect, run_job
    from flux_core import catalog
    from flux_core.imaging import codec, metadata
    from flux_core.request import Task, build_request
    from flux_core.storage import write_atomically

    options.check_output(output)
    spec = catalog.find(model)
    width, height = options.parse_size(size) if size else (spec.working_side_px, spec.working_side_px)
    request = build_request(
        task=Task.GENERATE,
        **options.request_fields(spec, prompt, seed, steps, guidance, precision, lora),
        width_px=width,
        height_px=height,
    )
    screen = Screen(json)
    with connect() as client:
        outcome = run_job(client, request, screen, backend=backend)
    pixels = codec.decode(outcome.pictures[0], "the result")[..., :3]
    recipe = metadata.Recipe.of(request)
    write_atomically(output, metadata.encode(pixels, codec.format_of(output.name), recipe))
    report(screen, outcome, output, width, height)


def transform(
    image: Annotated[Path, typer.Argument(help="The picture to start from.")],
    prompt: Annotated[str, typer.Argument(help="What it should show.")],
    output: options.Output,
    strength: options.Strength = 0.6,
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
    """Make a picture from another picture and text; the size stays."""
    import numpy as np

    from desktop.commands.run_job import blob_name, connect, run_job
    from flux_core import catalog
    from flux_core.imaging import codec, inpaint, metadata, profiles
    from flux_core.request import Task, build_request
    from flux_core.storage import write_atomically

    options.check_output(output)
    spec = catalog.find(model)
    picture = codec.read(options.read_input(image), image.name)
    everything = np.full(picture.pixels.shape[:2], 255, np.uint8)
    settings = inpaint.suggest_settings(everything, spec.working_side_px, spec.max_side_px)
    plan = inpaint.plan_inpaint(
        everything, replace(settings, feather_px=0, context=0.0, is_colour_matched=False)
    )
    pixels = picture.srgb()
    source = codec.encode_png(inpaint.extract(pixels, plan)[0])
    request = build_request(
        task=Task.TRANSFORM,
        **options.request_fields(spec, prompt, seed, steps, guidance, precision, lora),
        width_px=plan.work_width_px,
        height_px=plan.work_height_px,
        image=blob_name(source),
        strength=strength,
    )
    screen = Screen(json)
    with connect() as client:
        outcome = run_job(client, request, screen, blobs=(source,), backend=backend)
    patch = inpaint.place(pixels, plan, codec.decode(outcome.pictures[0], "the result"))
    result = profiles.from_srgb(patch.pixels, picture.icc)
    recipe = metadata.Recipe.of(request)
    data = metadata.encode(result, codec.format_of(output.name), recipe, icc=picture.icc)
    write_atomically(output, data)
    report(screen, outcome, output, result.shape[1], result.shape[0])


def report(screen: Screen, outcome: Outcome, output: Path, width_px: int, height_px: int) -> None:
    """Says what was written."""
    seed = outcome.request.seed
    size = f"{width_px} x {height_px}"
    for warning in outcome.finished.warnings:
        screen.note(warning)
    screen.say(f"Wrote {output} ({size}, seed {seed}); the model took {outcome.wall_s:.1f} s.")
    screen.result({"file": str(output), "width_px": width_px, "height_px": height_px, **outcome.summary()})
