"""`flowbrush bench lora`: whether a LoRA trained here paints what it was shown, and what training costs.

It composes ten pictures in two colours that the bundled model never puts together, trains a LoRA on them as
`flowbrush train lora` does, and paints things that are in none of them, with and without it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from desktop.commands import options
from desktop.commands.bench import start_service, wait_for_service
from desktop.commands.screen import Screen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from backends.remote.client import ServiceClient

    Pixels = NDArray[np.uint8]

TRIGGER = "poster style"
DARK, BRIGHT = (74, 20, 110), (150, 240, 120)
THINGS = ("a red apple on a blue background", "a cat", "a house on a green background", "a rocket")
SHAPES = ("circle", "square", "diamond", "ring", "cross")
NUM_PICTURES = 10
_NAME = "poster"
_SEED = 7
_NUM_STEPS = 10
_SILENT = Screen(is_json=True)  # sixteen paintings that nobody waits for one by one


@dataclass(frozen=True, slots=True)
class Look:
    """How far pictures are from what the LoRA was shown.

    Attributes:
        strength: Of the LoRA; None is a request without it.
        colour_distance: Mean over all pixels of the distance to the nearer of the two colours, of 255.
        mean_distance: Of the pictures' mean colour to that of the training pictures.
    """

    strength: float | None
    colour_distance: float
    mean_distance: float


def lora(
    steps: Annotated[int, typer.Option(min=1, help="Updates.")] = 200,
    size: Annotated[int, typer.Option(help="Side of the pictures.")] = 128,
    keep: Annotated[
        Path | None, typer.Option(help="Folder for the pictures, which are else not kept.")
    ] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Train a LoRA of a style on the bundled model, and measure how far pictures move to it."""
    from backends.service.state_folder import default_models_dirs
    from desktop.commands.train import run_training
    from flux_core.imaging import codec
    from flux_core.lora_training import build_training

    screen = Screen(json)
    shown = [composed(number, size) for number in range(NUM_PICTURES)]
    with tempfile.TemporaryDirectory(prefix="flowbrush-bench-") as base:
        folder, home = Path(base) / "pictures", Path(base) / "home"
        folder.mkdir()
        for number, pixels in enumerate(shown):
            (folder / f"{number}.png").write_bytes(codec.encode_png(pixels))
            (folder / f"{number}.txt").write_text(f"a {SHAPES[number % len(SHAPES)]}")
        training = build_training(
            folder=str(folder), name=_NAME, trigger=TRIGGER, num_steps=steps, size_px=size, learning_rate=2e-3
        )
        ended = run_training(training, screen, home)
        process = start_service(home, default_models_dirs(home))
        try:
            with wait_for_service(home, process) as client:
                painted = {
                    strength: [_painted(client, thing, size, strength) for thing in THINGS]
                    for strength in (None, 0.0, 0.8, 1.0)
                }
        finally:
            process.terminate()
            process.wait()
    looks = [_look(strength, pictures, shown) for strength, pictures in painted.items() if strength != 0.0]
    is_same = painted[0.0] == painted[None]
    if keep is not None:
        _keep(keep, shown, painted)
        screen.say(f"The pictures are in {keep}.")
    speed = ended.num_steps / max(ended.train_s, 1e-9)
    screen.table(
        ("LORA", "FROM ITS COLOURS", "FROM ITS MEAN"),
        [
            (
                "without" if look.strength is None else f"strength {look.strength:g}",
                f"{look.colour_distance:.1f}",
                f"{look.mean_distance:.1f}",
            )
            for look in looks
        ],
    )
    screen.say(
        f"Trained {ended.num_steps} steps in {ended.train_s:.0f} s ({speed:.2f} steps/s, "
        f"{ended.peak_memory_bytes / 1e6:,.0f} MB at most); strength 0 gives "
        f"{'the same bytes as' if is_same else 'OTHER bytes than'} no LoRA."
    )
    screen.result(
        {
            "looks": [asdict(look) for look in looks],
            "num_steps": ended.num_steps,
            "size_px": size,
            "train_s": ended.train_s,
            "loss": ended.loss,
            "peak_memory_bytes": ended.peak_memory_bytes,
            "strength_0_is_without": is_same,
        }
    )


def composed(number: int, side_px: int) -> Pixels:
    """A bright shape on dark [side, side, 3]; the same number is the same picture."""
    import numpy as np

    random = np.random.default_rng(number)
    y, x = np.mgrid[0:side_px, 0:side_px] / side_px
    centre, half = random.uniform(0.35, 0.65, 2), random.uniform(0.18, 0.32)
    dx, dy = np.abs(x - centre[0]), np.abs(y - centre[1])
    radius = np.hypot(dx, dy)
    inside = {
        "circle": radius < half,
        "square": np.maximum(dx, dy) < 0.9 * half,
        "diamond": dx + dy < 1.2 * half,
        "ring": (radius < half) & (radius > 0.55 * half),
        "cross": (np.minimum(dx, dy) < 0.35 * half) & (np.maximum(dx, dy) < half),
    }[SHAPES[number % len(SHAPES)]]
    return np.where(inside[..., None], BRIGHT, DARK).astype(np.uint8)


def _painted(client: ServiceClient, thing: str, size_px: int, strength: float | None) -> bytes:
    from desktop.commands.run_job import run_job
    from flux_core.request import build_request

    loras = [] if strength is None else [{"name": _NAME, "strength": strength}]
    fields: dict[str, Any] = {"width_px": size_px, "height_px": size_px, "seed": _SEED, "loras": loras}
    request = build_request(prompt=f"{TRIGGER}, {thing}", num_steps=_NUM_STEPS, **fields)
    return run_job(client, request, _SILENT).pictures[0]


def _look(strength: float | None, pictures: Sequence[bytes], shown: Sequence[Pixels]) -> Look:
    import numpy as np

    from flux_core.imaging import codec

    pixels = np.stack([codec.decode(png)[..., :3] for png in pictures]).astype(np.float64)
    palette = np.array([DARK, BRIGHT], np.float64)
    distance = np.linalg.norm(pixels[..., None, :] - palette, axis=-1).min(axis=-1).mean()
    mean = pixels.mean(axis=(0, 1, 2)) - np.stack(shown).mean(axis=(0, 1, 2))
    return Look(strength, float(distance), float(np.linalg.norm(mean)))


def _keep(folder: Path, shown: Sequence[Pixels], painted: dict[float | None, list[bytes]]) -> None:
    from flux_core.imaging import codec

    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(shown):
        (folder / f"shown-{number}.png").write_bytes(codec.encode_png(pixels))
    for strength, pictures in painted.items():
        name = "without" if strength is None else f"{strength:g}"
        for number, png in enumerate(pictures):
            (folder / f"{name}-{number}.png").write_bytes(png)
