"""What a command says of its progress where there is no terminal."""

from __future__ import annotations

from desktop.commands.progress import Lines


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_new_stage_is_a_line_and_a_long_one_is_a_line_every_ten_seconds():
    clock, said = Clock(), []
    lines = Lines(said.append, clock)
    lines.tell("Loading")
    for second in range(26):
        clock.now = second
        lines.tell("Denoising", f"{second}/30")
    lines.tell("Decoding")
    assert said == [
        "Loading",
        "Denoising 0/30",
        "Denoising 10/30 (10 s)",
        "Denoising 20/30 (20 s)",
        "Decoding",
    ]


def test_a_stage_in_which_nothing_happens_is_still_said():
    clock, said = Clock(), []
    lines = Lines(said.append, clock)
    lines.remind()
    assert said == []
    lines.tell("Loading")
    for second in range(0, 31, 5):
        clock.now = second
        lines.remind()
    assert said == ["Loading", "Loading (10 s)", "Loading (20 s)", "Loading (30 s)"]
