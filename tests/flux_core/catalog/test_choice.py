"""Where nobody names a model, what is here and was made for the task is taken."""

from __future__ import annotations

import pytest

from flux_core import catalog
from flux_core.errors import RequestInvalid
from flux_core.request import ControlKind, Task

BUNDLED = {spec.model for spec in catalog.MODELS.values() if spec.is_bundled}
BARE = [
    (Task.GENERATE, "tiny"),
    (Task.TRANSFORM, "tiny"),
    (Task.FILL, "tiny-fill"),
    (Task.EDIT, "tiny-kontext"),
    (Task.VARY, "tiny"),
    (Task.UPSCALE, "tiny"),
    (Task.CONTROL, "tiny"),
]


@pytest.mark.parametrize(("task", "model"), BARE)
def test_on_a_bare_machine_each_task_takes_the_member_that_was_made_for_it(task: Task, model: str) -> None:
    assert catalog.choose(task, BUNDLED).model == model


def test_a_quick_picture_takes_few_steps_and_any_other_does_not() -> None:
    assert catalog.choose(Task.GENERATE, BUNDLED, is_quick=True).model == "tiny-schnell"
    here = {"tiny", "tiny-schnell", "flux1-schnell"}
    assert catalog.choose(Task.GENERATE, here, is_quick=True).model == "flux1-schnell"
    assert catalog.choose(Task.GENERATE, {*here, "flux1-dev"}).model == "flux1-dev"


def test_a_published_model_goes_before_the_bundled_one_if_it_is_here() -> None:
    assert catalog.choose(Task.EDIT, {*BUNDLED, "flux1-kontext-dev"}).model == "flux1-kontext-dev"
    assert catalog.choose(Task.FILL, {*BUNDLED, "flux1-dev"}).model == "flux1-dev"
    assert catalog.choose(Task.FILL, {*BUNDLED, "flux1-dev", "flux1-fill-dev"}).model == "flux1-fill-dev"


def test_a_map_goes_to_a_model_that_follows_its_kind() -> None:
    for kind, row in ((ControlKind.CANNY, "tiny-canny-lora"), (ControlKind.DEPTH, "tiny-depth-lora")):
        assert catalog.choose(Task.CONTROL, BUNDLED, kind=kind).model == "tiny"
        assert catalog.follower(catalog.TINY, kind) == row
    here = {*BUNDLED, "flux1-dev", "flux1-canny-dev"}
    assert catalog.choose(Task.CONTROL, here, kind=ControlKind.CANNY).model == "flux1-canny-dev"
    assert catalog.choose(Task.CONTROL, here, kind=ControlKind.DEPTH).model == "tiny"
    assert catalog.choose(Task.CONTROL, here).model == "flux1-dev"
    with pytest.raises(RequestInvalid, match="No model follows pose by itself") as caught:
        catalog.choose(Task.CONTROL, here, kind=ControlKind.POSE)
    assert "--controlnet" in caught.value.hint


def test_what_is_here_goes_before_what_would_be_better() -> None:
    assert catalog.choose(Task.FILL, {"tiny"}).model == "tiny"
    assert catalog.choose(Task.EDIT, {"tiny", "flux1-kontext-dev"}).model == "flux1-kontext-dev"
    assert catalog.choose(Task.EDIT, set()).model == "tiny-kontext", "it should be here"
