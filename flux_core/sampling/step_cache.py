"""First-block caching: a step that will change little takes over what most blocks did the last time.

The first double block is always computed. If its effect on the image stream is nearly that of the last
whole evaluation, so will be the effect of all the other blocks, and it is added instead of computed.

Source: First Block Cache (ParaAttention, README; the idea of TeaCache, Liu et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from flux_core.catalog import ModelSpec
from flux_core.ops import Backend
from flux_core.request import Precision, Solver, StepCache
from flux_core.sampling.solvers import evaluations_of

MIN_STEPS = 10  # below, neighbouring steps differ too much for anything to be taken over


class Preset(NamedTuple):
    """When an evaluation is taken over.

    Attributes:
        threshold: Mean absolute change of the first block's effect, relative to the effect's own mean
            absolute value, below which it is.
        max_run: Evaluations in a row that may be.
    """

    threshold: float
    max_run: int


PRESETS = {StepCache.CAREFUL: Preset(0.08, max_run=2), StepCache.FAST: Preset(0.12, max_run=4)}
"""Thresholds: ParaAttention's two for FLUX.1-dev at 28 steps (documentation of diffusers, optimization/
para_attn): 0.08 is its default, 1.55 times as fast there; with 0.12 it is 1.9 times. Its runs have no
bound; ours do, so that one wrong decision is mended within a few steps."""


def is_worth_it(num_steps: int, spec: ModelSpec) -> bool:
    """Whether steps may be taken over at all.

    Args:
        num_steps: That are walked.
        spec: A model that was made for few steps changes much in each, however many are asked for.
    """
    return min(num_steps, spec.num_steps) >= MIN_STEPS


class BlockCache:
    """What one kind of evaluation (with the prompt, or without) remembers during one walk.

    Holds two arrays of the image stream's size and precision. Never takes over the first or the last
    step, nor anything when other ControlNets or image prompts speak than before.

    Args:
        backend: Where the model computes; asked for one number per evaluation.
        preset: When an evaluation is taken over.
        solver: Of the walk.
        num_steps: Of the walk.
        target_tokens: How many tokens of the image stream, from the first on, are the picture; None for
            all. Reference pictures hardly change and would make every step look small.
        leader: The cache of the step's evaluation with the prompt, made before this one; None decides
            alone. A step of two evaluations goes along their difference, several times it, so one of
            them old and the other new does more harm than both being old: this one then follows.

    Attributes:
        is_hit: Whether the last evaluation was taken over.
        hits: Evaluations that were taken over.
        evaluations: All so far.
    """

    def __init__(
        self,
        backend: Backend,
        preset: Preset,
        solver: Solver,
        num_steps: int,
        target_tokens: int | None = None,
        leader: BlockCache | None = None,
    ) -> None:
        self._backend = backend
        self._preset = preset
        self._first_free = 2 if solver is Solver.HEUN else 1  # evaluations of the first step
        self._last = evaluations_of(solver, num_steps) - 1
        self._target_tokens = target_tokens
        self._leader = leader
        self._heard: Hashable = None
        self._effect: Any = None
        self._rest: Any = None
        self._run = 0
        self.is_hit = False
        self.hits = 0
        self.evaluations = 0

    def through(
        self, before: Any, after: Any, heard: Hashable, rest: Callable[[], Any], share: int = 1
    ) -> Any:
        """The image stream after all blocks.

        Args:
            before: [B, L_img, D], the stream that entered the first block.
            after: The same after it, with what ControlNets added.
            heard: Whatever must be as it was at the last whole evaluation.
            rest: Computes the other blocks.
            share: Every so manieth token is here, from the first on; the others are elsewhere.
        """
        number, self.evaluations = self.evaluations, self.evaluations + 1
        targets = None if self._target_tokens is None else -(-self._target_tokens // share)
        effect = (after - before)[:, :targets]
        may_hit = self._first_free <= number < self._last and self._run < self._preset.max_run
        self.is_hit = may_hit and heard == self._heard and self._is_near(effect)
        if self.is_hit:
            self.hits += 1
            self._run += 1
            return after + self._rest
        out = rest()
        self._heard, self._effect, self._rest, self._run = heard, effect, out - after, 0
        self._backend.evaluate(self._effect, self._rest)  # or MLX keeps what they are made from
        return out

    def _is_near(self, effect: Any) -> bool:
        """Whether an effect is nearly that of the last whole evaluation; never if it is not a number."""
        if self._leader is not None:
            return self._leader.is_hit and self._leader.evaluations == self.evaluations
        change = float(self._backend.to_numpy(self.change(effect)))
        return change < self._preset.threshold

    def change(self, effect: Any) -> Any:
        """How far an effect is from that of the last whole evaluation, relative to it; one number."""
        cast = self._backend.cast  # sums of bfloat16 are not exact enough
        last = cast(self._effect, Precision.FP32)
        return abs(cast(effect, Precision.FP32) - last).mean() / abs(last).mean()


class Sparing:
    """A model's evaluation whose greater part a cache may spare.

    Args:
        model: A transformer, in parts: `begun`, `rest` and `finished`.
        ready: Makes each part ready for many calls; the decision between them is the host's.

    Attributes:
        model: As given.
    """

    def __init__(self, model: Any, ready: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self.model = model
        self._begun, self._rest, self._finished = ready(model.begun), ready(model.rest), ready(model.finished)

    def evaluated(
        self, img: Any, txt: Any, rows: Any, pe: Any, *, cache: BlockCache, heard: Hashable, **told: Any
    ) -> Any:
        """As `Transformer.modulated`, as `cache` decides.

        What is `heard` are ControlNets and IP-Adapters: nothing is taken over across a change.
        """
        before, after, words = self._begun(img, txt, rows, pe, **told)
        voices = heard, len(told.get("residuals", ())), len(told.get("image_prompts", ()))
        out = cache.through(before, after, voices, lambda: self._rest(after, words, rows, pe, **told))
        return self._finished(out, rows)
