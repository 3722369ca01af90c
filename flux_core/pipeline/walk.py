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
from flux_core.ops import Backend
from flux_core.pipeline.conditions import Branch, Conditions, Steering, rotary
from flux_core.pipeline.job import Job
from flux_core.pipeline.windows import Window, windows_of
from flux_core.sampling.noise import seeded_noise
from flux_core.sampling.solvers import KnownRegion, euler, noised

Floats = NDArray[np.float32]
Preview = Callable[[Any], str]
"""Denoised tokens -> a small picture."""


class Velocity:
    """The model as a function of state and noise level; everything constant is made once.

    Args:
        backend: Where it runs.
        job: What is painted.
        transformer: The model.
        controlnets: By name.
        conditions: What it is told.
        window: The part of the picture that it sees; None is all of it.
    """

    def __init__(
        self,
        backend: Backend,
        job: Job,
        transformer: Any,
        controlnets: dict[str, Any],
        conditions: Conditions,
        window: Window | None = None,
    ) -> None:
        self._backend = backend
        self._job = job
        self._transformer = transformer
        self._controlnets = controlnets
        self._conditions = conditions
        self._window = window
        self._levels = job.levels
        size = window.size if window is not None else job.latent_size
        self._num_tokens = size[0] * size[1] // 4
        told = job.guidance if job.spec.is_guidance_distilled else 1.0
        guides = job.spec.transformer.has_guidance
        self._guidance = backend.from_numpy(np.full(1, told, np.float32))
        self._has_guidance = guides
        branches = [branch for branch in (conditions.words, conditions.no_words) if branch is not None]
        references = conditions.reference_sizes
        self._tables = {
            id(branch): backend.from_numpy(rotary(job, int(branch.txt.shape[1]), size, references))
            for branch in branches
        }
        plain = conditions.words.plain_tokens
        self._plain_table = backend.from_numpy(rotary(job, plain, size, ())) if conditions.steering else None
        cut = window.of_tokens if window is not None else _whole
        self._channels = None if conditions.channels is None else cut(conditions.channels)
        self._maps = [_map_of(each, window) for each in conditions.steering]

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
        backend, ops, step = self._backend, self._backend.ops, self._step(sigma)
        img = backend.cast(x, self._job.precision)
        if self._channels is not None:
            img = ops.concat([img, self._channels], axis=2)
        if self._conditions.references is not None:
            img = ops.concat([img, self._conditions.references], axis=1)
        num_steps = len(self._levels) - 1
        shown = [each.prompts for each in branch.shown if each.span.holds(step, num_steps)]
        v = self._transformer(
            img,
            branch.txt,
            branch.vec,
            backend.from_numpy(np.full(1, sigma, np.float32)),
            self._guidance if self._has_guidance else None,
            self._tables[id(branch)],
            residuals=residuals,
            image_prompts=shown,
            bias=branch.bias,
        )
        return ops.cast_like(v[:, : self._num_tokens], x)

    def _residuals(self, x: Any, sigma: float) -> list[Any]:
        """What the ControlNets say that are heard at this level."""
        backend, words, step = self._backend, self._conditions.words, self._step(sigma)
        level = backend.from_numpy(np.full(1, sigma, np.float32))
        img = backend.cast(x, self._job.precision)
        txt = words.txt[:, : words.plain_tokens]
        num_steps = len(self._levels) - 1
        return [
            self._controlnets[each.name](
                img, condition, txt, words.vec, level, self._guidance, self._plain_table,
                scale=each.strength, mode=each.mode,
            )
            for each, condition in zip(self._conditions.steering, self._maps, strict=True)
            if each.span.holds(step, num_steps)
        ]  # fmt: skip

    def _step(self, sigma: float) -> int:
        """The step that a level belongs to: solvers may ask between two of them."""
        levels = self._levels
        return next((step for step in range(len(levels) - 2, 0, -1) if levels[step] >= sigma), 0)


def walk_all(
    backend: Backend,
    job: Job,
    conditions: Conditions,
    transformer: Any,
    controlnets: dict[str, Any],
    preview: Preview | None,
) -> list[Any]:
    """Every picture's final tokens [1, L, 64] float32."""
    make = functools.partial(Velocity, backend, job, transformer, controlnets, conditions)
    velocity = _windowed(backend, job, make) if job.is_windowed else make()
    indices = range(job.request.num_images)
    return [_walk(backend, job, conditions, velocity, index, preview) for index in indices]


def _walk(
    backend: Backend,
    job: Job,
    conditions: Conditions,
    velocity: Callable[[Any, float], Any],
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

    def on_step(step: int, x: Any, denoised: Callable[[], Any]) -> None:
        job.check_finite(backend.to_numpy(x), f"after step {step + 1} of {job.num_steps}")
        done = index * steps + step - first + 1
        report.progress(Stage.DENOISING, done / total, done, total)
        if preview is not None:
            report.preview(done, lambda show=preview: show(denoised()))
        report.check()

    return euler(backend, velocity, x, levels, first, known, on_step)


def _windowed(backend: Backend, job: Job, make: Callable[..., Velocity]) -> Callable[[Any, float], Any]:
    """One velocity of many windows, blended on the host so that the device holds one window at a time."""
    height, width = job.latent_size
    windows = windows_of(height, width, job.spec.working_side_px // SCALE_FACTOR)
    velocities = [make(window) for window in windows]

    def velocity(x: Any, sigma: float) -> Any:
        total = np.zeros((1, height // 2, width // 2, int(x.shape[2])), np.float32)
        for window, of_window in zip(windows, velocities, strict=True):
            job.report.check()
            v = backend.to_numpy(of_window(window.of_tokens(x), sigma))
            window.add(total, v)
        return backend.from_numpy(total.reshape(1, height * width // 4, -1))

    return velocity


def _whole(x: Any) -> Any:
    return x


def _map_of(steering: Steering, window: Window | None) -> Any:
    """The part of a control map that a window sees."""
    if window is None:
        return steering.condition
    return (
        window.of_pixels(steering.condition) if steering.is_pixels else window.of_tokens(steering.condition)
    )
