"""Teaches the distilled base to paint in four steps: each step goes where several of its own would end.

From a point of a walk the teacher goes on in fine steps to the next of the few levels; the student learns the
mean velocity of that stretch. Half of the walks go on from where the student itself would have gone, so that
it also learns to mend its own errors. The change is a low-rank one, so the base is shared.

Source: Salimans & Ho 2022 (progressive distillation, here in one round); Ross et al. 2011 (learning on the
student's own states). FLUX.1 [schnell] itself was distilled adversarially (Sauer et al. 2024), which needs
far more of the device's time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backends.torch_cuda.training.clock import Stage
from backends.torch_cuda.training.distil import Texts
from backends.torch_cuda.training.flow import Conditioner, FlowNets, Mixing, RunState, hold_then_fall
from backends.torch_cuda.training.network import set_rate
from backends.torch_cuda.training.stepper import Stepper

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class FewSteps:
    """Numbers of the stage; `texts` and what follows are as in distil.Distillation."""

    rank: int = 32
    num_steps: int = 4
    fine_steps: int = 5  # of the teacher in each of them
    lr: float = 1e-3
    warmup_steps: int = 50
    decay_from: float = 0.35  # fraction of the stage
    ema: float = 0.998
    guidance: float = 3.5
    own_share: float = 0.5  # of the walks that go on from the student's own point
    sizes_px: tuple[Size, ...] = ((256, 256), (256, 256), (128, 128), (256, 256), (192, 256), (256, 256))
    small_count: int = 384  # walks under way up to 128 px
    large_count: int = 192
    texts: int = 4096
    texts_chunk: int = 256
    texts_every: int = 2
    mixing: Mixing = Mixing(without_clip=0.15, other_clip=0.05, without_t5=0.08)


class _Walking(NamedTuple):
    x: Tensor  # [B, L, 64]
    at: Tensor  # [B] steps done
    txt: Tensor
    vec: Tensor


class Stretches:
    """Many walks of one size at once; every lesson is one of the few steps of each.

    Args:
        teacher: The distilled base.
        student: With the change attached.
        tables: Their constant tables.
        texts: Captions as text states.
        size: Height and width in latents.
        count: Walks under way.
        numbers: Of the stage.
        amp: Autocast.
    """

    def __init__(
        self,
        teacher: FlowNets,
        student: FlowNets,
        tables: Conditioner,
        texts: Texts,
        size: Size,
        count: int,
        numbers: FewSteps,
        amp: Any,
    ) -> None:
        self._teacher = teacher
        self._student = student
        self._tables = tables
        self._texts = texts
        self._numbers = numbers
        self._amp = amp
        self._count = count
        self.size = size
        begun = self._begin()
        at = torch.randint(0, numbers.num_steps, (count,), device=tables.device)
        self._now = begun._replace(at=at.float())
        for number in range(numbers.num_steps - 1):  # brings each walk to its own step
            ahead = (at > number)[:, None, None]
            level = torch.full((count,), 1 - number / numbers.num_steps, device=tables.device)
            there = self._fine(self._now, level)
            self._now = self._now._replace(x=torch.where(ahead, there, self._now.x))

    @torch.no_grad()
    def next(self) -> tuple[Tensor, ...]:
        """x [B, L, 64], levels [B], target velocity [B, L, 64], and the text states; then the walks go on."""
        now, few = self._now, self._numbers.num_steps
        sigma = 1 - now.at / few
        there = self._fine(now, sigma)
        target = (now.x - there) * few
        with self._amp():
            own = self._velocity(self._student, now.x, sigma, now).float()
        is_own = torch.rand(self._count, device=sigma.device) < self._numbers.own_share
        x = torch.where(is_own[:, None, None], now.x - own / few, there)
        is_over = now.at + 1 >= few
        begun = self._begin()
        self._now = _Walking(
            _chosen(is_over, begun.x, x),
            torch.where(is_over, 0.0, now.at + 1),
            _chosen(is_over, begun.txt, now.txt),
            _chosen(is_over, begun.vec, now.vec),
        )
        return now.x, sigma, target, now.txt, now.vec

    def _begin(self) -> _Walking:
        length = self.size[0] * self.size[1] // 4
        device = self._tables.device
        txt, vec = self._texts.draw(self._count)
        x = torch.randn(self._count, length, 64, device=device)
        return _Walking(x, torch.zeros(self._count, device=device), txt, vec)

    @torch.no_grad()
    def _fine(self, walking: _Walking, sigma: Tensor) -> Tensor:
        """Where the teacher comes from the walks' points at these levels, one of the few steps later."""
        x, length = walking.x, 1 / (self._numbers.num_steps * self._numbers.fine_steps)
        for step in range(self._numbers.fine_steps):
            with self._amp():
                v = self._velocity(self._teacher, x, sigma - step * length, walking)
            x = x - length * v.float()
        return x

    def _velocity(self, nets: FlowNets, x: Tensor, sigma: Tensor, walking: _Walking) -> Tensor:
        guidance = torch.full_like(sigma, self._numbers.guidance)
        model = nets.transformer.model
        return model(x, walking.txt, walking.vec, sigma, guidance, self._tables.rotary(self.size))


def train(
    student: FlowNets,
    tables: Conditioner,
    stretches: Callable[[int], Stretches],
    numbers: FewSteps,
    stage: Stage,
    amp: Any,
    state: RunState,
    parameters: list[torch.nn.Parameter],
    is_graphed: bool = True,
) -> None:
    """Teaches the student's change in place for as long as the stage lasts; arguments as in tools.train."""

    def loss(size: tuple[int, ...], *lesson: Tensor) -> Tensor:
        x, sigma, target, txt, vec = lesson
        guidance = torch.full_like(sigma, numbers.guidance)
        with amp():
            v = student.transformer.model(x, txt, vec, sigma, guidance, tables.rotary((size[0], size[1])))
        return (v.float() - target).pow(2).mean()

    step_once = Stepper(loss, parameters, state.optimiser, is_graphed and tables.device.type == "cuda")
    for step in stage.steps():
        warm = min(1.0, (step + 1) / numbers.warmup_steps)
        lr = numbers.lr * warm * hold_then_fall(stage.fraction, numbers.decay_from)
        set_rate(state.optimiser, lr)
        source = stretches(step)
        value, norm = step_once(source.size, *source.next())
        state.average.update(step, numbers.ema)
        stage.log(step, loss=value, norm=norm, lr=lr)


def _chosen(which: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(which.view(-1, *[1] * (old.ndim - 1)), new, old)
