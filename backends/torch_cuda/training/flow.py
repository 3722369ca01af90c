"""Rectified flow matching of the transformer, with its text encoders.

The transformer learns the velocity noise - data of x = (1 - s) data + s noise, with logit-normal s;
text encoders are trained along. The result is the teacher of the distillation (distil.py).

CLIP's pooled state alone tells this small model nearly everything, so one that always gets it never learns to
read T5's states: in a share of the captions it is missing or another caption's.

Source: Esser et al. 2024 (rectified flow, logit-normal noise levels, text encoders dropped one by one).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from backends.torch_cuda.training.clock import Stage
from backends.torch_cuda.training.network import Average, Network, adamw, compile_calls, set_rate
from backends.torch_cuda.training.scenes import Captions
from backends.torch_cuda.training.stepper import Stepper
from flux_core.catalog import ModelSpec
from flux_core.conditioning.packing import position_ids, rotary_table
from flux_core.models.clip import ClipText
from flux_core.models.t5 import T5Encoder, relative_buckets
from flux_core.models.transformer import Transformer

_ZERO_AT_START = (
    "_mod.lin.weight",
    "_mod.lin.bias",
    "modulation.lin.weight",
    "modulation.lin.bias",
    "adaLN_modulation.1.weight",
    "adaLN_modulation.1.bias",
    "final_layer.linear.weight",
    "final_layer.linear.bias",
    "guidance_in.out_layer.weight",
)


class Said(Protocol):
    """What sentences say, as text.Sentences keeps it."""

    def draw(self, count: int) -> tuple[Tensor, ...]:
        """Inputs of `loss` for that many sentences."""
        ...

    def loss(self, nets: FlowNets, tables: Conditioner, *drawn: Tensor) -> Tensor:
        """How far both text encoders are from naming it, a scalar."""
        ...


LatentBatch = Callable[[int], tuple[Tensor, Captions, tuple[int, int]]]
"""step -> (tokens [B, L, 64] normalised, their captions, latent height and width)."""


@dataclass(frozen=True, slots=True)
class Mixing:
    """Shares of the captions in which one text encoder is silent or wrong, so that the other must count."""

    without_clip: float = 0.25
    other_clip: float = 0.1  # CLIP's state of another caption
    without_t5: float = 0.1


NO_MIXING = Mixing(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class FlowTraining:
    """Numbers of the run."""

    lr: float = 1e-3
    warmup_steps: int = 300
    decay_from: float = 0.65  # fraction of the run; the rate is held before
    ema: float = 0.9995
    caption_dropout: float = 0.1
    sigma_mean: float = 0.2  # of the logit-normal
    mixing: Mixing = Mixing()
    said_weight: float = 0.03  # of the loss of what sentences say, against the velocity's
    said_count: int = 256  # sentences a step


class FlowNets(NamedTuple):
    """Transformer and text encoders."""

    transformer: Network[Transformer]
    t5: Network[T5Encoder]
    clip: Network[ClipText]

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{part}/{name}": p
            for part, net in zip(self._fields, self, strict=True)
            for name, p in net.parameters.items()
        }

    def state(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])


def build(spec: ModelSpec, device: torch.device) -> FlowNets:
    """Fresh nets: adaLN-zero, quiet embeddings, T5 queries scaled for its unscaled attention."""
    nets = FlowNets(
        Network(lambda ops, make: Transformer(ops, make, spec.transformer), device),
        Network(lambda ops, make: T5Encoder(ops, make, spec.t5), device),
        Network(lambda ops, make: ClipText(ops, make, spec.clip), device),
    )
    nets.transformer.fill(_ZERO_AT_START, 0.0)
    nets.clip.fill(("token_embedding.weight", "position_embedding.weight"), 0.05)
    nets.t5.fill(("relative_attention_bias.weight",), 0.1)
    nets.t5.fill(("SelfAttention.q.weight",), (spec.t5.d_model * spec.t5.d_kv) ** -0.5)
    return nets


def compile_nets(nets: FlowNets) -> None:
    """Compiles every block; call after copies that must stay eager were made."""
    compile_transformer(nets)
    compile_calls([nets.t5.model], "blocks")
    compile_calls([nets.clip.model], "layers")


def compile_transformer(nets: FlowNets) -> None:
    """Compiles the transformer's blocks alone, for stages whose text encoders hardly run."""
    compile_calls([nets.transformer.model], "double_blocks")
    compile_calls([nets.transformer.model], "single_blocks")


