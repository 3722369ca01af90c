"""Teaches the decoder on by itself, so that pictures come back truer from latents that stay what they were.

The encoder stays as it ships, coded as it ships, so whatever was trained on its latents is still right. The
decoder learns from true pictures of every size, with more weight on the border, where it leaves a speck in
the top left corner. There is no discriminator: what counts here is that a picture which an edit shall keep
comes back as it was.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from backends.torch_cuda.training import autoencoder, checkpoint
from backends.torch_cuda.training.clock import Stage
from backends.torch_cuda.training.network import Average, adamw, set_rate
from backends.torch_cuda.training.scenes import SceneSource

_LOG = logging.getLogger("training")


@dataclass(frozen=True, slots=True)
class Mending:
    """Numbers of the stage."""

    batch_size: int = 32  # at 256 px and below; fewer of larger pictures
    side_px: int = 256
    other_sides_px: tuple[int, ...] = (128, 512, 128, 384)  # take turns in every fourth step
    lr: float = 5e-4
    square_weight: float = 4.0  # of the squared error beside the loss that the autoencoder learned from
    border_px: int = 12
    border_weight: float = 1.0
    corner_weight: float = 10.0  # the corners are few pixels
    photo_share: float = 0.15


def train(nets: autoencoder.AutoencoderNets, source: SceneSource, numbers: Mending, stage: Stage) -> None:
    """Trains the decoder in place for as long as the stage lasts; ends with averaged weights."""
    parameters = nets.decoder.parameters
    optimiser = adamw(parameters, numbers.lr, beta2=0.98, decay=0.0)
    average = Average(parameters.values())
    sides_px = numbers.other_sides_px
    for step in stage.steps():
        warm, fall = min(1.0, (step + 1) / 50), math.cos(stage.fraction * math.pi / 2)
        set_rate(optimiser, numbers.lr * warm * max(0.02, fall))
        side_px = numbers.side_px if step % 4 else sides_px[step // 4 % len(sides_px)]
        x = _pictures(source, numbers, side_px) * 2 - 1
        with torch.no_grad(), source.amp():
            z = nets.encoder.model.moments(x).float().chunk(2, dim=-1)[0]
        with source.amp():
            y = nets.decoder.model.raw(z)
        error = y.float() - x
        at_border = (error.abs() * border(side_px, numbers, x.device)).mean()
        loss = (
            autoencoder.reconstruction_loss(error) + numbers.square_weight * error.pow(2).mean() + at_border
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
        optimiser.step()
        average.update(step, 0.998)
        stage.log(step, loss=loss, square=error.pow(2).mean())
    average.swap()


def _pictures(source: SceneSource, numbers: Mending, side_px: int) -> Tensor:
    """Pictures [B, side, side, 3] in [0, 1]."""
    if side_px > numbers.side_px:
        count = max(1, numbers.batch_size * numbers.side_px**2 // side_px**2)
        return source.scenes(count, (side_px, side_px)).images
    return resized(source.crops(numbers.batch_size, numbers.side_px, numbers.photo_share), side_px)


def mend(
    nets: autoencoder.AutoencoderNets,
    source: SceneSource,
    truth: Tensor,
    numbers: Mending,
    stage: Stage,
    file: Path,
) -> None:
    """Trains, logs what it did to the pictures `truth` [B, H, W, 3], and writes both halves to `file`."""
    _report("before", nets, source, truth)
    train(nets, source, numbers, stage)
    _report("after", nets, source, truth)
    half = {name: p.to(torch.bfloat16).contiguous() for name, p in nets.state().items()}
    checkpoint.save(file, half)


def _report(when: str, nets: autoencoder.AutoencoderNets, source: SceneSource, truth: Tensor) -> None:
    side_px = truth.shape[1]
    photos = torch.stack([source.photo_crop(side_px) for _ in range(len(truth))])
    for name, images in (
        ("scenes", truth),
        ("half size scenes", resized(truth, side_px // 2)),
        ("photographs", photos),
    ):
        x = images
        z = autoencoder.encode(nets, x, source.amp, 32)
        y = autoencoder.decode(nets, z, source.amp, 32)
        inside = autoencoder.psnr(y[:, 16:-16, 16:-16], x[:, 16:-16, 16:-16])
        _LOG.info(
            "mend %s, %s: %.2f dB, inside %.2f dB, top left corner off by %.3f",
            when, name, autoencoder.psnr(y, x), inside, corner_error(y, x),
        )  # fmt: skip


def resized(images: Tensor, side_px: int) -> Tensor:
    """Pictures [B, H, W, 3] at another size."""
    if images.shape[1] == side_px:
        return images
    small = functional.interpolate(images.permute(0, 3, 1, 2), size=(side_px, side_px), mode="area")
    return small.permute(0, 2, 3, 1).contiguous()


def border(side_px: int, numbers: Mending, device: Any) -> Tensor:
    """Extra weight of every pixel [side, side, 1]: 0 inside, more at the border, most in the corners."""
    at = torch.arange(side_px, device=device)
    is_edge = torch.minimum(at, side_px - 1 - at) < numbers.border_px
    sides = is_edge[:, None].int() + is_edge[None, :].int()
    table = torch.tensor([0.0, numbers.border_weight, numbers.corner_weight], device=device)
    return table[sides][..., None]


def corner_error(images: Tensor, truth: Tensor, corner_px: int = 8) -> float:
    """Greatest mean over pictures of the absolute error of a pixel in the top left corner, in [0, 1]."""
    error = (images - truth)[:, :corner_px, :corner_px].abs().mean(-1)
    return error.mean(0).max().item()
