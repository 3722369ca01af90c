"""Distils the guided velocity of a teacher into the guidance input, as FLUX.1 [dev] was made.

The teacher needs two evaluations a step (with and without the text); the student gives their guided sum
in one. It learns along the teacher's own guided walks from noise to picture, so it sees exactly the
points that sampling visits, and every evaluation of the teacher is both a lesson and a step of a walk.

Source: Meng et al. 2023 (guidance distillation); the walks in place of noised data are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from backends.torch_cuda.training.clock import Stage
from backends.torch_cuda.training.flow import (
    Conditioner,
    FlowNets,
    Mixing,
    RunState,
    batch_of,
    hold_then_fall,
)
from backends.torch_cuda.training.network import set_rate
from backends.torch_cuda.training.scenes import Captions
from backends.torch_cuda.training.stepper import Stepper

NewCaptions = Callable[[int], Captions]
"""count -> that many fresh captions."""


@dataclass(frozen=True, slots=True)
class Distillation:
    """Numbers of the stage."""

    lr: float = 3e-4
    warmup_steps: int = 100
    decay_from: float = 0.4  # fraction of the stage
    ema: float = 0.998
    guidance_range: tuple[float, float] = (1.0, 6.0)
    usual_guidance: float = 3.5
    usual_share: float = 0.3  # of the walks, with exactly the usual guidance
    walk_steps: tuple[int, int] = (8, 28)  # fewest and most steps of a walk
    sizes_px: tuple[tuple[int, int], ...] = (
        (256, 256), (128, 128), (256, 256), (192, 256), (256, 256), (384, 384),
        (256, 256), (128, 256), (256, 256), (256, 192), (256, 256), (512, 512),
        (256, 256), (128, 128), (256, 256), (256, 512), (256, 256), (256, 128), (256, 256), (512, 256),
    )  # height and width; they take turns  # fmt: skip
    small_count: int = 512  # walks under way up to 128 px
    large_count: int = 256  # up to 256 px, and fewer above
    mixing: Mixing = Mixing(without_clip=0.15, other_clip=0.05, without_t5=0.08)
    texts: int = 4096  # captions held ready as text states
    texts_chunk: int = 256  # encoded at a time
    texts_every: int = 4  # steps between renewals of a chunk


class TextPool(Protocol):
    """What `Texts` takes of a stage's numbers."""

    @property
    def texts(self) -> int: ...
    @property
    def texts_chunk(self) -> int: ...
    @property
    def texts_every(self) -> int: ...
    @property
    def mixing(self) -> Mixing: ...


class Lesson(NamedTuple):
    """What the student must answer: at tokens x [B, L, 64] and levels sigma [B], text states txt and vec,
    guidance [B] -> velocity target [B, L, 64].
    """

    x: Tensor
    sigma: Tensor
    guidance: Tensor
    target: Tensor
    txt: Tensor
    vec: Tensor


