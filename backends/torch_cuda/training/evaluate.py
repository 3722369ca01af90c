"""What the trained model really draws: a judge's accuracy on held-out captions, and sheets to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backends.torch_cuda.training import autoencoder, flow, judge
from backends.torch_cuda.training.data.captions import named
from backends.torch_cuda.training.data.pack import Pack
from backends.torch_cuda.training.data.palette import contrasts
from backends.torch_cuda.training.scenes import Captions, Scenes
from flux_core.catalog import AutoencoderConfig
from flux_core.conditioning.packing import unpack

SHEET_PROMPTS = (
    "a red apple on a blue background",
    "a yellow banana on a purple background",
    "a flat illustration of a green car on a white background",
    "a cat on an orange background",
    "a blue umbrella on a yellow background",
    "a 3D render of a rocket on a black background",
    "two red hearts on a white background",
    "a hamburger",
    "a pink tulip on the left of a green background",
    "a house on a green ground under a cyan sky",
    "a purple fish on a yellow background",
    "a snowman on a blue background",
    "an orange butterfly, pink background",
    "a yellow star at the top right of a black background",
    "a red balloon on a white background with blue dots",
    "a donut on a pink and white checkered background",
)
_SHEET_COLOURS = ("white", "blue", "yellow", "green", "pink", "black")


class Setting(NamedTuple):
    """How held-out captions are drawn."""

    num_steps: int
    guidance: float
    side_px: int = 256
    is_base: bool = False  # the nets of the flow stage, guided by two evaluations

    @property
    def name(self) -> str:
        kind = "base_" if self.is_base else ""
        return f"{kind}{self.side_px}px_{self.num_steps}steps_g{self.guidance}"


SETTINGS = (
    *(Setting(20, 3.5), Setting(20, 3.5, is_base=True), Setting(20, 3.5, side_px=128)),
    *(Setting(20, 2.0), Setting(20, 5.0), Setting(8, 3.5)),
)
"""In order of importance: a deadline cuts the last ones."""
SECONDS_A_SETTING = 10.0
"""Left before the deadline, below which no further setting is drawn."""


class Pictures:
    """Draws captions with trained nets.

    Args:
        ae: The autoencoder.
        config: Its numbers.
        tables: Constant tables of the model.
        empty: The empty prompt.
        amp: Autocast.
    """

    def __init__(
        self,
        ae: autoencoder.AutoencoderNets,
        config: AutoencoderConfig,
        tables: flow.Conditioner,
        empty: Captions,
        amp: Any,
    ) -> None:
        self._ae = ae
        self._config = config
        self._tables = tables
        self._empty = empty
        self._amp = amp

    @torch.no_grad()
    def draw(
        self,
        nets: flow.FlowNets,
        captions: Captions,
        setting: Setting,
        is_guided_twice: bool,
        seed: int = 1,
    ) -> Tensor:
        """Pictures [B, side, side, 3] in [0, 1]; undistilled nets are guided by two evaluations a step."""
        size = (setting.side_px // 8, setting.side_px // 8)
        tokens = flow.sample(
            nets, self._tables, captions, size, setting.num_steps, setting.guidance, seed, self._amp,
            self._empty if is_guided_twice else None,
        )  # fmt: skip
        latents = unpack(nets.transformer.model.ops, tokens, *size)
        return autoencoder.decode(self._ae, latents / self._config.scale + self._config.shift, self._amp)


def object_prompts(pack: Pack) -> list[str]:
    """One prompt for every object, on a background that its drawing stands out from."""
    prompts: list[str] = []
    for index in range(len(pack.names)):
        own = pack.infos[index * len(pack.styles)].colour
        turn = index % len(_SHEET_COLOURS)
        colours = [*_SHEET_COLOURS[turn:], *_SHEET_COLOURS[:turn]]
        background = next(colour for colour in colours if contrasts(own, colour))
        prompts.append(f"{named(index)} on a {background} background")
    return prompts


def missed_objects(eye: judge.Judge, images: Tensor, names: Sequence[str], amp: Any) -> list[str]:
    """Names of the objects that the judge does not see in their pictures, which are in the same order."""
    seen = judge.answers(eye, images, amp)["object"]
    return [f"{name} ({names[int(seen[i])]})" for i, name in enumerate(names) if int(seen[i]) != i]


def score(eye: judge.Judge, images: Tensor, truth: Scenes, amp: Any) -> dict[str, float]:
    """The judge's accuracy against the labels of the captions."""
    return {name: round(value, 3) for name, value in judge.accuracy(eye, images, truth.labels, amp).items()}


def save_sheet(images: Tensor, path: Path, columns: int = 8) -> None:
    """Writes pictures [B, H, W, 3] in [0, 1] side by side as a PNG or JPEG."""
    from PIL import Image  # only where sheets are written

    count, height, width, _ = images.shape
    rows = (count + columns - 1) // columns
    sheet = torch.ones(rows * height, columns * width, 3)
    for index in range(count):
        top, left = index // columns * height, index % columns * width
        sheet[top : top + height, left : left + width] = images[index].float().cpu()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((sheet.clamp(0, 1) * 255).round().byte().numpy()).save(path, quality=88)
