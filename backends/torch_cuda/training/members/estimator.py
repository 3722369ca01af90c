"""A small depth estimator, Depth Anything's network, that learns from the exact depth of composed scenes.

It gives nearness up to a scale and an offset, as the large ones do. Most of a scene lies farthest away, and
there the network's last ReLU gives one value, 0; so the loss holds its scale, too. It does so by squares:
the absolute error of a net that knows nothing is least where all is far, and there it would stay.

Source: Yang et al. 2024 (Depth Anything V2); Ranftl et al. 2020 (losses without scale and offset).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from backends.torch_cuda.training.clock import Stage
from backends.torch_cuda.training.flow import RunState, hold_then_fall
from backends.torch_cuda.training.members import folders, pictures
from backends.torch_cuda.training.network import set_rate

_NUM_SCALES = 3
_LEAK = 0.05
_LEAST_SPREAD = 1e-4


@dataclass(frozen=True, slots=True)
class EstimatorTraining:
    """Sizes and numbers of the stage."""

    side_px: int = 192  # of the shorter side, to which the picture processor brings pictures
    patch_px: int = 8
    width: int = 96
    num_heads: int = 3
    mlp_ratio: int = 2
    num_layers: int = 4
    neck: tuple[int, ...] = (24, 48, 48, 48)
    fusion_width: int = 24
    head_width: int = 16
    lr: float = 1e-3
    warmup_steps: int = 200
    decay_from: float = 0.5
    ema: float = 0.998
    gradient_weight: float = 0.5
    scale_weight: float = 3.0
    batch_size: int = 64
    pool: int = 2_048
    pool_chunk: int = 256
    renew_every: int = 11  # steps; no divisor of the number of sizes, so that all are renewed
    sizes_px: tuple[tuple[int, int], ...] = (
        *((192, 192), (192, 192), (192, 192), (192, 256)),
        *((192, 192), (192, 192), (128, 128), (256, 192)),
    )


def build(numbers: EstimatorTraining, device: torch.device) -> Any:
    """A fresh DepthAnythingForDepthEstimation whose convolutions keep the size of what goes through them."""
    tf = folders.library()
    backbone = tf.Dinov2Config(
        image_size=numbers.side_px,
        patch_size=numbers.patch_px,
        hidden_size=numbers.width,
        num_hidden_layers=numbers.num_layers,
        num_attention_heads=numbers.num_heads,
        mlp_ratio=numbers.mlp_ratio,
        out_indices=_tapped(numbers),
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    config = tf.DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=numbers.patch_px,
        reassemble_hidden_size=numbers.width,
        reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_sizes=list(numbers.neck),
        fusion_hidden_size=numbers.fusion_width,
        head_in_index=-1,
        head_hidden_size=numbers.head_width,
    )
    net = tf.DepthAnythingForDepthEstimation(config)
    gains = {"convolution1": 2**0.5, "convolution2": 0.1, "conv3": 0.1}  # behind a ReLU; He et al. 2015
    with torch.no_grad():
        for name, module in net.named_modules():
            gain = gains.get(name.rpartition(".")[2], 1.0)
            if isinstance(module, nn.ConvTranspose2d):
                module.weight.normal_(0.0, gain * module.in_channels**-0.5)
            elif isinstance(module, nn.Conv2d):
                module.weight.normal_(0.0, gain * module.weight[0].numel() ** -0.5)
        net.head.conv3.bias.fill_(0.2)  # above the last ReLU's corner
    return net.to(device)


def write(folder: Path, numbers: EstimatorTraining, state: dict[str, Tensor]) -> None:
    """Writes trained weights as a folder that the engine's helper reads."""
    net = build(numbers, torch.device("cpu"))
    folders.set_weights(net, state)
    settings = {
        **folders.SETTINGS,
        "image_processor_type": "DPTImageProcessor",
        "size": {"height": numbers.side_px, "width": numbers.side_px},
        "keep_aspect_ratio": True,
        "ensure_multiple_of": 2 * numbers.patch_px,  # the neck halves the grid once
        "do_pad": False,
    }
    folders.write(folder, net, settings)


