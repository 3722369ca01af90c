"""The bar of a look runs to its end, and one look for a map leaves the rest of the bar to the painting."""

from __future__ import annotations

from flux_core.messages import Preview, Progress, Stage
from flux_core.reporting import Report


def test_a_look_that_is_done_has_run_to_the_end() -> None:
    said: list[Progress | Preview] = []
    report = Report(said.append, lambda: False)
    report.progress(Stage.LOADING, 1.0)
    report.progress(Stage.LOOKING, 0.5)
    report.progress(Stage.LOOKING, 1.0)
    fractions = [message.fraction for message in said if isinstance(message, Progress)]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
