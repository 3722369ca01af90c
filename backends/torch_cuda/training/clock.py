"""A stage of training: how long it may last, how far it is, and what it logs.

Stages are measured in seconds, not steps, because GPU time is what is scarce; schedules follow the
fraction of time used, so a stage that is resumed goes on where it stopped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from torch import Tensor

_LOG = logging.getLogger(__name__)


class Stage:
    """Counts steps and seconds of one stage.

    Args:
        name: For the log.
        total_s: Length of the whole stage in seconds, over all its runs.
        used_s, first_step: What earlier runs used.
        deadline: time.monotonic() at which this run of the stage stops, done or not.
        log_every: Steps between log lines.
        save: Called every `save_every_s` seconds and when the steps end, so that a cut costs little.
        num_steps: Stop after so many steps of this run even if time is left.
    """

    def __init__(
        self,
        name: str,
        total_s: float,
        used_s: float = 0.0,
        first_step: int = 0,
        deadline: float = float("inf"),
        log_every: int = 250,
        save: Callable[[Stage], None] | None = None,
        save_every_s: float = 90.0,
        num_steps: int | None = None,
    ) -> None:
        self.name = name
        self.total_s = total_s
        self.step = first_step
        self._before_s = used_s
        self._deadline = deadline
        self._save = save
        self._save_every_s = save_every_s
        self._end_step = float("inf") if num_steps is None else first_step + num_steps
        self._log_every = log_every
        self._start: float | None = None
        self._last = (first_step, 0.0)
        self._sums: dict[str, float | Tensor] = {}
        self._count = 0

    @property
    def used_s(self) -> float:
        """Seconds used so far, over all runs."""
        return self._before_s + (time.monotonic() - self._start if self._start is not None else 0.0)

    @property
    def fraction(self) -> float:
        """How much of the stage is over, in [0, 1]."""
        return min(1.0, self.used_s / self.total_s)

    def steps(self) -> Iterator[int]:
        """Step numbers until time is up. The stage's clock starts after the first step (compilation)."""
        yield self.step
        self.step += 1
        self._start = saved = time.monotonic()
        self._last = (self.step, self._start)
        while self.step < self._end_step and self.used_s < self.total_s and time.monotonic() < self._deadline:
            yield self.step
            self.step += 1
            if self._save is not None and time.monotonic() - saved > self._save_every_s:
                self._save(self)
                saved = time.monotonic()
        if self._save is not None:
            self._save(self)

    def log(self, step: int, **values: float | Tensor) -> None:
        """Adds values to the running means and writes them every `log_every` steps."""
        for name, value in values.items():
            add = value.detach() if isinstance(value, Tensor) else value
            self._sums[name] = self._sums.get(name, 0.0) + add
        self._count += 1
        if (step + 1) % self._log_every:
            return
        means = {name: float(total) / self._count for name, total in self._sums.items()}
        now, (last_step, last_time) = time.monotonic(), self._last
        rate = (step + 1 - last_step) / max(now - last_time, 1e-9)
        text = " ".join(f"{name} {value:.4g}" for name, value in means.items())
        _LOG.info("%s %5.0fs step %d %.1f/s %s", self.name, self.used_s, step + 1, rate, text)
        self._last = (step + 1, now)
        self._sums.clear()
        self._count = 0
