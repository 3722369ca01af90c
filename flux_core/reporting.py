"""What a job says while it runs: progress that never falls, previews that never crowd, cancel obeyed.

One report belongs to one run of one job. It also keeps the time of each stage, because the stages
are announced here anyway.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from flux_core.errors import Cancelled
from flux_core.messages import Preview, Progress, Stage

PREVIEW_INTERVAL_S = 0.34  # at most three a second

# Where each stage lies in the whole, as measured on a warm job.
_SPANS: dict[Stage, tuple[float, float]] = {
    Stage.LOADING: (0.0, 0.08),
    Stage.ENCODING: (0.08, 0.14),
    Stage.DENOISING: (0.14, 0.92),
    Stage.DECODING: (0.92, 1.0),
    Stage.LOOKING: (0.08, 1.0),
}


class Report:
    """Speaks for one job.

    Args:
        say: Takes progress and previews.
        is_cancelled: Whether the person has stopped the job.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        say: Callable[[Progress | Preview], None],
        is_cancelled: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say = say
        self._is_cancelled = is_cancelled
        self._clock = clock
        self._fraction = 0.0
        self._last_preview: float | None = None
        self.seconds: dict[str, float] = {}

    def check(self) -> None:
        """Raises Cancelled if the job is no longer wanted."""
        if self._is_cancelled():
            raise Cancelled("The job was cancelled.")

    @contextmanager
    def stage(self, stage: Stage) -> Generator[None]:
        """Announces a stage and adds up its time; asks for a cancel before it."""
        self.check()
        self.progress(stage, 0.0)
        start = self._clock()
        try:
            yield
        finally:
            self.seconds[stage.value] = self.seconds.get(stage.value, 0.0) + self._clock() - start

    def progress(self, stage: Stage, done: float, step: int = 0, num_steps: int = 0) -> None:
        """Says that `done` in [0, 1] of a stage is over."""
        begin, end = _SPANS[stage]
        self._fraction = max(self._fraction, begin + (end - begin) * done)
        self._say(Progress(stage=stage, fraction=self._fraction, step=step, num_steps=num_steps))

    def preview(self, step: int, begin: Callable[[], Callable[[], str]]) -> Callable[[], None] | None:
        """Begins the preview of a step, unless the last one is too fresh.

        Args:
            step: That it shows.
            begin: Begins to take what is to be seen from the device; what it gives makes base64 WebP of that.

        Returns:
            What makes and sends it, for when the device is busy with something else; None if it is not due.
        """
        now = self._clock()
        if self._last_preview is not None and now - self._last_preview < PREVIEW_INTERVAL_S:
            return None
        self._last_preview = now
        make = begin()
        return lambda: self._say(Preview(webp_base64=make(), step=step))
