"""A stage of training ends in time and leaves what the next run needs."""

import time

from backends.torch_cuda.training.clock import Stage


def test_a_stage_whose_deadline_has_passed_trains_one_step_and_saves():
    saved: list[int] = []
    stage = Stage("late", 60.0, deadline=time.monotonic() - 1, save=lambda stage: saved.append(stage.step))
    assert list(stage.steps()) == [0]
    assert saved == [1]


def test_a_stage_that_goes_on_counts_from_where_it_stopped():
    stage = Stage("again", 60.0, used_s=30.0, first_step=700, deadline=time.monotonic() - 1)
    assert list(stage.steps()) == [700]
    assert 0.5 <= stage.fraction < 0.6


def test_a_stage_saves_on_the_way():
    saved: list[int] = []
    stage = Stage("long", 60.0, save=lambda stage: saved.append(stage.step), save_every_s=0.0)
    steps = stage.steps()
    for _ in range(4):
        next(steps)
    assert saved == [2, 3]


def test_a_stage_ends_when_its_seconds_are_used():
    stage = Stage("done", 60.0, used_s=60.0, first_step=5)
    assert list(stage.steps()) == [5]
    assert stage.fraction == 1.0


def test_a_stage_ends_after_its_steps():
    assert list(Stage("brief", 60.0, first_step=5, num_steps=3).steps()) == [5, 6, 7]
    assert list(Stage("one", 60.0, num_steps=1).steps()) == [0]
