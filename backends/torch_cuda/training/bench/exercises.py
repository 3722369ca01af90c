"""What `flowbrush bench family` asks of the bundled family: held-out prompts, holes, edits, maps, references.

Each exercise is one command line, as a person would type it, so that every figure can be looked into. What
the answer is judged by (the composer's columns, which draw the truth) lies beside it in one file a section.
The scenes come from seeds that training does not see, and are complete: a caption says all that is judged.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor

from backends.torch_cuda.training.data import edits, pairs
from backends.torch_cuda.training.data.captions import caption, held_out_captions
from backends.torch_cuda.training.data.compose import Composer
from backends.torch_cuda.training.data.feed import Arrays, arrays
from backends.torch_cuda.training.data.pack import Pack
from backends.torch_cuda.training.data.scenes import HELD_OUT_SEED, Sampler, Scene
from backends.torch_cuda.training.data.word_ids import Words
from backends.torch_cuda.training.members import lessons
from backends.torch_cuda.training.scenes import to_device
from flux_core.imaging import codec

MANIFEST = "exercises.json"
SIDE_PX = 256
FILL_WAYS = ("object", "around", "remove", "remove_intent")
"""As data.pairs has them; a removal is asked for without words, and by the intent."""

BEFORE = "before/"
"""Prefix of the columns of what a person has before filling."""

GUIDANCES = (1.0, 2.0, 3.5, 5.0)
SIZES = (
    *((128, 128), (192, 192), (256, 256), (384, 384), (512, 512)),
    *((128, 256), (256, 128), (192, 384), (384, 192), (256, 512), (512, 256)),
)
"""Width and height in pixels."""

_SIZE_PROMPTS = 4
_SEED = 11
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Exercise:
    """One picture to be made.

    Attributes:
        section: What it belongs to.
        group: Which of the section's figures it counts for: a way of filling, a kind of edit, a size.
        index: Its row in the section's columns.
        file: Where its picture goes, relative to the folder.
        arguments: The command line behind `flowbrush`, without the output; names of files are absolute.
        looked: Where the depth that an estimator sees in it goes, relative to the folder; "" for nowhere.
    """

    section: str
    group: str
    index: int
    file: str
    arguments: tuple[str, ...]
    looked: str = ""


class Maker:
    """Writes exercises into a folder.

    Args:
        pack: The training pack.
        folder: Where pictures, columns and the manifest go.
        count: Prompts of the largest sections; the others take a share of it.
    """

    def __init__(self, pack: Pack, folder: Path, count: int) -> None:
        self.sampler = Sampler(pack)
        self.composer = Composer(pack, CPU)
        self.words = Words()
        self.folder = folder.absolute()
        self.count = count
        self.made: list[Exercise] = []

    def share(self, part: float) -> int:
        """So many exercises of a section, at least two."""
        return max(2, round(self.count * part))

    def scenes(self, section: str, told: list[tuple[Scene, str]]) -> list[str]:
        """Keeps the truth of captioned scenes; gives the captions."""
        texts = [text for _, text in told]
        self.keep(section, arrays(self.sampler, [scene for scene, _ in told], texts, self.words))
        return texts

    def keep(self, section: str, columns: Arrays) -> dict[str, Tensor]:
        """Writes what a section is judged by."""
        np.savez(self.folder / f"{section}.npz", allow_pickle=False, **columns)
        return to_device(columns, CPU)

    def picture(self, name: str, image: Tensor) -> str:
        """Writes a picture [H, W, 3] or [H, W, 1] in [0, 1]; gives its absolute name."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (image * 255).round().clamp(0, 255).byte().numpy()
        path.write_bytes(
            codec.encode_png(np.ascontiguousarray(pixels[..., 0] if image.shape[-1] == 1 else pixels))
        )
        return str(path)

    def ask(self, section: str, group: str, index: int, *arguments: str, estimated: bool = False) -> None:
        """Adds an exercise."""
        (self.folder / section).mkdir(exist_ok=True)
        file = f"{section}/{group}-{index:03}.png"
        looked = f"{section}/{group}-{index:03}-depth.png" if estimated else ""
        seed = ("--seed", str(_SEED + index))
        self.made.append(Exercise(section, group, index, file, (*arguments, *seed), looked))

    def write(self) -> None:
        """Writes the manifest."""
        (self.folder / MANIFEST).write_text(json.dumps([asdict(one) for one in self.made], indent=1))


def read(folder: Path) -> list[Exercise]:
    """The exercises of a folder."""
    found = json.loads((folder / MANIFEST).read_text())
    return [Exercise(**one | {"arguments": tuple(one["arguments"])}) for one in found]


def columns_of(folder: Path, section: str) -> dict[str, Tensor]:
    """What a section is judged by."""
    with np.load(folder / f"{section}.npz", allow_pickle=False) as file:
        return to_device({name: file[name] for name in file.files}, CPU)


def prompts(maker: Maker) -> None:
    """Everything that a prompt can say, by the base in its usual steps."""
    told = held_out_captions(maker.sampler, maker.count)
    for index, text in enumerate(maker.scenes("prompts", told)):
        maker.ask("prompts", "prompts", index, "generate", text, "--model", "tiny")


def schnell(maker: Maker) -> None:
    """The same prompts in four steps."""
    told = held_out_captions(maker.sampler, maker.count)
    for index, text in enumerate(maker.scenes("schnell", told)):
        maker.ask("schnell", "schnell", index, "generate", text, "--model", "tiny-schnell")


