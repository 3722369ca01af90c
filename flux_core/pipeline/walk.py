"""The walk from noise to a picture: the model as a velocity, and every picture's way along it.

A large picture may be walked in windows: each is a picture of the model's own size to it, and where windows
overlap their velocities are blended (Bar-Tal et al. 2023, MultiDiffusion), so that no border shows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.conditioning.packing import pack
from flux_core.messages import Stage
from flux_core.models.autoencoder import SCALE_FACTOR
from flux_core.models.transformer import Transformer
from flux_core.ops import Backend
from flux_core.pipeline.conditions import Branch, Conditions, Steering, rotary
from flux_core.pipeline.job import Job, Span
from flux_core.pipeline.told import Told
from flux_core.pipeline.windows import Window, windows_of
from flux_core.pipeline.workbench import Ready, as_it_is
from flux_core.sampling.known import KnownRegion, noised
from flux_core.sampling.noise import seeded_noise
from flux_core.sampling.solvers import walk
from flux_core.sampling.step_cache import PRESETS, BlockCache, Sparing

Floats = NDArray[np.float32]
Preview = Callable[[Any], Callable[[], str]]
"""Denoised tokens -> what makes a small picture of them without the device."""


class Velocity:
    """The model as a function of state and noise level; everything constant is made once.

    Args:
        backend: Where it runs.
        job: What is painted.
        evaluate: The model, as Transformer.modulated; as `Sparing.evaluated` where the job has a step cache.
        controlnets: By name.
        conditions: What it is told.
        told: What the noise levels do to it.
        tables: Rotary tables made so far, which windows of one size share.
        window: The part of the picture that it sees; None is all of it.
    """

    def __init__(
        self,
        backend: Backend,
        job: Job,
        evaluate: Callable[..., Any],
        controlnets: dict[str, Any],
        conditions: Conditions,
        told: Told,
        tables: dict[Any, Any],
        window: Window | None = None,
    ) -> None:
        self._backend = backend
        self._job = job
        self._evaluate = evaluate
        self._controlnets = controlnets
        self._conditions = conditions
        self._levels = job.levels
        size = window.size if window is not None else job.latent_size
        self._num_tokens = size[0] * size[1] // 4
        self._told = told

        def table(text_tokens: int, references: tuple[tuple[int, int], ...]) -> Any:
            key = text_tokens, size, references
            if key not in tables:
                tables[key] = backend.from_numpy(rotary(job, *key))
            return tables[key]

        branches = [branch for branch in (conditions.words, conditions.no_words) if branch is not None]
        self._tables = {
            id(branch): table(int(branch.txt.shape[1]), conditions.reference_sizes) for branch in branches
        }
        self._plain_table = table(conditions.words.plain_tokens, ()) if conditions.steering else None
        cut = window.of_tokens if window is not None else _whole
        self._channels = None if conditions.channels is None else cut(conditions.channels)
        self._maps = [_map_of(each, window) for each in conditions.steering]
        self._caches: dict[int, BlockCache] = {}

    def begin(self) -> None:
        """Forgets what steps of an earlier picture left, before the first step of the next."""
        job, conditions = self._job, self._conditions
        if not job.has_step_cache:
            return
        preset, steps = PRESETS[job.request.step_cache], job.num_steps - job.first_step
        targets = None if conditions.references is None else self._num_tokens
        leader = BlockCache(self._backend, preset, job.request.solver, steps, targets)
        self._caches = {id(conditions.words): leader}
        if conditions.no_words is not None:
            self._caches[id(conditions.no_words)] = BlockCache(
                self._backend, preset, job.request.solver, steps, targets, leader
            )

    def __call__(self, x: Any, sigma: float) -> Any:
        """State [1, L, 64] float32 -> velocity [1, L, 64] float32."""
        conditions, contrast = self._conditions, self._job.contrast
        residuals = self._residuals(x, sigma)
        v = self._evaluated(x, sigma, conditions.words, residuals)
        if conditions.no_words is None:
            return v
        without = self._evaluated(x, sigma, conditions.no_words, residuals)
        return without + (v - without) * contrast

    def _evaluated(self, x: Any, sigma: float, branch: Branch, residuals: Sequence[Any]) -> Any:
        backend, ops = self._backend, self._backend.ops
        img = backend.cast(x, self._job.precision)
        if self._channels is not None:
            img = ops.concat([img, self._channels], axis=2)
        if self._conditions.references is not None:
            img = ops.concat([img, self._conditions.references], axis=1)
        shown = [number for number, each in enumerate(branch.shown) if self._is_heard(each.span, sigma)]
        steering = self._conditions.steering
        speaking = [number for number, each in enumerate(steering) if self._is_heard(each.span, sigma)]
        cache = self._caches.get(id(branch))
        cached = {} if cache is None else {"cache": cache, "heard": (tuple(speaking), tuple(shown))}
        v = self._evaluate(
            img,
            branch.txt,
            self._told.at(branch, sigma),
            self._tables[id(branch)],
            residuals=residuals,
            image_prompts=[branch.shown[number].prompts for number in shown],
            bias=branch.bias,
            **cached,
        )
        return ops.cast_like(v[:, : self._num_tokens], x)

    def _residuals(self, x: Any, sigma: float) -> list[Any]:
        """What the ControlNets say that are heard at this level."""
        backend, words = self._backend, self._conditions.words
        if not self._conditions.steering:
            return []
        level = backend.from_numpy(np.full(1, sigma, np.float32))
        img = backend.cast(x, self._job.precision)
        txt = words.txt[:, : words.plain_tokens]
        return [
            self._controlnets[each.name](
                img, condition, txt, words.vec, level, self._told.guidance, self._plain_table,
                scale=each.strength, mode=each.mode,
            )
            for each, condition in zip(self._conditions.steering, self._maps, strict=True)
            if self._is_heard(each.span, sigma)
        ]  # fmt: skip

    def _is_heard(self, span: Span, sigma: float) -> bool:
        """Whether the step of a level lies in a part of the steps that are walked."""
        first = self._job.first_step
        return span.holds(self._step(sigma) - first, self._job.num_steps - first)

    def _step(self, sigma: float) -> int:
        """The step that a level belongs to: solvers may ask between two of them."""
        levels = self._levels
        return next((step for step in range(len(levels) - 2, 0, -1) if levels[step] >= sigma), 0)


class WindowedVelocity:
    """One velocity of many windows, blended on the host so that the device holds one window at a time.

    Args:
        backend: Where the windows are computed.
        job: What is painted.
        make: Makes the velocity of a window.
    """

    def __init__(self, backend: Backend, job: Job, make: Callable[[Window], Velocity]) -> None:
        self._backend = backend
        self._job = job
        height, width = job.latent_size
        self._grid = height // 2, width // 2
        windows = windows_of(height, width, job.spec.working_side_px // SCALE_FACTOR)
        self._velocities = [(window, make(window)) for window in windows]

    def begin(self) -> None:
        """As Velocity.begin, for every window."""
        for _, velocity in self._velocities:
            velocity.begin()

    def __call__(self, x: Any, sigma: float) -> Any:
        """State [1, L, 64] float32 -> velocity [1, L, 64] float32."""
        rows, columns = self._grid
        total = np.zeros((1, rows, columns, int(x.shape[2])), np.float32)
        for window, velocity in self._velocities:
            self._job.report.check()
            window.add(total, self._backend.to_numpy(velocity(window.of_tokens(x), sigma)))
        return self._backend.from_numpy(total.reshape(1, rows * columns, -1))


def walk_all(
    backend: Backend,
    job: Job,
    conditions: Conditions,
    transformer: Transformer,
    controlnets: dict[str, Any],
    preview: Preview | None,
    ready: Ready = as_it_is,
    ready_in_time: Ready = as_it_is,
    is_last: bool = False,
) -> list[Any]:
    """Every picture's final tokens [1, L, 64] float32.

    Args:
        backend: Where it happens.
        job: What is painted.
        conditions: What the model is told.
        transformer: The model.
        controlnets: By name.
        preview: Makes previews; None for none.
        ready: Makes the model ready for many evaluations.
        ready_in_time: Makes what it does before a walk, once for each kind of words, ready for later walks.
        is_last: Whether nobody needs the model after this; what the walk needs not is then let go before it.
    """
    told = Told(backend, job, conditions, ready_in_time(transformer.modulations))
    if is_last:
        transformer.modulator = None
    whole = Sparing(transformer, ready).evaluated if job.has_step_cache else transformer.modulated
    evaluate = ready(whole)
    make = functools.partial(Velocity, backend, job, evaluate, controlnets, conditions, told, {})
    velocity = WindowedVelocity(backend, job, make) if job.is_windowed else make()
    indices = range(job.request.num_images)
    return [_walk(backend, job, conditions, velocity, index, preview) for index in indices]


def _walk(
    backend: Backend,
    job: Job,
    conditions: Conditions,
    velocity: Velocity | WindowedVelocity,
    index: int,
    preview: Preview | None,
) -> Any:
    """Walks picture number `index`."""
    report, first, levels = job.report, job.first_step, job.levels
    height, width = job.latent_size
    grid = seeded_noise(job.seed(index), height, width, job.spec.autoencoder.latent_channels)
    noise = pack(backend.ops, backend.from_numpy(grid))
    x, known = noise, None
    if conditions.start is not None:
        x = noised(conditions.start, noise, levels[first])
        if conditions.freedom is not None:
            known = KnownRegion(backend, conditions.start, noise, conditions.freedom, job.num_steps)
    steps = job.num_steps - first
    total = steps * job.request.num_images
    before = index * steps - first  # steps of the pictures before; this one's begin with `first`
    shown: dict[int, Callable[[], None] | None] = {}

    def watch(step: int, x: Any, denoised: Callable[[], Any]) -> Callable[[], None]:
        # x - x is 0 where x is a number and NaN where not, so one number tells of all of them.
        told = backend.bring((x - x).sum())
        if preview is not None:
            shown[step] = report.preview(before + step + 1, lambda show=preview: show(denoised()))
        return lambda: job.check_finite(told(), f"after step {step + 1} of {job.num_steps}")

    def on_step(step: int, x: Any, denoised: Callable[[], Any]) -> Callable[[], None] | None:
        done = before + step + 1
        report.progress(Stage.DENOISING, done / total, done, total)
        report.check()
        return shown.pop(step, None)

    velocity.begin()
    waits = isinstance(velocity, WindowedVelocity)
    return walk(job.request.solver, backend, velocity, x, levels, first, known, on_step, watch, waits)


def _whole(x: Any) -> Any:
    return x


def _map_of(steering: Steering, window: Window | None) -> Any:
    """The part of a control map that a window sees."""
    if window is None:
        return steering.condition
    return (
        window.of_pixels(steering.condition) if steering.is_pixels else window.of_tokens(steering.condition)
    )