class Texts:
    """Text states of many captions, kept ready and slowly renewed: the text encoders do not change here.

    Args:
        teacher: Nets of the flow stage.
        tables: Their constant tables.
        new_captions: Where captions come from.
        empty: The empty prompt.
        numbers: Of the stage.
        amp: Autocast, as in the flow stage.
    """

    def __init__(
        self,
        teacher: FlowNets,
        tables: Conditioner,
        new_captions: NewCaptions,
        empty: Captions,
        numbers: TextPool,
        amp: Any,
    ) -> None:
        self._teacher = teacher
        self._tables = tables
        self._new_captions = new_captions
        self._empty = empty
        self._numbers = numbers
        self._amp = amp
        parts = [self._chunk() for _ in range(max(1, numbers.texts // numbers.texts_chunk))]
        self._txt, self._vec = (torch.cat(column) for column in zip(*parts, strict=True))
        self._next = self._draws = 0

    @torch.no_grad()
    def encode(self, captions: Captions) -> tuple[Tensor, Tensor]:
        """T5 states [B, L, D] and CLIP pooled state [B, D] in float32."""
        with self._amp():
            txt, vec = self._tables.text(self._teacher, captions)
        return txt.float(), vec.float()

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """States of `count` random captions; now and then some new ones come in."""
        self._draws += 1
        if self._draws % self._numbers.texts_every == 0:
            self._renew()
        index = torch.randint(0, len(self._txt), (count,), device=self._txt.device)
        return self._txt[index], self._vec[index]

    def _renew(self) -> None:
        place = slice(self._next, self._next + self._numbers.texts_chunk)
        self._txt[place], self._vec[place] = self._chunk()
        self._next = (self._next + self._numbers.texts_chunk) % len(self._txt)

    @torch.no_grad()
    def _chunk(self) -> tuple[Tensor, Tensor]:
        captions = self._new_captions(self._numbers.texts_chunk)
        with self._amp():
            txt, vec = self._tables.mixed_text(self._teacher, captions, self._empty, self._numbers.mixing)
        return txt.float(), vec.float()


class _Walking(NamedTuple):
    """Where every walk is: tokens, steps done, steps in all, guidance, text states; one row each."""

    x: Tensor
    at: Tensor
    steps: Tensor
    guidance: Tensor
    txt: Tensor
    vec: Tensor


class Walks:
    """Many guided walks of the teacher at once, each with its own caption, guidance and number of steps.

    Walks that are over begin again by a masked choice between two full sets, never by counting them:
    every shape stays fixed, and the device never waits for the processor to read a number.

    Args:
        teacher: Nets of the flow stage.
        tables: Their constant tables.
        empty: The empty prompt.
        texts: Captions as text states.
        size: Height and width in latents.
        count: Walks under way.
        numbers: Of the stage.
        amp: Autocast, as in the flow stage.
    """

    def __init__(
        self,
        teacher: FlowNets,
        tables: Conditioner,
        empty: Captions,
        texts: Texts,
        size: tuple[int, int],
        count: int,
        numbers: Distillation,
        amp: Any,
    ) -> None:
        self._teacher = teacher
        self._tables = tables
        self._texts = texts
        self._numbers = numbers
        self._amp = amp
        self._count = count
        self.size = size
        txt, vec = texts.encode(empty)
        self._no_txt, self._no_vec = txt.repeat(count, 1, 1), vec.repeat(count, 1)
        begun = self._begin()
        at = (torch.rand_like(begun.steps) * begun.steps).floor()  # not all at the same level
        self._now = begun._replace(at=at)

    @torch.no_grad()
    def next(self) -> Lesson:
        """One lesson from every walk; the walks then go one step on."""
        now = self._now
        sigma = 1.0 - now.at / now.steps
        ones = torch.ones_like(sigma)
        transformer, pe = self._teacher.transformer.model, self._tables.rotary(self.size)
        with self._amp():
            with_text = transformer(now.x, now.txt, now.vec, sigma, ones, pe).float()
            without = transformer(now.x, self._no_txt, self._no_vec, sigma, ones, pe).float()
        target = without + now.guidance[:, None, None] * (with_text - without)
        moved = now._replace(x=now.x - target / now.steps[:, None, None], at=now.at + 1)
        is_over = moved.at >= moved.steps - 0.5
        self._now = _Walking(
            *(_chosen(is_over, new, old) for new, old in zip(self._begin(), moved, strict=True))
        )
        return Lesson(now.x, sigma, now.guidance, target, now.txt, now.vec)

    @torch.no_grad()
    def _begin(self) -> _Walking:
        """As many fresh walks as there are rows."""
        numbers, count, device = self._numbers, self._count, self._tables.device
        low, high = numbers.guidance_range
        guidance = low + (high - low) * torch.rand(count, device=device)
        is_usual = torch.rand(count, device=device) < numbers.usual_share
        fewest, most = numbers.walk_steps
        txt, vec = self._texts.draw(count)
        return _Walking(
            x=torch.randn(count, self.size[0] * self.size[1] // 4, 64, device=device),
            at=torch.zeros(count, device=device),
            steps=torch.randint(fewest, most + 1, (count,), device=device).float(),
            guidance=torch.where(is_usual, numbers.usual_guidance, guidance),
            txt=txt,
            vec=vec,
        )


def _chosen(which: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Rows of `new` where `which` [B] is true, else of `old`."""
    return torch.where(which.view(-1, *[1] * (old.ndim - 1)), new, old)


class Rounds:
    """Which walks a step learns from: the sizes take turns.

    Args:
        teacher: Nets of the flow stage.
        tables: Their constant tables.
        empty: The empty prompt.
        new_captions: Where captions come from.
        numbers: Of the stage.
        amp: Autocast, as in the flow stage.
    """

    def __init__(
        self,
        teacher: FlowNets,
        tables: Conditioner,
        empty: Captions,
        new_captions: NewCaptions,
        numbers: Distillation,
        amp: Any,
    ) -> None:
        texts = Texts(teacher, tables, new_captions, empty, numbers, amp)
        self._make = lambda size_px: Walks(
            teacher, tables, empty, texts, (size_px[0] // 8, size_px[1] // 8),
            batch_of(size_px, numbers.small_count, numbers.large_count), numbers, amp,
        )  # fmt: skip
        self._sizes_px = numbers.sizes_px
        self._walks: dict[tuple[int, int], Walks] = {}

    def __call__(self, step: int) -> Walks:
        size_px = self._sizes_px[step % len(self._sizes_px)]
        if size_px not in self._walks:
            self._walks[size_px] = self._make(size_px)
        return self._walks[size_px]


def train(
    student: FlowNets,
    tables: Conditioner,
    walks: Callable[[int], Walks],
    numbers: Distillation,
    stage: Stage,
    amp: Any,
    state: RunState,
    is_graphed: bool = True,
) -> None:
    """Teaches the student's transformer in place for as long as the stage lasts.

    Args:
        student: Starts as a copy of the teacher; its text encoders stay as they are.
        tables: Constant tables of the model.
        walks: step -> the walks that this step learns from.
        numbers: Of the stage.
        stage: How long.
        amp: Autocast.
        state: Optimiser and average over the student's transformer.
        is_graphed: Capture steps as CUDA graphs, where there is CUDA.
    """

    def loss(size: tuple[int, int], *lesson: Tensor) -> Tensor:
        x, sigma, guidance, target, txt, vec = lesson
        with amp():
            v = student.transformer.model(x, txt, vec, sigma, guidance, tables.rotary(size))
        return (v.float() - target).pow(2).mean()

    parameters = list(student.transformer.parameters.values())
    step_once = Stepper(loss, parameters, state.optimiser, is_graphed and tables.device.type == "cuda")
    for step in stage.steps():
        warm = min(1.0, (step + 1) / numbers.warmup_steps)
        lr = numbers.lr * warm * hold_then_fall(stage.fraction, numbers.decay_from)
        set_rate(state.optimiser, lr)
        source = walks(step)
        value, norm = step_once(source.size, *source.next())
        state.average.update(step, numbers.ema)
        stage.log(step, loss=value, norm=norm, lr=lr)
