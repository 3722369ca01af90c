"""Redux and the fast decoder: a picture tower whose states the base reads as words, and a small decoder.

The tower learns by the frozen base's own flow matching: its tokens must help to denoise the picture that it
saw. In the first part of the stage it must name the picture's labels, too, which is quicker than learning to
see through the base alone.

Source: Zhai et al. 2023 (SigLIP's layout); black-forest-labs/flux (Redux); madebyollin/taesd (the decoder).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from backends.torch_cuda.training import judge as judging
from backends.torch_cuda.training.clock import Stage
from backends.torch_cuda.training.flow import Conditioner, FlowNets, RunState, hold_then_fall, noised
from backends.torch_cuda.training.network import Network, set_rate
from backends.torch_cuda.training.scenes import Captions
from backends.torch_cuda.training.stepper import Stepper
from backends.torch_cuda.training.text import label_loss
from flux_core.catalog import ReduxConfig, SiglipConfig, Taef1Config
from flux_core.conditioning.packing import position_ids, rotary_table
from flux_core.models.redux import Redux
from flux_core.models.siglip import SiglipVision
from flux_core.models.taef1 import Taef1Decoder, Taef1Encoder

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ReduxTraining:
    """Numbers of Redux's stage."""

    width: int = 128
    num_heads: int = 4
    mlp_hidden: int = 512
    num_layers: int = 4
    image_px: int = 128
    patch_px: int = 16
    lr: float = 1e-3
    warmup_steps: int = 200
    decay_from: float = 0.5
    ema: float = 0.999
    telling_until: float = 0.5  # fraction of the stage without the base, which is several times quicker
    naming_weight: float = 0.3
    words_weight: float = 1.0
    told_share: float = 0.1  # of naming and words once the base is asked, too
    no_words: float = 0.85  # share of empty prompts
    side_px: int = 256  # of the pictures that the base denoises
    batch_size: int = 160
    pool: int = 12_288
    pool_chunk: int = 512
    renew_every: int = 32


@dataclass(frozen=True, slots=True)
class FastDecoding:
    """Numbers of the fast decoder's stage."""

    width: int = 32
    lr: float = 1e-3
    batch_size: int = 48
    side_px: int = 128
    perceptual_weight: float = 0.1


class Eye(NamedTuple):
    """The picture tower and its adapter."""

    tower: Network[SiglipVision]
    adapter: Network[Redux]

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {**self.tower.parameters, **self.adapter.parameters}

    def tokens(self, images: Tensor) -> Tensor:
        """[B, image_px, image_px, 3] in [-1, 1] -> text tokens [B, N, D]."""
        return self.adapter.model(self.tower.model(images))


def build_eye(numbers: ReduxTraining, context_dim: int, device: torch.device) -> Eye:
    """A fresh tower and adapter."""
    config = SiglipConfig(
        hidden_size=numbers.width,
        num_heads=numbers.num_heads,
        mlp_hidden=numbers.mlp_hidden,
        num_layers=numbers.num_layers,
        image_px=numbers.image_px,
        patch_px=numbers.patch_px,
    )
    return Eye(
        Network(lambda ops, make: SiglipVision(ops, make, config), device),
        Network(lambda ops, make: Redux(ops, make, ReduxConfig(numbers.width, context_dim)), device),
    )


def shown(images: Tensor, side_px: int) -> Tensor:
    """Pictures [B, H, W, 3] in [0, 1] as the tower sees them: square, in [-1, 1]."""
    x = images.permute(0, 3, 1, 2)
    if x.shape[-2:] != (side_px, side_px):
        x = functional.interpolate(x, size=(side_px, side_px), mode="bicubic", antialias=True)
    return x.permute(0, 2, 3, 1).clamp(0, 1) * 2 - 1


