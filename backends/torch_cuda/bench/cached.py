"""The step cache: how often it takes over, what that does to pictures, and what that is worth at full size.

Random weights let nothing be taken over, so the bundled family says which evaluations of a walk are, and the
full-size model is then made to take over just those. The family is no FLUX.1, whose walks may differ.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from backends.torch_cuda.bench.context import Bench
from backends.torch_cuda.bench.figures import Figure
from backends.torch_cuda.bench.pictures import painters, peer_name, peer_s
from backends.torch_cuda.bench.studio import Pixels, Studio, psnr_db
from flux_core.pipeline import walk
from flux_core.request import Precision, StepCache
from flux_core.sampling.step_cache import BlockCache

CACHES = (StepCache.CAREFUL, StepCache.FAST)
MEMBERS = ("dev", "kontext", "fill")
PATTERNS = {
    StepCache.CAREFUL: ".......+.+.+.+.+.+.+.+.+.+..",
    StepCache.FAST: "....+.+.+.+.++.++.++.++.+.+.",
}
"""The bundled family's median walk of 28 steps, + where an evaluation was taken over, by `family-cache`.
ParaAttention's 1.55 and 1.91 times of FLUX.1 dev with these thresholds come to about as many, 10 and 13 of
28; which ones is not published."""

Made = Callable[..., BlockCache]


class Recorded(BlockCache):
    """Keeps which evaluations were taken over.

    Attributes:
        taken: Of every evaluation so far.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.taken: list[bool] = []

    def through(self, before: Any, after: Any, heard: Any, rest: Callable[[], Any], share: int = 1) -> Any:
        out = super().through(before, after, heard, rest, share)
        self.taken.append(self.is_hit)
        return out


class Replayed(BlockCache):
    """Takes over what a pattern says, and asks the device as often as if it decided by what it hears.

    Args:
        pattern: A sign for every evaluation of the walk, + to take over.
    """

    def __init__(self, pattern: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pattern = pattern
        self._preset = self._preset._replace(max_run=len(pattern))

    def _is_near(self, effect: Any) -> bool:
        super()._is_near(effect)
        return self._pattern[self.evaluations - 1] == "+"


@contextmanager
def caches_made_by(make: Made) -> Generator[None]:
    """Walks inside have caches of another make."""
    before = walk.BlockCache
    walk.BlockCache = make  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]
    try:
        yield
    finally:
        walk.BlockCache = before  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]


def family_cache(bench: Bench) -> None:
    """Walks of the family's members with each preset beside those without, in the run's last precision."""
    precision, steps = Precision(bench.precisions[-1]), bench.sizes.num_steps
    studio = Studio(bench.device, bench.sizes)
    made: dict[tuple[str, StepCache], list[Pixels]] = {}
    for member in MEMBERS:
        paint = functools.partial(studio.painted, member, num_steps=steps, precision=precision)
        made[member, StepCache.OFF] = paint()
        for cache in CACHES:
            what = f"{member}, {steps} steps, {precision.value}, {cache.value}"
            made[member, cache] = _recorded(bench, what, paint, cache)
    for (member, cache), pictures in made.items():
        what = f"{member}, {steps} steps, {precision.value}, {cache.value}"
        if cache is not StepCache.OFF:
            _tell_distance(bench, what, made[member, StepCache.OFF], pictures, studio)
        if member == "dev":  # the others' pictures show more than their words
            right = 100 * float(np.mean(studio.recognised(pictures)))
            bench.results.add(Figure("family-cache", f"{what}: shows its prompt", "%", right))


def _recorded(bench: Bench, what: str, paint: Callable[..., list[Pixels]], cache: StepCache) -> list[Pixels]:
    """Pictures with a preset; tells how often it took over."""
    found: list[Recorded] = []

    def make(*args: Any, **kwargs: Any) -> BlockCache:
        found.append(Recorded(*args, **kwargs))
        return found[-1]

    with caches_made_by(make):
        pictures = paint(step_cache=cache)
    taken = sorted((each.taken for each in found), key=sum)
    least, middle, most = taken[0], taken[len(taken) // 2], taken[-1]
    pattern = "".join("+" if hit else "." for hit in middle)
    bench.results.add(
        Figure("family-cache", f"{what}: taken over", "%", 100 * float(np.mean(taken)),
               note=f"{sum(least)} to {sum(most)} of {len(middle)}; the median picture: {pattern}")
    )  # fmt: skip
    return pictures


def _tell_distance(
    bench: Bench, what: str, whole: Sequence[Pixels], cached: Sequence[Pixels], studio: Studio
) -> None:
    """How far cached pictures are from the whole walk's, in pixels and to CLIP's eye."""
    decibels = [psnr_db(a, b) for a, b in zip(whole, cached, strict=True)]
    seen, found = np.split(studio.features([*whole, *cached]), 2)
    apart = 1 - (seen * found).sum(1)
    others = 1 - float(np.median((seen @ seen.T)[np.triu_indices(len(seen), 1)]))
    bench.results.add(
        Figure("family-cache", f"{what}: PSNR", "dB", float(np.mean(decibels)),
               note=f"against the walk without, worst {min(decibels):.1f}")
    )  # fmt: skip
    bench.results.add(
        Figure("family-cache", f"{what}: distance to CLIP", "1 - cosine", float(apart.mean()),
               note=f"worst {apart.max():.3f}; two different pictures are {others:.3f} apart")
    )  # fmt: skip


def cached(bench: Bench) -> None:
    """The long walk at the run's sizes, taking over what `PATTERNS` say."""
    sizes = bench.sizes
    what = f"{sizes.num_steps} steps, {sizes.txt_tokens} words"
    theirs = peer_s(bench, sizes.num_steps, sizes.txt_tokens)
    for painter in painters(bench):
        name = painter.precision.value
        plain = painter.best()
        for cache, whole in PATTERNS.items():
            pattern = whole[-sizes.num_steps :]

            def make(*args: Any, pattern: str = pattern, **kwargs: Any) -> BlockCache:
                return Replayed(pattern, *args, **kwargs)

            with caches_made_by(make):
                seconds = painter.best(step_cache=cache)
            taken = f"{pattern.count('+')} of {len(pattern)} taken over as in the bundled family"
            note = f"lossy; {taken}, {plain / seconds:.2f} times as quick: {painter.stages}"
            reach = 1.35 if name == "fp8" else None
            bench.results.add(
                Figure("cached", f"{what}, {name}, {cache.value}", "s", seconds, theirs, peer_name(bench),
                       reach=reach, note=note)
            )  # fmt: skip