def two(maker: Maker) -> None:
    """Two different objects, each in its place."""
    rng = Random(HELD_OUT_SEED + 5)
    told: list[tuple[Scene, str]] = []
    while len(told) < maker.share(0.5):
        scene = maker.sampler.scene(rng)
        if len(scene.items) == 2 and not scene.is_same:
            told.append((scene, caption(scene, rng, is_complete=True)))
    for index, text in enumerate(maker.scenes("two", told)):
        maker.ask("two", "two", index, "generate", text, "--model", "tiny")


def guidance(maker: Maker) -> None:
    """The same prompts at several guidances."""
    told = held_out_captions(maker.sampler, maker.share(0.25))
    for index, text in enumerate(maker.scenes("guidance", told)):
        for value in GUIDANCES:
            maker.ask(
                "guidance",
                f"{value:g}",
                index,
                "generate",
                text,
                "--model",
                "tiny",
                "--guidance",
                f"{value:g}",
            )


def sizes(maker: Maker) -> None:
    """One object each, at every size and shape that the model was made for."""
    told = [one for one in held_out_captions(maker.sampler, 64) if len(one[0].items) == 1][:_SIZE_PROMPTS]
    for index, text in enumerate(maker.scenes("sizes", told)):
        for width, height in SIZES:
            size = f"{width}x{height}"
            maker.ask("sizes", size, index, "generate", text, "--model", "tiny", "--size", size)


def fill(maker: Maker) -> None:
    """Holes to fill as a prompt says, and things to take away."""
    for way in FILL_WAYS:
        rng, section = Random(HELD_OUT_SEED + 3), f"fill_{way}"
        is_removal = way.startswith("remove")
        drawn = [pairs.hole(maker.sampler, rng, way.partition("_")[0]) for _ in range(maker.share(0.25))]
        columns = pairs.hole_columns(maker.sampler, maker.words, rng, drawn)
        texts = [one.text for one in drawn]
        scenes = [_with(one) if is_removal else _without(one) for one in drawn]
        had = arrays(maker.sampler, scenes, texts, maker.words)
        kept = maker.keep(section, columns | {BEFORE + key: value for key, value in had.items()})
        before, mask = holes(maker.composer, kept)
        for index, text in enumerate(texts):
            names = (
                maker.picture(f"{section}/before-{index:03}.png", before[index]),
                maker.picture(f"{section}/mask-{index:03}.png", mask[index]),
            )
            words = {"remove": (), "remove_intent": ("--intent", "remove")}.get(way, (text,))
            maker.ask(
                section, way, index, "fill", names[0], *words, "--mask", names[1], "--model", "tiny-fill"
            )


def _with(one: pairs.Hole) -> Scene:
    """What a person has before something is taken away."""
    return replace(one.whole, items=[*one.whole.items, *one.shape.items])


def _without(one: pairs.Hole) -> Scene:
    """What a person has before something comes there."""
    return replace(one.whole, items=[item for item in one.whole.items if item is not one.shape.items[0]])


@dataclass(frozen=True, slots=True)
class _Drawing:
    composer: Composer


def holes(composer: Composer, columns: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The pictures [B, H, W, 3] that a person has before filling, and masks [B, H, W, 1]."""
    size = (SIDE_PX, SIDE_PX)
    mask = lessons.show_fill(_Drawing(composer), columns, size).mask
    assert mask is not None
    return composer(lessons.part(columns, BEFORE), size), mask


def kontext(maker: Maker) -> None:
    """Edits of every kind; the whole result counts, so that nothing hides what the model did to the rest."""
    for kind in edits.KINDS:
        rng, section = Random(HELD_OUT_SEED + 3), f"kontext_{kind}"
        made = [edits.edit(maker.sampler, rng, kind) for _ in range(maker.share(0.15))]
        columns = maker.keep(section, pairs.edit_columns(maker.sampler, maker.words, made))
        before = maker.composer(lessons.part(columns, pairs.OTHER), (SIDE_PX, SIDE_PX))
        for index, one in enumerate(made):
            name = maker.picture(f"{section}/before-{index:03}.png", before[index])
            maker.ask(
                section, kind, index, "edit", name, one.text, "--model", "tiny-kontext", "--keep-all",
                "--no-register",
            )  # fmt: skip


def canny(maker: Maker) -> None:
    """Pictures whose edges are followed."""
    _follow(maker, "canny", lessons.CANNY, ())


def depth(maker: Maker) -> None:
    """Depth maps that are followed."""
    _follow(maker, "depth", lessons.DEPTH, ("--map",))


def _follow(maker: Maker, kind: str, member: lessons.Member, options: tuple[str, ...]) -> None:
    told = held_out_captions(maker.sampler, maker.share(0.25))
    texts = maker.scenes(kind, told)
    shown = member.show(_Drawing(maker.composer), columns_of(maker.folder, kind), (SIDE_PX, SIDE_PX))
    for index, text in enumerate(texts):
        given = shown.seen if options else shown.truth
        name = maker.picture(f"{kind}/given-{index:03}.png", given[index])
        maker.ask(
            kind, kind, index, "control", name, text, "--kind", kind, *options, "--model", "tiny",
            estimated=kind == "depth",
        )  # fmt: skip


def redux(maker: Maker) -> None:
    """References, without any words."""
    told = held_out_captions(maker.sampler, maker.share(0.25))
    maker.scenes("redux", told)
    truth = maker.composer(columns_of(maker.folder, "redux"), (SIDE_PX, SIDE_PX))
    for index in range(len(told)):
        name = maker.picture(f"redux/given-{index:03}.png", truth[index])
        maker.ask("redux", "redux", index, "vary", name, "--model", "tiny")


SECTIONS: dict[str, Callable[[Maker], None]] = {
    "prompts": prompts,
    "two": two,
    "schnell": schnell,
    "fill": fill,
    "kontext": kontext,
    "canny": canny,
    "depth": depth,
    "redux": redux,
    "guidance": guidance,
    "sizes": sizes,
}
