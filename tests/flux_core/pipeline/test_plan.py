"""What each task loads, in which order, and what it weighs."""

from __future__ import annotations

import pytest

from flux_core.catalog import DEV, SCHNELL, TINY, ModelSpec
from flux_core.messages import Stage
from flux_core.plan import Component, make_plan, num_values
from flux_core.request import GenerationRequest, Task, build_request

BLOB = "0" * 64
TEXT = (Component.CLIP, Component.T5)
PICTURE = (*TEXT, Component.VAE_ENCODER, Component.TRANSFORMER, Component.VAE_DECODER)


def request_for(task: Task) -> GenerationRequest:
    image = None if task is Task.GENERATE else BLOB
    return build_request(task=task, image=image, mask=BLOB if task is Task.FILL else None)


@pytest.mark.parametrize(
    ("task", "components"),
    [
        (Task.GENERATE, (*TEXT, Component.TRANSFORMER, Component.VAE_DECODER)),
        (Task.TRANSFORM, PICTURE),
        (Task.FILL, PICTURE),
    ],
)
@pytest.mark.parametrize("spec", [TINY, DEV, SCHNELL], ids=lambda spec: spec.model)
def test_each_task_loads_what_it_needs_and_nothing_else(
    task: Task, components: tuple[Component, ...], spec: ModelSpec
) -> None:
    assert make_plan(request_for(task), spec, 2).components == components


@pytest.mark.parametrize("task", list(Task))
def test_stages_come_in_the_order_the_person_is_told(task: Task) -> None:
    order = list(Stage)
    stages = [order.index(step.stage) for step in make_plan(request_for(task), TINY, 4).steps]
    assert stages == sorted(stages)


@pytest.mark.parametrize("task", list(Task))
def test_each_part_is_used_once_so_that_it_can_be_freed_at_once(task: Task) -> None:
    components = make_plan(request_for(task), TINY, 4).components
    assert len(set(components)) == len(components)


@pytest.mark.parametrize(
    ("spec", "component", "values"),
    [  # counted on the published files
        (DEV, Component.TRANSFORMER, 11_901_408_320),
        (SCHNELL, Component.TRANSFORMER, 11_891_178_560),
        (DEV, Component.T5, 4_762_310_656),
        (DEV, Component.CLIP, 123_060_480),
        (DEV, Component.VAE_ENCODER, 34_274_208),
        (DEV, Component.VAE_DECODER, 49_545_475),
    ],
)
def test_parts_weigh_what_the_published_files_do(spec: ModelSpec, component: Component, values: int) -> None:
    assert num_values(spec, component) == values


def test_freeing_each_part_after_its_stage_makes_the_transformer_the_peak() -> None:
    plan = make_plan(request_for(Task.FILL), DEV, 2)
    assert plan.sequential_bytes == 11_901_408_320 * 2
    assert plan.resident_bytes == sum(step.weight_bytes for step in plan.steps) > plan.sequential_bytes


def test_float32_weighs_twice_as_much_as_bfloat16() -> None:
    request = request_for(Task.GENERATE)
    assert make_plan(request, TINY, 4).resident_bytes == 2 * make_plan(request, TINY, 2).resident_bytes


def test_the_bundled_model_is_small() -> None:
    assert make_plan(request_for(Task.FILL), TINY, 4).resident_bytes < 120_000_000
