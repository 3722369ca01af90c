"""How two engines take turns at the same thing, and what their times say.

Both live in one process and what they do is short, so whatever else a machine does slows both; a ratio is the
median over the pairs of one turn. Beside the time on the wall stands the processor's time of all threads,
which a busy machine stretches less. What takes long is done seldom, so that every figure costs about as much.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OURS, THEIRS = "flowbrush", "diffusers"
FEWEST_TURNS, MOST_TURNS = 3, 40

Clock = Callable[[], float]
CLOCKS: tuple[Clock, Clock] = (time.perf_counter, time.process_time)
"""Seconds: on the wall, and of all threads of this process."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds of the same thing, several times."""

    min_s: float
    median_s: float
    max_s: float


@dataclass(frozen=True, slots=True)
class Compared:
    """By one clock, one thing that both did in turn.

    Attributes:
        ratio: Ours to theirs, the median over the turns; None without diffusers.
        ratio_low, ratio_high: The middle half of the turns' ratios lies between them.
    """

    ours: Spread
    theirs: Spread | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None


@dataclass(frozen=True, slots=True)
class Pair:
    """One thing that both did in turn.

    Attributes:
        what: Of which kind, and how large.
        turns: How often each did it, but for warming up.
        wall: By the clock on the wall.
        cpu: By the processor's time of all threads.
        largest_difference: Of any value (0 to 255) of the two first pictures; None where nothing is painted.
    """

    what: str
    turns: int
    wall: Compared
    cpu: Compared
    largest_difference: int | None = None


class Turns:
    """How ours and theirs take turns at one thing.

    Args:
        seconds: After which no further turn begins.
        warms_up: Whether both do it once before.
        watch: Told how far it is before each turn: in words, and in [0, 1].
        clocks: For the wall and the processor; the first says when the time is over.
    """

    def __init__(
        self,
        seconds: float,
        warms_up: bool = True,
        watch: Callable[[str, float], None] = lambda detail, done: None,
        clocks: tuple[Clock, Clock] = CLOCKS,
    ) -> None:
        self._seconds = seconds
        self._warms_up = warms_up
        self._watch = watch
        self._clocks = clocks

    def pair(self, what: str, ours: Callable[[], Any], theirs: Callable[[], Any] | None) -> Pair:
        """In each turn both do it once; who goes first alternates."""
        runs = {OURS: ours} if theirs is None else {OURS: ours, THEIRS: theirs}
        took: dict[str, list[tuple[float, ...]]] = {name: [] for name in runs}
        self._watch("warming up" if self._warms_up else "", 0.0)
        for run in runs.values() if self._warms_up else ():
            run()
        began = self._clocks[0]()
        while (turns := len(took[OURS])) < MOST_TURNS:
            passed = self._clocks[0]() - began
            if turns >= FEWEST_TURNS and passed >= self._seconds:
                break
            if turns:
                share = passed / self._seconds if passed < self._seconds else 1.0
                self._watch(_so_far(took), min(share, turns / FEWEST_TURNS))
            for name in list(runs) if turns % 2 == 0 else reversed(runs):
                took[name].append(self._seconds_of(runs[name]))
        wall, cpu = (
            compared([each[i] for each in took[OURS]], [each[i] for each in took[THEIRS]] if theirs else None)
            for i in range(2)
        )
        return Pair(what, turns, wall, cpu)

    def _seconds_of(self, run: Callable[[], Any]) -> tuple[float, ...]:
        before = [clock() for clock in self._clocks]
        run()
        return tuple(clock() - then for clock, then in zip(self._clocks, before, strict=True))


def compared(ours_s: list[float], theirs_s: list[float] | None) -> Compared:
    """The figures of the turns, in their order."""
    if theirs_s is None:
        return Compared(_spread(ours_s), None, None, None, None)
    ratios = sorted(a / b for a, b in zip(ours_s, theirs_s, strict=True))
    quarter = (len(ratios) - 1) // 4
    low, high = ratios[quarter], ratios[-1 - quarter]
    return Compared(_spread(ours_s), _spread(theirs_s), statistics.median(ratios), low, high)


def _so_far(took: dict[str, list[tuple[float, ...]]]) -> str:
    turns = len(took[OURS])
    words = f"{turns} {'turn' if turns == 1 else 'turns'}"
    if THEIRS not in took:
        return words
    ratio = statistics.median(a[0] / b[0] for a, b in zip(took[OURS], took[THEIRS], strict=True))
    return f"{words}, {ratio:.2f} of {THEIRS}' time"


def _spread(seconds: list[float]) -> Spread:
    return Spread(min(seconds), statistics.median(seconds), max(seconds))