def worn(images: Tensor) -> Tensor:
    """Pictures [B, H, W, 3] in [0, 1] as models paint them: some softer, noisy, lighter or darker."""
    x = images.permute(0, 3, 1, 2)
    chance = torch.rand(4, len(x), 1, 1, 1, device=x.device)
    soft = x
    for _ in range(2):
        soft = functional.avg_pool2d(functional.pad(soft, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, soft, (2 * chance[0] - 1).clamp_min(0))  # half of them, up to wholly
    x = x * (1 + 0.2 * (chance[1] - 0.5)) + 0.1 * (chance[2] - 0.5)
    x = x + torch.randn_like(x) * 0.08 * chance[3].square()
    return x.clamp(0, 1).permute(0, 2, 3, 1)


_TELLING = (0, 0)  # in place of a size in latents


def redux_table(tables: Conditioner, size: Size, num_tokens: int) -> Tensor:
    """The rotary table with so many picture tokens behind the words."""
    config = tables.spec.transformer
    ids = position_ids(tables.spec.t5_tokens + num_tokens, *size)
    table = rotary_table(ids, config.axes_dim, config.theta)
    return torch.from_numpy(table).to(tables.device)


def train_redux(
    eye: Eye,
    nets: FlowNets,
    tables: Conditioner,
    draw: Callable[[int], tuple[Tensor, Tensor, Tensor, Captions]],
    empty: Captions,
    heads: dict[str, int],
    numbers: ReduxTraining,
    stage: Stage,
    amp: Any,
    state: RunState,
    head: nn.Linear,
    is_graphed: bool = True,
) -> None:
    """Trains tower and adapter in place; `draw` gives tokens, pictures in bytes, labels [B, K], captions.

    What a picture shows is told in the language of the base: its tokens learn to be the states that T5 gives
    for a complete caption, over and over, and their mean to name every label. The velocity that the base
    lacks teaches a small tower colours and places, and hardly what things are; it has the last word.

    `head` is a linear layer from the adapter's mean token to all labels, and is thrown away afterwards.
    """
    size = numbers.side_px // 8, numbers.side_px // 8
    table = redux_table(tables, size, (numbers.image_px // numbers.patch_px) ** 2)

    def loss(key: tuple[int, ...], z: Tensor, image: Tensor, labels: Tensor, *text: Tensor) -> Tensor:
        x, target, sigma = noised(z, 0.3)
        with amp():
            with torch.no_grad():
                states, _ = tables.text(nets, Captions(*text))
            tokens = eye.tokens(image.float() / 127.5 - 1)
            logits = head(tokens.mean(1)).float()
            named = label_loss(logits, heads, dict(zip(heads, labels.long().unbind(1), strict=True)))
            told = numbers.naming_weight * named + numbers.words_weight * _apart(tokens, states)
            if key == _TELLING:
                return told
            with torch.no_grad():
                txt, vec = tables.text(nets, Captions(*text).dropped(numbers.no_words, empty))
            words = torch.cat([txt, tokens.to(txt.dtype)], dim=1)
            v = nets.transformer.model(x, words, vec, sigma, torch.ones_like(sigma), table)
        return (v.float() - target).pow(2).mean() + numbers.told_share * told

    parameters = [*eye.parameters.values(), *head.parameters()]
    step_once = Stepper(loss, parameters, state.optimiser, is_graphed and tables.device.type == "cuda")
    for step in stage.steps():
        warm = min(1.0, (step + 1) / numbers.warmup_steps)
        lr = numbers.lr * warm * hold_then_fall(stage.fraction, numbers.decay_from)
        set_rate(state.optimiser, lr)
        z, image, labels, captions = draw(step)
        key = _TELLING if stage.fraction < numbers.telling_until else size
        value, norm = step_once(key, z, image, labels, *captions)
        state.average.update(step, numbers.ema)
        stage.log(step, loss=value, norm=norm, lr=lr)


def _apart(tokens: Tensor, states: Tensor) -> Tensor:
    """How far picture tokens [B, N, D] are from T5 states [B, L, D] repeated, in the states' own variance."""
    times = tokens.shape[1] // states.shape[1]
    said = tokens[:, : times * states.shape[1]].float().unflatten(1, (times, -1))
    return (said - states.float()[:, None]).pow(2).mean() / states.float().var()


class FastNets(NamedTuple):
    """Both halves of the small autoencoder."""

    encoder: Network[Taef1Encoder]
    decoder: Network[Taef1Decoder]

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {**self.encoder.parameters, **self.decoder.parameters}


def build_fast(numbers: FastDecoding, device: torch.device) -> FastNets:
    """Fresh nets; the last convolution of every block is small, so that blocks begin near the identity."""
    config = Taef1Config(width=numbers.width)
    nets = FastNets(
        Network(lambda ops, make: Taef1Encoder(ops, make, config), device),
        Network(lambda ops, make: Taef1Decoder(ops, make, config), device),
    )
    for net in nets:
        for name, p in net.parameters.items():
            if p.ndim == 4:  # ReLU nets: He et al. 2015
                factor = 0.1 if name.endswith("conv.4.weight") else 1.0
                nn.init.normal_(p, std=factor * (2 / (p.shape[1] * 9)) ** 0.5)
    return nets


def train_fast(
    nets: FastNets,
    draw: Callable[[int], tuple[Tensor, Tensor]],
    eye: judging.Judge,
    numbers: FastDecoding,
    stage: Stage,
    amp: Any,
    state: RunState,
) -> None:
    """Trains both halves in place; `draw` gives pictures [B, H, W, 3] and latents [B, h, w, 16]."""
    eye.eval().requires_grad_(False)
    parameters = list(nets.parameters.values())
    for step in stage.steps():
        set_rate(state.optimiser, numbers.lr * min(1.0, (step + 1) / 100) * max(0.02, 1.0 - stage.fraction))
        images, latents = draw(step)
        x = images * 2 - 1
        with amp():
            y = nets.decoder.model(latents)
            z = nets.encoder.model(x)
            seen = judging.perceptual(eye, y.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2)).float()
        error = y.float() - x
        steep = (error[:, :, 1:] - error[:, :, :-1]).abs().mean() + (
            error[:, 1:] - error[:, :-1]
        ).abs().mean()
        loss = error.abs().mean() + 0.5 * steep + numbers.perceptual_weight * seen
        loss = loss + 0.2 * (z.float() - latents).abs().mean()
        state.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        state.optimiser.step()
        state.average.update(step, 0.998)
        stage.log(step, loss=loss, norm=norm)