def nearness(net: Any, images: Tensor) -> Tensor:
    """Pictures [B, H, W, 3] in [-1, 1], sides multiples of two patches -> [B, H, W], larger is nearer."""
    return net(pixel_values=images.permute(0, 3, 1, 2)).predicted_depth.float()


@torch.no_grad()
def maps(net: Any, numbers: EstimatorTraining, images: Tensor) -> Tensor:
    """Pictures [B, S, S, 3] in [0, 1] -> whole numbers [B, S, S], 0 (farthest) to 255, as the engine's."""
    side_px = images.shape[1]
    x = pictures.shown(images, numbers.side_px)
    found = torch.cat([nearness(net, part) for part in x.split(32)])
    large = functional.interpolate(found[:, None], (side_px, side_px), mode="bicubic")[:, 0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    return ((large - low) * (255 / (high - low).clamp_min(1e-6))).round().long()


def train(
    net: Any,
    draw: Callable[[int], tuple[Tensor, Tensor]],
    numbers: EstimatorTraining,
    stage: Stage,
    amp: Any,
    state: RunState,
) -> None:
    """Trains in place; `draw` gives pictures [B, H, W, 3] and true maps [B, H, W], both in bytes.

    The last ReLU leaks while it learns, because one that is shut for every pixel would stay shut.
    """
    parameters = list(net.parameters())
    net.head.activation2 = nn.LeakyReLU(_LEAK)
    for step in stage.steps():
        warm = min(1.0, (step + 1) / numbers.warmup_steps)
        set_rate(state.optimiser, numbers.lr * warm * hold_then_fall(stage.fraction, numbers.decay_from))
        seen, depth = draw(step)
        truth = depth.float() / 255
        with amp():
            found = nearness(net, pictures.worn(seen.float() / 255) * 2 - 1)
        apart = aligned(found, truth) - truth
        off = (found - truth).square().mean()
        steep = steepness(apart)
        loss = apart.abs().mean() + numbers.gradient_weight * steep + numbers.scale_weight * off
        state.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        state.optimiser.step()
        state.average.update(step, numbers.ema)
        stage.log(step, apart=apart.abs().mean(), steep=steep, off=off, norm=norm)


def aligned(found: Tensor, truth: Tensor) -> Tensor:
    """`found` [B, H, W] with the scale and offset, one pair a picture, that bring it nearest to the truth.

    The scale is never negative, and small where a map is nearly even: else a net that knows nothing would
    learn from its noise, or learn to be inside out.
    """
    centred = found - found.mean((1, 2), keepdim=True)
    middle = truth.mean((1, 2), keepdim=True)
    agreement = (centred * (truth - middle)).mean((1, 2), keepdim=True)
    spread = centred.square().mean((1, 2), keepdim=True)
    return centred * (agreement / (spread + _LEAST_SPREAD)).clamp_min(0) + middle


def steepness(apart: Tensor) -> Tensor:
    """Mean absolute slope of a difference [B, H, W], at full, half and quarter size."""
    total = apart.new_zeros(())
    for scale in range(_NUM_SCALES):
        part = apart[:, :: 2**scale, :: 2**scale]
        total = total + part.diff(dim=1).abs().mean() + part.diff(dim=2).abs().mean()
    return total


def rank_correlation(found: Tensor, truth: Tensor) -> Tensor:
    """Spearman's [B] of maps [B, H, W] of whole numbers from 0 to 255; equal values share their mean rank."""
    a, b = (_ranks(values.flatten(1)) for values in (found, truth))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.pow(2).sum(1) * b.pow(2).sum(1)).sqrt().clamp_min(1e-9)


def _ranks(values: Tensor) -> Tensor:
    counts = torch.zeros(len(values), 256, dtype=torch.float64, device=values.device)
    counts.scatter_add_(1, values, torch.ones_like(values, dtype=torch.float64))
    return (counts.cumsum(1) - (counts - 1) / 2).gather(1, values)


def _tapped(numbers: EstimatorTraining) -> list[int]:
    """The layers whose states the neck reads, as many as it has widths, the last one last."""
    count = len(numbers.neck)
    return [max(1, round(numbers.num_layers * (index + 1) / count)) for index in range(count)]
