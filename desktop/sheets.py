"""Sheets of pictures for the README, painted by the bundled model through the command line.

`python -m desktop.sheets --into FOLDER` starts a service of its own, runs every command of `MODEL_SHEET` and
`TASK_SHEET` as an artist would, and writes tiny-sheet.webp and tasks.webp with what was asked below each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from backends.remote.local import ensure_service
from desktop.app import RESOURCES_DIR

PHOTO = RESOURCES_DIR / "samples" / "photo.png"
MASK_BOX = (500, 455, 770, 725)
"""Left, top, right and bottom of the ellipse that is filled on the photo, in pixels."""

PHOTO_CROP = (420, 380, 804, 764)
NUM_COLUMNS = 5
MODEL_SHEET = (
    ("a red apple on a blue background", 7),
    ("a fox on a green background", 7),
    ("a flat illustration of a green car on a white background", 7),
    ("line art of a butterfly on a white background", 7),
    ("a castle on a green ground under a cyan sky", 7),
    ("a purple umbrella on a yellow background", 7),
    ("two red hearts on a white background", 7),
    ("a cupcake on a pink and white checkered background", 7),
    ("a 3D render of a rocket on a black background", 7),
    ("three yellow stars on a blue background", 7),
    ("a panda on an orange background", 7),
    ("a flat illustration of a frog on a purple background", 7),
    ("a yellow star at the top right of a black background", 7),
    ("a red balloon on a white background with blue dots", 7),
    ("line art of a sailboat on a white background", 7),
    ("a cactus on the left of a yellow background", 7),
    ("an owl on a green to blue gradient background", 7),
    ("pixel art of a dinosaur on a pink background", 7),
    ("pixel art of a pineapple on a cyan background", 7),
    ("a lion on a yellow and white striped background", 7),
)


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet.

    Attributes:
        caption: What stands under it.
        words: The command after `flowbrush`; empty for a picture that was there before.
        file: What it shows, in the working folder.
        crop: Left, top, right and bottom in pixels of what is shown; empty for all of it.
        enlarge: Plain enlargement before the crop, for comparison with the model's.
    """

    caption: str
    words: tuple[str, ...]
    file: str
    crop: tuple[int, ...] = ()
    enlarge: int = 1


_APPLE = "a red apple on a blue background"
_PUMPKIN = "a pumpkin on a blue background"
_DETAIL = (96, 40, 316, 260)
TASK_SHEET = (
    Cell("a photo and its mask", (), "masked.png", PHOTO_CROP),
    Cell(
        "fill: a cupcake on a brown background",
        ("fill", "photo.png", "--mask", "mask.png", "a cupcake on a brown background"),
        "filled.png",
        PHOTO_CROP,
    ),
    Cell(_APPLE, ("generate", _APPLE), "apple.png"),
    Cell(
        "fill --outpaint --intent expand: a blue background",
        ("fill", "apple.png", "--outpaint", "64,0,64,0", "--intent", "expand", "a blue background"),
        "wider.png",
    ),
    *(
        Cell(
            f"transform --strength {strength}: a pumpkin on a blue background",
            ("transform", "apple.png", _PUMPKIN, "--strength", strength),
            f"pumpkin{strength}.png",
        )
        for strength in ("0.3", "0.5", "0.9")
    ),
    *(
        Cell(f"edit: {words}", ("edit", "apple.png", words), f"edited{number}.png")
        for number, words in enumerate(
            ("make the apple green", "replace the apple with a frog", "change the background to yellow")
        )
    ),
    *(
        Cell(
            f"control --kind {kind}: {words}",
            ("control", "apple.png", words, "--kind", kind),
            f"{kind}.png",
        )
        for kind, words in (
            ("canny", "a purple apple on a white background"),
            ("depth", "a yellow balloon on a green background"),
        )
    ),
    Cell("vary, without a word", ("vary", "apple.png"), "varied.png"),
    Cell(
        "generate --model tiny-schnell, four steps: a lion on a green background",
        ("generate", "a lion on a green background", "--model", "tiny-schnell"),
        "quick.png",
    ),
    Cell("the same apple, enlarged plainly", (), "apple.png", _DETAIL, enlarge=2),
    Cell("upscale: 2x, the same part", ("upscale", "apple.png", _APPLE), "large.png", _DETAIL),
    Cell("generate --step-cache fast", ("generate", _APPLE, "--step-cache", "fast"), "cached.png"),
)


