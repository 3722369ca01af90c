"""Compiles the members' shapes ahead, on throwaway nets and noise, while a first process trains."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from backends.torch_cuda.training import flow
from backends.torch_cuda.training.clock import Stage
from backends.torch_cuda.training.members import lessons, tools
from backends.torch_cuda.training.members.lowrank import LowRank

if TYPE_CHECKING:
    from backends.torch_cuda.training.members.stages import MemberRun

_LOG = logging.getLogger("training")
_FOREVER_S = 3600.0
_STEPS_A_SIZE = 6  # of which three are warm, one is captured and two are replayed


def compile_all(run: MemberRun) -> None:
    """Every shape of the low-rank stages; fill's first, because it is wanted first."""
    for member, numbers in (
        (lessons.FILL, run.numbers.fill),
        (lessons.KONTEXT, run.numbers.kontext),
        (lessons.CANNY, run.numbers.canny),
    ):
        nets = run.bundled_nets()
        change = LowRank(nets.transformer, numbers.rank, member.channels)
        if run.is_compiled:
            flow.compile_transformer(nets)
        batches = {
            size_px: _noise(run, member, numbers, size_px) for size_px in dict.fromkeys(numbers.sizes_px)
        }
        turn = list(batches)
        steps = _STEPS_A_SIZE * len(turn)
        tools.train(
            member, nets, run.tables,
            lambda step, turn=turn, batches=batches: _of(turn[step % len(turn)], batches),
            run.empty(), numbers, Stage(f"warm {member.name}", _FOREVER_S, log_every=steps, num_steps=steps),
            run.source.amp, flow.RunState(change.parameters, numbers.lr),
            list(change.parameters.values()), run.numbers.is_graphed,
        )  # fmt: skip
        _LOG.info("warm: %s is compiled", member.name)
        del nets, change, batches
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _of(
    size_px: tuple[int, int], batches: dict[tuple[int, int], list[Tensor]]
) -> tuple[tuple[int, int], list[Tensor]]:
    return (size_px[0] // 8, size_px[1] // 8), batches[size_px]


def _noise(
    run: MemberRun, member: lessons.Member, numbers: tools.ToolTraining, size_px: tuple[int, int]
) -> list[Tensor]:
    count = numbers.batch_small if max(size_px) <= 128 else numbers.batch_large
    length = size_px[0] * size_px[1] // 256
    channels = 64 if member.is_reference else member.channels - 64
    tokens = torch.randn(count, length, 64, device=run.device).bfloat16()
    extra = torch.rand(count, length, channels, device=run.device).bfloat16()
    return [tokens, extra, *run.captions(count)]
