"""Draws a contact sheet of random scenes with their captions, to be looked at by a person.

`python -m backends.torch_cuda.training.data.sheet --pack FILE --out SHEET.png`: nothing replaces seeing
whether the captions are true and the pictures are ones that a model should learn.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image, ImageDraw

from backends.torch_cuda.training.data.captions import caption
from backends.torch_cuda.training.data.compose import Composer
from backends.torch_cuda.training.data.feed import arrays
from backends.torch_cuda.training.data.pack import Pack
from backends.torch_cuda.training.data.scenes import Sampler
from backends.torch_cuda.training.data.word_ids import Words

COLUMNS = 8
_TEXT_PX = 46


def sheet(pack: Pack, count: int, seed: int, size: tuple[int, int]) -> Image.Image:
    """`count` random scenes of `size` (height, width) with their captions below."""
    sampler, rng = Sampler(pack), Random(seed)
    scenes = [sampler.scene(rng) for _ in range(count)]
    captions = [caption(scene, rng) for scene in scenes]
    columns = {
        key: torch.from_numpy(value) for key, value in arrays(sampler, scenes, captions, Words()).items()
    }
    pictures = (Composer(pack, "cpu")(columns, size) * 255).round().byte().numpy()
    height, width = size
    rows = -(-count // COLUMNS)
    page = Image.new("RGB", (COLUMNS * (width + 6), rows * (height + _TEXT_PX)), "white")
    pen = ImageDraw.Draw(page)
    for index, (picture, text) in enumerate(zip(pictures, captions, strict=True)):
        left, top = index % COLUMNS * (width + 6), index // COLUMNS * (height + _TEXT_PX)
        page.paste(Image.fromarray(np.ascontiguousarray(picture)), (left, top))
        pen.text((left, top + height), "\n".join(textwrap.wrap(text, width // 6)[:4]), fill="black")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a contact sheet of training scenes.")
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("HEIGHT", "WIDTH"))
    arguments = parser.parse_args()
    size = (arguments.size[0], arguments.size[1])
    sheet(Pack.load(arguments.pack), arguments.count, arguments.seed, size).save(arguments.out)


if __name__ == "__main__":
    main()