class Conditioner:
    """Constant tables of a model: rotary positions by size, T5 buckets, CLIP positions."""

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        self.buckets = torch.from_numpy(relative_buckets(spec.t5_tokens, spec.t5)).to(device)
        self.positions = torch.arange(spec.clip_tokens, device=device)
        self._tables: dict[tuple[int, int], Tensor] = {}

    def rotary(self, size: tuple[int, int]) -> Tensor:
        """[L_txt + L_img, D/2, 2] for a latent height and width."""
        if size not in self._tables:
            config = self.spec.transformer
            table = rotary_table(position_ids(self.spec.t5_tokens, *size), config.axes_dim, config.theta)
            self._tables[size] = torch.from_numpy(table).to(self.device)
        return self._tables[size]

    def text(self, nets: FlowNets, captions: Captions) -> tuple[Tensor, Tensor]:
        """T5 states [B, L, D] and CLIP pooled state [B, D]."""
        txt = nets.t5.model(captions.t5, self.buckets)
        vec = nets.clip.model(captions.clip, self.positions, captions.clip_end)
        return txt, vec

    def mixed_text(
        self, nets: FlowNets, captions: Captions, empty: Captions, mixing: Mixing
    ) -> tuple[Tensor, Tensor]:
        """As `text`, with the shares of `mixing`; captions that are empty stay so.

        A missing CLIP state is that of the empty prompt; missing T5 states are zeros, as the engine gives
        them where T5 is left out, or those of the empty prompt.
        """
        txt, vec = self.text(nets, captions)
        if mixing == NO_MIXING:
            return txt, vec
        no_txt, no_vec = self.text(nets, empty)
        chance, coin = torch.rand(2, len(vec), device=vec.device)
        chance = torch.where(captions.clip_end > empty.clip_end, chance, 0.5)
        is_other = chance < mixing.other_clip
        is_without = (chance >= 1 - mixing.without_clip - mixing.without_t5) & (
            chance < 1 - mixing.without_t5
        )
        is_mute = chance >= 1 - mixing.without_t5
        vec = torch.where(is_other[:, None], vec.roll(1, 0), vec)
        vec = torch.where(is_without[:, None], no_vec, vec)
        silence = no_txt * (coin < 0.5)[:, None, None]
        return torch.where(is_mute[:, None, None], silence, txt), vec

    def velocity(
        self,
        nets: FlowNets,
        x: Tensor,
        captions: Captions,
        sigma: Tensor,
        guidance: Tensor,
        size: tuple[int, int],
    ) -> Tensor:
        """The transformer on packed latents [B, L, 64]."""
        txt, vec = self.text(nets, captions)
        return nets.transformer.model(x, txt, vec, sigma, guidance, self.rotary(size))


