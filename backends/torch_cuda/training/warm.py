"""Compiles ahead: a second process runs each stage on throwaway nets while the first ones train.

Compilation takes minutes that a lent GPU should not spend waiting. Inductor keeps its results on the
disk, so what this process has compiled, the real one finds. It is also the earliest word on whether the
captured graphs run on this machine, and how fast.
"""

from __future__ import annotations

import dataclasses
import gc
import logging

import torch
from torch import Tensor

from backends.torch_cuda.training import autoencoder, distil, flow, judge
from backends.torch_cuda.training.clock import Stage
from backends.torch_cuda.training.data import feed
from backends.torch_cuda.training.flow import batch_of
from backends.torch_cuda.training.plan import Plan
from backends.torch_cuda.training.pools import RARE, Batches
from backends.torch_cuda.training.scenes import Captions, SceneSource, captions_of
from flux_core.catalog import ModelSpec

_LOG = logging.getLogger("training")
_FOREVER_S = 3600.0


def compile_autoencoder(spec: ModelSpec, plan: Plan, source: SceneSource) -> None:
    """Runs every compiled shape of the autoencoder stage, on nets of its own; arguments as below."""
    is_compiled = source.device.type == "cuda"
    for whole_from in (2.0, -1.0):
        nets = autoencoder.build(spec.autoencoder, source.device, is_compiled)
        numbers = dataclasses.replace(plan.autoencoder, whole_from=whole_from, adversarial_from=-1.0)
        eye = judge.Judge(feed.LABELS).to(source.device)
        autoencoder.train(nets, source, eye, numbers, _stage("warm autoencoder", 2))
        _LOG.info("warm: the autoencoder is compiled, whole pictures %s", whole_from < 0)


def compile_flow(
    spec: ModelSpec, plan: Plan, source: SceneSource, empty: Captions, said: flow.Said, num_steps: int = 5
) -> None:
    """Runs every compiled shape of the flow and distil stages, on nets of its own; 128 px comes first.

    Args:
        spec: Sizes of the model.
        plan: As the stages get it.
        source: For pictures and captions.
        empty: The empty prompt.
        said: As the flow stage gets it.
        num_steps: Of each size; it needs five to be captured and replayed.
    """
    tables = flow.Conditioner(spec, source.device)
    batches = _Fixed(plan, source, num_steps)
    student, teacher = flow.build(spec, source.device), flow.build(spec, source.device)
    if source.device.type == "cuda":
        flow.compile_nets(student)
        flow.compile_transformer(teacher)
    state = flow.RunState(student.parameters, plan.flow.lr)
    flow.train(
        student, tables, batches.draw, empty, plan.flow, _stage("warm flow", num_steps * len(batches)),
        source.amp, state, said, plan.is_graphed,
    )  # fmt: skip
    _LOG.info("warm: the flow stage is compiled")
    del state
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the captured steps of flow hold memory that the stages beside may need
    state = flow.RunState(student.transformer.parameters, plan.distil.lr)
    rounds = distil.Rounds(
        teacher, tables, empty, lambda count: captions_of(source.arrays(count)), plan.distil, source.amp
    )
    distil.train(
        student, tables, rounds, plan.distil, _stage("warm distil", num_steps * len(plan.distil.sizes_px)),
        source.amp, state, plan.is_graphed,
    )  # fmt: skip
    _LOG.info("warm: the distil stage is compiled")


def _stage(name: str, num_steps: int) -> Stage:
    return Stage(name, _FOREVER_S, log_every=max(1, num_steps // 5), num_steps=num_steps)


class _Fixed:
    """One batch of each size, several times in a row: the loss must fall if the steps do anything."""

    def __init__(self, plan: Plan, source: SceneSource, num_steps: int) -> None:
        self._batches: list[tuple[Tensor, Captions, tuple[int, int]]] = []
        self._turn = num_steps
        for height_px, width_px in (Batches.SMALL, Batches.LARGE, Batches.WIDE, Batches.TALL, *RARE):
            count = batch_of((height_px, width_px), plan.batch_small, plan.batch_large)
            size = height_px // 8, width_px // 8
            tokens = torch.randn(count, size[0] * size[1] // 4, 64, device=source.device)
            self._batches.append((tokens.bfloat16(), captions_of(source.arrays(count)), size))

    def draw(self, step: int) -> tuple[Tensor, Captions, tuple[int, int]]:
        return self._batches[step // self._turn % len(self._batches)]

    def __len__(self) -> int:
        return len(self._batches)
