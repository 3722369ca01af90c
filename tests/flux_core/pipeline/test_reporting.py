"""What a job says while it runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flux_core.errors import Cancelled
from flux_core.messages import Preview, Progress, Stage
from flux_core.reporting import Report


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make(
    clock: Callable[[], float], is_cancelled: Callable[[], bool] = lambda: False
) -> tuple[Report, list[Progress | Preview]]:
    said: list[Progress | Preview] = []
    return Report(said.append, is_cancelled, clock), said


def test_the_fraction_never_falls_even_if_a_part_is_loaded_late() -> None:
    report, said = make(Clock())
    for stage, done in [
        (Stage.LOADING, 1.0),
        (Stage.ENCODING, 1.0),
        (Stage.LOADING, 0.5),
        (Stage.DENOISING, 0.1),
        (Stage.LOADING, 1.0),
        (Stage.DECODING, 1.0),
    ]:
        report.progress(stage, done)
    fractions = [message.fraction for message in said if isinstance(message, Progress)]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_seconds_of_a_stage_add_up() -> None:
    clock = Clock()
    report, _ = make(clock)
    for seconds in (2.0, 3.0):
        with report.stage(Stage.DECODING):
            clock.now += seconds
    assert report.seconds == {"decoding": 5.0}


def test_at_most_three_previews_a_second() -> None:
    clock = Clock()
    report, said = make(clock)
    for step in range(100):
        send = report.preview(step, lambda: lambda: "")
        if send is not None:
            send()
        clock.now += 0.05  # five seconds in all
    assert 2 <= len(said) <= 15
    assert said[0] == Preview(webp_base64="", step=0)


def test_a_preview_that_is_not_due_is_not_made() -> None:
    report, said = make(Clock())
    send = report.preview(1, lambda: lambda: "")
    assert report.preview(2, lambda: pytest.fail("made a preview that nobody sees")) is None
    assert said == []
    assert send is not None
    send()
    assert len(said) == 1


def test_no_stage_begins_after_a_cancel() -> None:
    report, said = make(Clock(), is_cancelled=lambda: True)
    with pytest.raises(Cancelled), report.stage(Stage.DENOISING):
        pytest.fail("began")
    assert said == []
