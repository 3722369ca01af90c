"""What the trained model really draws: a judge's accuracy on held-out captions, and sheets to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backends.torch_cuda.training import autoencoder, flow, judge
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


@torch.no_grad()
def draw(
    nets: flow.FlowNets,
    ae: autoencoder.AutoencoderNets,
    config: AutoencoderConfig,
    tables: flow.Conditioner,
    captions: Captions,
    amp: Any,
    *,
    num_steps: int,
    guidance: float,
    side_px: int = 256,
    seed: int = 1,
    empty: Captions | None = None,
) -> Tensor:
    """Pictures [B, side, side, 3] in [0, 1] for captions; see flow.sample for `empty`."""
    size = (side_px // 8, side_px // 8)
    tokens = flow.sample(nets, tables, captions, size, num_steps, guidance, seed, amp, empty)
    latents = unpack(nets.transformer.model.ops, tokens, *size) / config.scale + config.shift
    return autoencoder.decode(ae, latents, amp)


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
