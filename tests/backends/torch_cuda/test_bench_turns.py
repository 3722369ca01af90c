"""The arithmetic of turns: who goes when, for how long, and what a ratio is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backends.torch_cuda.bench_turns import FEWEST_TURNS, MOST_TURNS, Turns, compared


class Time:
    """Clocks of a machine on which only what says so takes time, and half of it on the processor."""

    def __init__(self) -> None:
        self.now_s = 0.0

    @property
    def clocks(self) -> tuple[Callable[[], float], Callable[[], float]]:
        return (lambda: self.now_s), (lambda: self.now_s / 2)

    def takes(self, seconds: float, done: Callable[[], None] = lambda: None) -> Callable[[], None]:
        def run() -> None:
            self.now_s += seconds
            done()

        return run


def test_a_ratio_is_the_median_over_the_turns_and_a_slow_machine_slows_both():
    found = compared([1.0, 8.0, 1.0, 1.0, 3.0], [2.0, 16.0, 1.0, 2.0, 2.0])
    assert (found.ours.min_s, found.ours.median_s, found.ours.max_s) == (1.0, 1.0, 8.0)
    assert (found.ratio_low, found.ratio, found.ratio_high) == (0.5, 0.5, 1.0)


def test_without_a_peer_there_is_no_ratio():
    time = Time()
    pair = Turns(1.0, clocks=time.clocks).pair("x", time.takes(0.5), None)
    assert (pair.wall.theirs, pair.wall.ratio, pair.cpu.ratio) == (None, None, None)
    assert (pair.wall.ours.median_s, pair.cpu.ours.median_s) == (0.5, 0.25)


def test_who_goes_first_alternates_after_warming_up():
    order: list[str] = []
    time = Time()
    ours, theirs = (time.takes(1.0, lambda name=name: order.append(name)) for name in ("ours", "theirs"))
    pair = Turns(0.0, clocks=time.clocks).pair("x", ours, theirs)
    assert pair.turns == FEWEST_TURNS == 3
    assert order == ["ours", "theirs", "ours", "theirs", "theirs", "ours", "ours", "theirs"]


@pytest.mark.parametrize(("takes_s", "turns"), [(100.0, FEWEST_TURNS), (1.0, 5), (0.001, MOST_TURNS)])
def test_turns_go_on_until_the_time_is_over_but_are_neither_too_few_nor_too_many(takes_s, turns):
    time = Time()
    run = time.takes(takes_s)
    pair = Turns(10.0, warms_up=False, clocks=time.clocks).pair("x", run, run)
    assert pair.turns == turns
    assert time.now_s == pytest.approx(2 * turns * takes_s)


def test_who_waits_is_told_how_far_it_is_and_what_was_found_so_far():
    told: list[tuple[str, float]] = []
    time = Time()
    turns = Turns(8.0, watch=lambda *said: told.append(said), clocks=time.clocks)
    turns.pair("x", time.takes(0.5), time.takes(2.5))
    assert told == [
        ("warming up", 0.0),
        ("1 turn, 0.20 of diffusers' time", 1 / 3),
        ("2 turns, 0.20 of diffusers' time", 2 / 3),
    ]