def train(
    nets: FlowNets,
    tables: Conditioner,
    batch: LatentBatch,
    empty: Captions,
    numbers: FlowTraining,
    stage: Stage,
    amp: Any,
    state: RunState,
    said: Said,
    is_graphed: bool = True,
) -> None:
    """Flow matching in place for as long as the stage lasts.

    Args:
        nets: Transformer and text encoders.
        tables: Constant tables of the model.
        batch: What a step learns from.
        empty: The empty prompt.
        numbers: Of the stage.
        stage: How long.
        amp: Autocast.
        state: Optimiser and average of the nets and of the heads of `said`.
        said: Keeps the text encoders naming what sentences say, instructions among them.
        is_graphed: Capture steps as CUDA graphs, where there is CUDA.
    """

    def loss(size: tuple[int, int], z: Tensor, *text: Tensor) -> Tensor:
        x, target, sigma = noised(z, numbers.sigma_mean)
        captions = Captions(*text[:3]).dropped(numbers.caption_dropout, empty)
        with amp():
            txt, vec = tables.mixed_text(nets, captions, empty, numbers.mixing)
            pe = tables.rotary(size)
            v = nets.transformer.model(x, txt, vec, sigma, torch.ones_like(sigma), pe)
            naming = said.loss(nets, tables, *text[3:])
        return (v.float() - target).pow(2).mean() + numbers.said_weight * naming

    is_graphed = is_graphed and tables.device.type == "cuda"
    step_once = Stepper(loss, list(state.parameters.values()), state.optimiser, is_graphed)
    for step in stage.steps():
        warm = min(1.0, (step + 1) / numbers.warmup_steps)
        lr = numbers.lr * warm * hold_then_fall(stage.fraction, numbers.decay_from)
        set_rate(state.optimiser, lr)
        z, captions, size = batch(step)
        value, norm = step_once(size, z, *captions, *said.draw(numbers.said_count))
        state.average.update(step, numbers.ema)
        stage.log(step, loss=value, norm=norm, lr=lr)


class RunState:
    """Optimiser and averaged weights of a run."""

    def __init__(self, parameters: dict[str, nn.Parameter], lr: float) -> None:
        self.parameters = parameters
        self.optimiser = adamw(parameters, lr, beta2=0.98)
        self.average = Average(parameters.values())


def noised(z: Tensor, sigma_mean: float) -> tuple[Tensor, Tensor, Tensor]:
    """(x at a logit-normal noise level, velocity to learn, noise levels [B])."""
    z = z.float()
    noise = torch.randn_like(z)
    sigma = torch.sigmoid(torch.randn(len(z), device=z.device) + sigma_mean)
    s = sigma[:, None, None]
    return (1 - s) * z + s * noise, noise - z, sigma


def batch_of(size_px: tuple[int, int], small: int, large: int) -> int:
    """How many pictures of a height and width make a batch: `small` up to 128 px, `large` up to 256 px, and
    fewer of larger ones, for about half the tokens.
    """
    area = size_px[0] * size_px[1]
    if area <= 128**2:
        return small
    return large if area <= 256**2 else max(1, large * 256**2 // (2 * area))


def hold_then_fall(fraction: float, decay_from: float) -> float:
    """1 until `decay_from`, then straight down to 0.02 at the end; times the rate."""
    return 1.0 if fraction < decay_from else max(0.02, (1.0 - fraction) / (1.0 - decay_from))


@torch.no_grad()
def sample(
    nets: FlowNets,
    tables: Conditioner,
    captions: Captions,
    size: tuple[int, int],
    num_steps: int,
    guidance: float,
    seed: int,
    amp: Any,
    empty: Captions | None = None,
    chunk: int = 64,
) -> Tensor:
    """Euler samples [B, L, 64]; with `empty` the guidance is applied by two evaluations (the teacher)."""
    generator = torch.Generator(tables.device).manual_seed(seed)
    length = (size[0] // 2) * (size[1] // 2)
    levels = np.linspace(1.0, 0.0, num_steps + 1)
    out: list[Tensor] = []
    for start in range(0, len(captions), chunk):
        part = captions.select(slice(start, start + chunk))
        x = torch.randn(len(part), length, 64, generator=generator, device=tables.device)
        for now, after in zip(levels[:-1], levels[1:], strict=True):
            sigma = torch.full((len(part),), float(now), device=tables.device)
            value = torch.full_like(sigma, 1.0 if empty is not None else guidance)
            with amp():
                v = tables.velocity(nets, x, part, sigma, value, size).float()
                if empty is not None:
                    v0 = tables.velocity(nets, x, empty.expand(len(part)), sigma, value, size).float()
                    v = v0 + guidance * (v - v0)
            x = x + float(after - now) * v
        out.append(x)
    return torch.cat(out)
