"""`flowbrush demo`: the main job from end to end without a window, on real input, through the real service.

It opens a photo, paints a mask, asks the model to fill it, keeps the answer as a layer with its mask,
saves the project, exports the picture, opens the project again and checks that nothing outside the mask
has changed by a single byte.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from desktop.commands import options, qt_libraries
from desktop.commands.options import Backend
from desktop.commands.screen import Screen
from flux_core.errors import Internal

if TYPE_CHECKING:
    from desktop.document.document import Document
    from flux_core.imaging.codec import Pixels

PHOTO = Path(__file__).parents[2] / "resources" / "samples" / "photo.png"
PROMPT = "a cupcake on a brown background"
# Where the sample photo's table is empty: centre and radii of an ellipse, as shares of width and height.
_MASK_CENTRE = (0.62, 0.785)
_MASK_RADII = (0.124, 0.165)


@dataclass(slots=True)
class Stopwatch:
    """Seconds by the part of the work, said as each part ends."""

    screen: Screen
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def part(self, name: str) -> Generator[None]:
        """Measures what happens inside."""
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 3)
        self.screen.say(f"  {self.seconds[name]:7.2f} s  {name}")


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path(
        "flowbrush-demo"
    ),
    prompt: Annotated[str, typer.Option(help="What to paint into the photo.")] = PROMPT,
    model: options.Model = "tiny",
    seed: options.Seed = 7,
    backend: options.BackendOption = Backend.AUTO,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Do the main job without a window: photo, mask, model, layer, project, PNG."""
    screen = Screen(json)
    _make_folder(output)
    watch = Stopwatch(screen)
    started = time.monotonic()
    screen.say(f"Painting {prompt!r} into {PHOTO.name}:")
    with qt_libraries.explained(), watch.part("load the program"):
        from desktop.commands.run_job import connect, run_job
        from desktop.document import commands
        from desktop.document.document import Document
        from desktop.document.layers import new_id
        from desktop.document.tiles import TileRaster
        from desktop.files.flat import export_picture, open_picture
        from desktop.files.ora import save_ora
        from desktop.jobs import plan
        from desktop.jobs.wish import Wish
        from flux_core import catalog
    with watch.part("open the photo and paint the mask"):
        spec = catalog.find(model)
        document = Document(open_picture(PHOTO).state)
        selection = _ellipse(document.size.width, document.size.height)
        commands.set_selection(document, TileRaster.from_array(selection))
        wish = Wish(prompt=prompt, model=model, seed=seed, num_steps=spec.num_steps, guidance=spec.guidance)
        prepared = plan.prepare(document.committed_state, wish, spec)
    with watch.part("start the service"):
        client = connect()
    with client, watch.part("let the model paint"):
        blobs = prepared.all_blobs
        outcome = run_job(client, prepared.request, screen, blobs=blobs, backend=backend)
    with watch.part("put the answer into a new layer"):
        layer = plan.finish(prepared, [(outcome.pictures[0], prepared.request.seed)], new_id())
        commands.add_layer(document, layer)
    project_file, picture_file = output / "demo.ora", output / "demo.png"
    with watch.part("save the project"):
        save_ora(document.committed_state, project_file, active_id=document.active_id)
    with watch.part("export the picture"):
        export_picture(document.committed_state, picture_file)
    with watch.part("open the project again and compare"):
        num_changed = _check(project_file, picture_file, document, selection)
    total_s = time.monotonic() - started
    peak_bytes = outcome.finished.peak_memory_bytes
    screen.say(
        f"  {total_s:7.2f} s  in all; the engine ({outcome.finished.engine}) used {peak_bytes / 1e6:,.0f} MB"
    )
    screen.say(f"Wrote {picture_file} and {project_file}.")
    screen.say(f"{num_changed} pixels inside the mask changed; outside it every byte is as it was.")
    files = [str(picture_file), str(project_file)]
    figures = {"parts_s": watch.seconds, "total_s": round(total_s, 3), "pixels_changed": num_changed}
    screen.result({"files": files, **figures, **outcome.summary()})


def _make_folder(folder: Path) -> None:
    from flux_core.errors import RequestInvalid

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        reason = (err.strerror or str(err)).lower()
        raise RequestInvalid(f"The folder {folder} cannot be made: {reason}.", "Choose another.") from err


def _ellipse(width_px: int, height_px: int) -> Pixels:
    """The mask [H, W]: 255 inside an ellipse with an edge of one soft pixel."""
    import numpy as np

    y, x = np.mgrid[0:height_px, 0:width_px]
    radius_px = min(_MASK_RADII[0] * width_px, _MASK_RADII[1] * height_px)
    dx = (x - _MASK_CENTRE[0] * width_px) / (_MASK_RADII[0] * width_px)
    dy = (y - _MASK_CENTRE[1] * height_px) / (_MASK_RADII[1] * height_px)
    inside_px = (1.0 - np.hypot(dx, dy)) * radius_px
    return np.clip(np.rint((inside_px + 0.5) * 255), 0, 255).astype(np.uint8)


def _check(project_file: Path, picture_file: Path, document: Document, selection: Pixels) -> int:
    """Compares what was written with the photo; returns how many pixels inside the mask changed."""
    import numpy as np

    from desktop.document import compositor
    from desktop.files.ora import open_ora
    from flux_core.imaging import codec

    photo = codec.decode(PHOTO.read_bytes(), PHOTO.name)
    again = open_ora(project_file)
    reopened = compositor.render(again.state)
    exported = codec.decode(picture_file.read_bytes(), picture_file.name)
    kept = selection == 0
    if not (np.array_equal(reopened[kept], photo[kept]) and np.array_equal(exported[kept], photo[kept])):
        raise Internal("Pixels outside the mask changed.", "Please report this.")
    if not np.array_equal(reopened, exported) or len(again.state.layers) != len(document.layers):
        raise Internal("The project does not open as it was saved.", "Please report this.")
    return int((exported != photo).any(axis=2).sum())
