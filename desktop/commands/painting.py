"""A request to the service, and its pictures with their recipes to files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from desktop.commands.frame import Blobs
from desktop.commands.groups import Painting
from desktop.commands.run_job import Outcome, connect, run_job
from desktop.commands.screen import Screen
from desktop.notation import numbered
from flux_core.request import GenerationRequest

if TYPE_CHECKING:
    from flux_core.imaging.codec import Pixels


def run(painting: Painting, request: GenerationRequest, blobs: Blobs) -> tuple[Screen, Outcome]:
    """Lets the service do a request with its pictures; raises as run_job does."""
    screen = Screen(painting.json)
    with connect() as client:
        return screen, run_job(client, request, screen, blobs=blobs.all, backend=painting.backend)


def write_pictures(
    screen: Screen,
    outcome: Outcome,
    output: Path,
    arrange: Callable[[Pixels], Pixels] | None = None,
    *,
    icc: bytes | None = None,
    kept: str = "",
    more: dict[str, object] | None = None,
) -> None:
    """Writes a job's pictures, each with the request that makes it alone, and says so.

    Args:
        screen: Where it is said.
        outcome: The job.
        output: The file; with several pictures its name is numbered.
        arrange: From a result [H, W, 3] to what is written; by default nothing is done to it.
        icc: Colour profile to embed.
        kept: Which pixels are those of the source, "outside the mask" for example: a lossy file says that
            they cannot be.
        more: What --json says beside the rest.
    """
    from flux_core.imaging import codec, metadata
    from flux_core.storage import write_atomically

    files: list[dict[str, object]] = []
    height = width = 0
    for index, (png, image) in enumerate(zip(outcome.pictures, outcome.finished.images, strict=True)):
        pixels = codec.decode(png, "the result")[..., :3]
        result = pixels if arrange is None else arrange(pixels)
        height, width = result.shape[:2]
        path = numbered(output, index, len(outcome.pictures))
        recipe = metadata.Recipe.of(outcome.request.model_copy(update={"seed": image.seed, "num_images": 1}))
        write_atomically(path, metadata.encode(result, codec.format_of(path.name), recipe, icc=icc))
        files.append({"file": str(path), "seed": image.seed})
    for warning in outcome.finished.warnings:
        screen.note(warning)
    format = codec.format_of(output.name)
    if kept and format != "png":
        screen.note(
            f"{output.name} is a lossy {format.upper()}, so pixels {kept} changed a little, too; "
            "write a .png to keep them to the byte."
        )
    took = f"; the model took {outcome.wall_s:.1f} s."
    for number, one in enumerate(files, 1):
        end = took if number == len(files) else "."
        screen.say(f"Wrote {one['file']} ({width} x {height}, seed {one['seed']}){end}")
    size = {"width_px": width, "height_px": height}
    screen.result({"file": files[0]["file"], "files": files, **size, **(more or {}), **outcome.summary()})
