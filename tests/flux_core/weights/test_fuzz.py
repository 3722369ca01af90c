"""Mutated weights files are read soundly or refused by one typed error, within four times their size."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flux_core.weights import fuzz

CASES = 2000


def test_every_mutated_file_is_read_soundly_or_refused() -> None:
    tally = fuzz.run(first=0, cases=CASES)
    assert tally.failures == []
    assert sum(tally.outcomes.values()) == CASES
    assert len(tally.outcomes) == 6, "files of every kind are both read and refused"
    assert len(tally.reasons) > 60


def test_a_reader_that_crashes_or_allocates_would_be_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge itself: an untyped error and a large allocation both count as failures."""

    def careless(path: Path) -> None:
        bytearray(2**20)
        raise KeyError(path)

    monkeypatch.setattr(fuzz, "open_source", careless)
    tally = fuzz.Tally()
    fuzz.tracemalloc.start()
    fuzz.run_case(0, tmp_path, tally)
    fuzz.tracemalloc.stop()
    assert "KeyError" in tally.failures[0]
    assert tally.worst_ratio > 4
