"""Flow matching of the tool models: Fill, Kontext, Canny and Depth as low-rank changes of the distilled base.

They learn at guidance 1, where the base answers as it did before its distillation; a guidance given later
acts as it does on the base, as with LoRAs for FLUX.1 [dev]. Tokens that must change count more than those
that are copied.

Source: Esser et al. 2024 (flow matching); Labs et al. 2025 (FLUX.1 Kontext: references as tokens).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backends.torch_cuda.training.clock import Stage
from backends.torch_cuda.training.flow import (
    Conditioner,
    FlowNets,
    Mixing,
    RunState,
    hold_then_fall,
    noised,
)
from backends.torch_cuda.training.members.lessons import Member
from backends.torch_cuda.training.network import set_rate
from backends.torch_cuda.training.scenes import Captions
from backends.torch_cuda.training.stepper import Stepper
from flux_core.conditioning.packing import position_ids, rotary_table

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ToolTraining:
    """Numbers of a tool's stage."""

    rank: int = 32
    lr: float = 1.5e-3
    warmup_steps: int = 150
    decay_from: float = 0.5  # fraction of the stage
    ema: float = 0.999
    caption_dropout: float = 0.05
    mixing: Mixing = Mixing(without_clip=0.2, other_clip=0.05, without_t5=0.05)
    sigma_mean: float = 0.3  # of the logit-normal
    guidance: float = 1.0
    copied_weight: float = 0.35  # of tokens that stay as they are
    sizes_px: tuple[Size, ...] = (
        (256, 256), (256, 256), (256, 256), (128, 128), (256, 256), (256, 256), (256, 256), (192, 256),
    )  # height and width; they take turns  # fmt: skip
    batch_small: int = 384
    batch_large: int = 192
    pool_small: int = 4_096
    pool_large: int = 12_288
    pool_chunk: int = 256
    renew_every: int = 128  # steps; a multiple of the number of sizes


class References:
    """Rotary tables of pictures that see another of their own size behind them."""

    def __init__(self, tables: Conditioner) -> None:
        self._tables = tables
        self._made: dict[Size, Tensor] = {}

    def __call__(self, size: Size) -> Tensor:
        """[L_txt + 2 L_img, D/2, 2] for a latent height and width."""
        if size not in self._made:
            config = self._tables.spec.transformer
            ids = position_ids(self._tables.spec.t5_tokens, *size, (size,))
            table = rotary_table(ids, config.axes_dim, config.theta)
            self._made[size] = torch.from_numpy(table).to(self._tables.device)
        return self._made[size]


class Told:
    """The changed transformer as a member calls it, in training and in evaluation alike.

    Args:
        nets: With the change attached.
        tables: Constant tables of the model.
        member: Which one.
    """

    def __init__(self, nets: FlowNets, tables: Conditioner, member: Member | None) -> None:
        self._nets = nets
        self._tables = tables
        self._member = member
        self._references = References(tables)

    def __call__(
        self, x: Tensor, extra: Tensor, txt: Tensor, vec: Tensor, sigma: Tensor, guidance: Tensor, size: Size
    ) -> Tensor:
        """Velocity [B, L, 64] of noisy tokens [B, L, 64] with what stands beside them."""
        model = self._nets.transformer.model
        if self._member is None:
            return model(x, txt, vec, sigma, guidance, self._tables.rotary(size))
        extra = extra.to(x.dtype)
        if not self._member.is_reference:
            x = torch.cat([x, extra], dim=2)
            return model(x, txt, vec, sigma, guidance, self._tables.rotary(size))
        both = torch.cat([x, extra], dim=1)
        return model(both, txt, vec, sigma, guidance, self._references(size))[:, : x.shape[1]]


def weights(member: Member, tokens: Tensor, extra: Tensor, copied: float) -> Tensor:
    """How much each token counts [B, L, 1], mean 1: those in a hole, or that an edit changes, count whole."""
    if member.channels == 384:
        change = extra[..., 64:].float().mean(-1, keepdim=True)
    elif member.is_reference:
        change = ((tokens.float() - extra.float()).abs().mean(-1, keepdim=True) / 0.25).clamp(0, 1)
    else:
        change = tokens.new_ones(*tokens.shape[:2], 1).float()
    weight = copied + (1 - copied) * change
    return weight / weight.mean()


def train(
    member: Member,
    nets: FlowNets,
    tables: Conditioner,
    draw: Callable[[int], tuple[Size, list[Tensor]]],
    empty: Captions,
    numbers: ToolTraining,
    stage: Stage,
    amp: Any,
    state: RunState,
    parameters: list[torch.nn.Parameter],
    is_graphed: bool = True,
) -> None:
    """Trains a member's change in place for as long as the stage lasts.

    Args:
        member: Which one.
        nets: The base with the change attached; its text encoders stay as they are.
        tables: Constant tables of the model.
        draw: step -> latent size, and tokens, extra and captions of a batch.
        empty: The empty prompt.
        numbers: Of the stage.
        stage: How long.
        amp: Autocast.
        state: Optimiser and average of the change.
        parameters: Of the change.
        is_graphed: Capture steps as CUDA graphs, where there is CUDA.
    """
    told = Told(nets, tables, member)

    def loss(size: tuple[int, ...], z: Tensor, extra: Tensor, *text: Tensor) -> Tensor:
        x, target, sigma = noised(z, numbers.sigma_mean)
        with amp():
            with torch.no_grad():
                captions = Captions(*text).dropped(numbers.caption_dropout, empty)
                txt, vec = tables.mixed_text(nets, captions, empty, numbers.mixing)
            guidance = torch.full_like(sigma, numbers.guidance)
            v = told(x, extra, txt, vec, sigma, guidance, (size[0], size[1]))
        weight = weights(member, z, extra, numbers.copied_weight)
        return ((v.float() - target).pow(2) * weight).mean()

    step_once = Stepper(loss, parameters, state.optimiser, is_graphed and tables.device.type == "cuda")
    for step in stage.steps():
        warm = min(1.0, (step + 1) / numbers.warmup_steps)
        lr = numbers.lr * warm * hold_then_fall(stage.fraction, numbers.decay_from)
        set_rate(state.optimiser, lr)
        size, batch = draw(step)
        value, norm = step_once(size, *batch)
        state.average.update(step, numbers.ema)
        stage.log(step, loss=value, norm=norm, lr=lr)


@torch.no_grad()
def sample(
    told: Callable[..., Tensor],
    nets: FlowNets,
    tables: Conditioner,
    captions: Captions,
    extra: Tensor,
    size: Size,
    num_steps: int,
    guidance: float,
    amp: Any,
    seed: int = 1,
    chunk: int = 64,
) -> Tensor:
    """Euler samples [B, L, 64] for a latent height and width; `told` as Told, `extra` what each sees."""
    generator = torch.Generator(tables.device).manual_seed(seed)
    length = size[0] * size[1] // 4
    levels = np.linspace(1.0, 0.0, num_steps + 1)
    out: list[Tensor] = []
    for start in range(0, len(captions), chunk):
        words = captions.select(slice(start, start + chunk))
        beside = extra[start : start + chunk]
        x = torch.randn(len(words), length, 64, generator=generator, device=tables.device)
        with amp():
            txt, vec = tables.text(nets, words)
        strength = torch.full((len(words),), guidance, device=tables.device)
        for now, after in zip(levels[:-1], levels[1:], strict=True):
            sigma = torch.full_like(strength, float(now))
            with amp():
                v = told(x, beside, txt, vec, sigma, strength, size)
            x = x + float(after - now) * v.float()
        out.append(x)
    return torch.cat(out)