class Painter:
    """Runs commands in a folder with a service of its own.

    Args:
        folder: Where pictures are read and written.
        home: The state folder of the service.
    """

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self._environment = os.environ | {"FLOWBRUSH_HOME": str(home)}

    def run(self, words: tuple[str, ...], file: str, seed: int = 7) -> None:
        """Runs one command; its picture is `file`."""
        chosen = () if "--seed" in words else ("--seed", str(seed))
        command = [sys.executable, "-m", "desktop.commands", *words, *chosen, "-o", file]
        subprocess.run(command, cwd=self.folder, env=self._environment, check=True, stderr=subprocess.DEVNULL)


def lay_out(pictures: list[tuple[Image.Image, str]], num_columns: int, side_px: int) -> Image.Image:
    """Pictures in rows, each with its whole caption below it, on white."""
    font = ImageFont.load_default(size=12)
    line_px, gap_px, num_lines = 15, 8, 3
    height_px = side_px + num_lines * line_px + gap_px
    num_rows = -(-len(pictures) // num_columns)
    sheet = Image.new("RGB", (num_columns * (side_px + gap_px) - gap_px, num_rows * height_px), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (picture, caption) in enumerate(pictures):
        left, top = number % num_columns * (side_px + gap_px), number // num_columns * height_px
        fitted = picture.copy()
        fitted.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
        sheet.paste(fitted, (left + (side_px - fitted.width) // 2, top + (side_px - fitted.height) // 2))
        lines = _wrap(caption, draw, font, side_px)
        if len(lines) > num_lines:
            raise ValueError(f"The caption {caption!r} does not fit below its picture.")
        for row, line in enumerate(lines):
            draw.text((left, top + side_px + 2 + row * line_px), line, fill=(40, 40, 40), font=font)
    return sheet


def _wrap(
    caption: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int
) -> list[str]:
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font=font) <= width_px:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def paint_model_sheet(painter: Painter) -> Image.Image:
    """What the bundled model knows."""
    pictures: list[tuple[Image.Image, str]] = []
    for number, (prompt, seed) in enumerate(MODEL_SHEET):
        file = f"model-{number}.png"
        painter.run(("generate", prompt), file, seed)
        pictures.append((Image.open(painter.folder / file).convert("RGB"), prompt))
    return lay_out(pictures, NUM_COLUMNS, 200)


def paint_task_sheet(painter: Painter) -> Image.Image:
    """What can be done with it."""
    _prepare_photo(painter.folder)
    pictures: list[tuple[Image.Image, str]] = []
    for cell in TASK_SHEET:
        if cell.words:
            painter.run(cell.words, cell.file)
        picture = Image.open(painter.folder / cell.file).convert("RGB")
        if cell.enlarge > 1:
            size = (picture.width * cell.enlarge, picture.height * cell.enlarge)
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        if cell.crop:
            left, top, right, bottom = cell.crop
            picture = picture.crop((left, top, right, bottom))
        pictures.append((picture, cell.caption))
    return lay_out(pictures, 4, 220)


def _prepare_photo(folder: Path) -> None:
    photo = Image.open(PHOTO).convert("RGB")
    mask = Image.new("L", photo.size, 0)
    ImageDraw.Draw(mask).ellipse(MASK_BOX, fill=255)
    photo.save(folder / "photo.png")
    mask.save(folder / "mask.png")
    share = np.asarray(mask, dtype=np.float32)[..., None] / 255 * 0.55
    tinted = np.asarray(photo) * (1 - share) + np.array((255, 40, 40)) * share
    Image.fromarray(tinted.astype(np.uint8)).save(folder / "masked.png")


def main(arguments: list[str] | None = None) -> int:
    """Writes the sheets and their names; returns the exit code."""
    parser = argparse.ArgumentParser(description="Writes sheets of what the bundled model paints.")
    parser.add_argument("--into", type=Path, required=True, help="folder for the sheets")
    parser.add_argument("--only", choices=("tiny-sheet", "tasks"), help="one of them; both by default")
    parser.add_argument("--keep", type=Path, help="a folder that keeps every picture")
    given = parser.parse_args(arguments)
    given.into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = given.keep.absolute() if given.keep else Path(name) / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        home = Path(name) / "home"
        ensure_service(home, idle_exit_s=5.0)
        painter = Painter(folder, home)
        for title, paint in (("tiny-sheet", paint_model_sheet), ("tasks", paint_task_sheet)):
            if given.only in (None, title):
                file = given.into / f"{title}.webp"
                paint(painter).save(file, quality=82, method=6)
                sys.stdout.write(f"{file}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
