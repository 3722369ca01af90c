"""`flowbrush depth`: a map of how near everything in a picture is, white where it is nearest."""

from __future__ import annotations

from desktop.commands import look_job, options
from desktop.commands.options import Backend
from desktop.commands.screen import Screen


def depth(
    image: look_job.PictureToRead,
    output: look_job.GreyOutput,
    helper: look_job.Helper = "",
    backend: options.BackendOption = Backend.AUTO,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Make a depth map, white where things are nearest, as control pictures for depth want it."""
    from flux_core.looking import Depth, DepthFound
    from flux_core.storage import write_atomically

    look_job.check_grey_output(output)
    screen = Screen(json)
    seen = look_job.look_at([image], look_job.built(Depth, model=helper), screen, backend)
    found = seen.findings[0]
    if not isinstance(found, DepthFound):
        raise AssertionError(f"a depth map was asked for, not {found.kind}")
    write_atomically(output, seen.outcome.pictures[found.image])
    reach = ""
    if found.nearest_m is not None and found.farthest_m is not None:
        reach = f" White is {found.nearest_m:.2f} m away, black {found.farthest_m:.2f} m."
    screen.say(f"Wrote {output}.{reach}")
    screen.result(
        {
            "file": str(output),
            "nearest_m": found.nearest_m,
            "farthest_m": found.farthest_m,
            "focal_length_px": found.focal_length_px,
            **seen.summary,
        }
    )
