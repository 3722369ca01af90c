"""What each task loads, in which order, and what it weighs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from flux_core.catalog import DEV, KONTEXT, PARTS, SCHNELL, TINY, ModelSpec
from flux_core.messages import Stage
from flux_core.parts import Parts
from flux_core.pipeline import FluxEngine
from flux_core.plan import Component, PartKey, Plan, make_plan, num_values
from flux_core.request import GenerationRequest, Task, build_request
from tests.support import family_random as family
from tests.support.engine_runs import run, scene

BLOB, OTHER, THIRD = "0" * 64, "1" * 64, "2" * 64
CLIP, T5 = PartKey(Component.CLIP), PartKey(Component.T5)
ENCODER, DECODER = PartKey(Component.VAE_ENCODER), PartKey(Component.VAE_DECODER)
TRANSFORMER = PartKey(Component.TRANSFORMER)
TEXT = (CLIP, T5)
PAINT = (TRANSFORMER, DECODER)
NET = PartKey(Component.CONTROLNET, "shakker-union-pro-2")
XLABS = PartKey(Component.CONTROLNET, "xlabs-canny-v3")


def pictures(name: str) -> tuple[PartKey, PartKey]:
    if "ip" in name:
        return PartKey(Component.CLIP_VISION, name), PartKey(Component.IP_ADAPTER, name)
    return PartKey(Component.SIGLIP, name), PartKey(Component.REDUX, name)


def control(model: str = "", kind: str = "canny", **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "image": BLOB, "model": model, **fields}


REDUX = pictures("flux1-redux-dev")
IP = pictures("xlabs-ip-adapter")
REGION = {"prompt": "a cat", "mask": BLOB}


@dataclass(frozen=True)
class Row:
    """A row of the table: a request, and the parts it needs in the order they are used."""

    title: str
    fields: dict[str, Any]
    keys: tuple[PartKey, ...]

    @property
    def request(self) -> GenerationRequest:
        return build_request(**self.fields)


def row(title: str, *keys: PartKey, **fields: Any) -> Row:
    return Row(title, fields, keys)


ROWS = (
    row("text to image", *TEXT, *PAINT),
    row("text to image by CLIP alone", CLIP, *PAINT, is_clip_only=True),
    row(
        "text to image, decoded fast",
        *TEXT, TRANSFORMER, PartKey(Component.FAST_DECODER, "taef1"), decoder="fast",
    ),
    row("text to image, all quick", CLIP, TRANSFORMER, PartKey(Component.FAST_DECODER, "taef1"),
        is_clip_only=True, decoder="fast"),
    row("with a negative prompt", *TEXT, *PAINT, negative_prompt="blurry", true_guidance=2.0),
    row("with regions", *TEXT, *PAINT, regions=[REGION]),
    row("with a LoRA", *TEXT, *PAINT, loras=[{"name": "ink"}]),
    row("image to image", *TEXT, ENCODER, *PAINT, task="transform", image=BLOB),
    row("image to image with a mask", *TEXT, ENCODER, *PAINT, task="transform", image=BLOB, mask=OTHER),
    row("inpainting", *TEXT, ENCODER, *PAINT, task="fill", image=BLOB, mask=OTHER),
    row("editing", *TEXT, ENCODER, *PAINT, task="edit", image=BLOB),
    row("editing with references", *TEXT, ENCODER, *PAINT, task="edit", image=BLOB,
        references=[OTHER, THIRD]),
    row("editing in a style", *TEXT, *REDUX, ENCODER, *PAINT, task="edit", image=BLOB,
        pictures=[{"image": OTHER}]),
    row("by its own channels", *TEXT, ENCODER, *PAINT, task="control", controls=[control()]),
    row("by a depth map that is made first", *TEXT, PartKey(Component.DEPTH_ESTIMATOR), ENCODER, *PAINT,
        task="control", controls=[control(kind="depth", is_map=False)]),
    row("by edges that are found first", *TEXT, ENCODER, *PAINT, task="control",
        controls=[control(is_map=False)]),
    row("by a control LoRA", *TEXT, ENCODER, *PAINT, task="control",
        controls=[control("flux1-canny-dev-lora")]),
    row("by a ControlNet", *TEXT, ENCODER, NET, *PAINT, task="control", controls=[control(NET.name)]),
    row("by a ControlNet of XLabs, which sees pixels", *TEXT, XLABS, *PAINT, task="control",
        controls=[control(XLABS.name)]),
    row("by two ControlNets", *TEXT, ENCODER, NET, XLABS, *PAINT, task="control",
        controls=[control(NET.name), control(XLABS.name)]),
    row("by one ControlNet with two maps", *TEXT, ENCODER, NET, *PAINT, task="control",
        controls=[control(NET.name), control(NET.name, "pose")]),
    row("varying by Redux", *TEXT, *REDUX, *PAINT, task="vary", pictures=[{"image": BLOB}]),
    row("varying by Redux, two pictures", *TEXT, *REDUX, *PAINT, task="vary",
        pictures=[{"image": BLOB}, {"image": OTHER}]),
    row("varying by an IP-Adapter", *TEXT, *IP, *PAINT, task="vary",
        pictures=[{"image": BLOB, "adapter": "xlabs-ip-adapter"}]),
    row("varying by both", *TEXT, *REDUX, *IP, *PAINT, task="vary",
        pictures=[{"image": BLOB}, {"image": OTHER, "adapter": "xlabs-ip-adapter"}]),
    row("super-resolution", *TEXT, ENCODER, *PAINT, task="upscale", image=BLOB),
    row("super-resolution by an upscaler first", *TEXT, PartKey(Component.UPSCALER, "4x.safetensors"),
        ENCODER, *PAINT, task="upscale", image=BLOB, upscaler="4x.safetensors"),
    row("all that can be said to a filling model", *TEXT, *REDUX, *IP, ENCODER, NET, TRANSFORMER,
        PartKey(Component.FAST_DECODER, "taef1"), task="fill", image=BLOB, mask=OTHER, decoder="fast",
        regions=[REGION], controls=[control(NET.name)],
        pictures=[{"image": BLOB}, {"image": OTHER, "adapter": "xlabs-ip-adapter"}]),
)  # fmt: skip


def plan(fields: dict[str, Any], spec: ModelSpec = DEV, bytes_per_value: int = 2) -> Plan:
    return make_plan(build_request(**fields), spec, bytes_per_value)


@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.title)
def test_each_request_loads_what_it_needs_in_order_and_nothing_else(case: Row) -> None:
    assert make_plan(case.request, DEV, 2).keys == case.keys


def test_every_task_that_paints_has_a_row() -> None:
    assert {case.request.task for case in ROWS} == set(Task) - {Task.LOOK}


@pytest.mark.parametrize("spec", [TINY, SCHNELL, KONTEXT], ids=lambda spec: spec.model)
@pytest.mark.parametrize("case", ROWS[:11], ids=lambda case: case.title)
def test_the_table_is_the_same_for_every_model(case: Row, spec: ModelSpec) -> None:
    components = [key.component for key in make_plan(case.request, spec, 2).keys]
    assert components == [key.component for key in case.keys]


@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.title)
def test_stages_come_in_the_order_the_person_is_told(case: Row) -> None:
    order = list(Stage)
    stages = [order.index(step.stage) for step in make_plan(case.request, DEV, 4).steps]
    assert stages == sorted(stages)


@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.title)
def test_each_part_is_used_in_one_stage_so_that_it_can_be_freed_at_once(case: Row) -> None:
    keys = make_plan(case.request, DEV, 4).keys
    assert len(set(keys)) == len(keys)


# Weights


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


def blocks(count: int) -> int:
    """Weights and biases of double blocks, by FLUX.1's sizes: two streams of modulation, qkv and projection,
    two matrices of an MLP, and two norms of a head."""
    width, mlp, head = 3072, 12288, 128
    stream = (
        (width + 1) * 6 * width
        + (width + 1) * 3 * width
        + (width + 1) * width
        + (width + 1) * mlp
        + (mlp + 1) * width
        + 2 * head
    )
    return 2 * stream * count


INPUTS = (64 + 1) * 3072 + (4096 + 1) * 3072 + 2 * ((256 + 1) * 3072 + (3072 + 1) * 3072) \
    + (768 + 1) * 3072 + (3072 + 1) * 3072  # fmt: skip
"""Of a transformer with guidance: tokens, words, time, guidance, pooled words."""
OUTS = (3072 + 1) * 3072
HINT = (27 + 1) * 16 + 7 * (144 + 1) * 16
SIGLIP_LAYER = 4 * (1152 + 1) * 1152 + (1152 + 1) * 4304 + (4304 + 1) * 1152 + 4 * 1152
CLIP_LAYER = 4 * (1024 + 1) * 1024 + (1024 + 1) * 4096 + (4096 + 1) * 1024 + 4 * 1024


@pytest.mark.parametrize(
    ("name", "component", "values"),
    [
        (
            "flux1-redux-dev",
            Component.SIGLIP,
            27 * SIGLIP_LAYER + (3 * 14 * 14 + 1) * 1152 + 729 * 1152 + 2 * 1152,
        ),
        ("flux1-redux-dev", Component.REDUX, (1152 + 1) * 12288 + (12288 + 1) * 4096),
        (
            "xlabs-ip-adapter",
            Component.CLIP_VISION,
            24 * CLIP_LAYER + 3 * 14 * 14 * 1024 + 1024 + 257 * 1024 + 4 * 1024 + 1024 * 768,
        ),
        (
            "xlabs-ip-adapter",
            Component.IP_ADAPTER,
            (768 + 1) * 16384 + 2 * 4096 + 19 * 2 * (4096 + 1) * 3072,
        ),
        ("shakker-union-pro-2", Component.CONTROLNET, INPUTS + (64 + 1) * 3072 + blocks(6) + 6 * OUTS),
        ("xlabs-canny-v3", Component.CONTROLNET, INPUTS + HINT + (64 + 1) * 3072 + blocks(2) + 2 * OUTS),
    ],
)
def test_parts_beside_the_model_weigh_what_their_sizes_say(
    name: str, component: Component, values: int
) -> None:
    """The sizes are the fact sheet's; the sums are written out here."""
    kind = PARTS[name].kind.value
    fields: dict[str, Any] = (
        {"task": "control", "controls": [control(name)]}
        if kind == "controlnet"
        else {"task": "vary", "pictures": [{"image": BLOB, "adapter": name}]}
    )
    steps = {step.key: step.weight_bytes for step in plan(fields, bytes_per_value=2).steps}
    assert steps[PartKey(component, name)] == 2 * values


def test_the_fast_decoder_weighs_a_fortieth_of_the_full_one() -> None:
    fast = plan({"decoder": "fast"}).steps[-1]
    block = 3 * (64 * 9 + 1) * 64
    levels = 3 * (3 * block + 64 * 9 * 64)
    values = (16 * 9 + 1) * 64 + levels + block + (64 * 9 + 1) * 3
    assert fast.weight_bytes == 2 * values < 2 * num_values(DEV, Component.VAE_DECODER) / 40


def test_what_nobody_has_counted_weighs_nothing_until_its_file_is_here() -> None:
    fields = {"task": "control", "controls": [control("instantx-canny")]}
    key = PartKey(Component.CONTROLNET, "instantx-canny")
    step = next(step for step in plan(fields).steps if step.key == key)
    assert step.weight_bytes == 0
    request = build_request(**fields)
    found = make_plan(request, family.DEV, 4, {key: family.PLAIN})
    assert next(step for step in found.steps if step.key == key).weight_bytes > 0


def test_freeing_each_part_after_its_stage_makes_the_transformer_the_peak() -> None:
    filling = plan({"task": "fill", "image": BLOB, "mask": BLOB})
    assert filling.sequential_bytes == 11_901_408_320 * 2
    assert filling.resident_bytes == sum(step.weight_bytes for step in filling.steps)
    assert filling.resident_bytes > filling.sequential_bytes


def test_a_controlnet_is_in_memory_together_with_the_transformer() -> None:
    steered = plan({"task": "control", "controls": [control(NET.name)]})
    steps = {step.key: step.weight_bytes for step in steered.steps}
    assert steered.sequential_bytes == steps[NET] + steps[TRANSFORMER]


def test_float32_weighs_twice_as_much_as_bfloat16() -> None:
    assert plan({}, TINY, 4).resident_bytes == 2 * plan({}, TINY, 2).resident_bytes


def test_the_bundled_model_is_small() -> None:
    assert plan({"task": "fill", "image": BLOB, "mask": BLOB}, TINY, 4).resident_bytes < 120_000_000


# What is really loaded


PICTURE = scene(64, 64)
LOADED: dict[str, dict[str, Any]] = {
    "text to image": {},
    "CLIP alone, decoded fast": {"is_clip_only": True, "decoder": "fast"},
    "image to image": {"task": "transform", "image": PICTURE},
    "Redux": {"task": "vary", "pictures": [{"image": PICTURE}]},
    "IP-Adapter": {"task": "vary", "pictures": [{"image": PICTURE, "adapter": "micro-ip-adapter"}]},
    "a ControlNet of XLabs": {
        "task": "control", "controls": [{"kind": "soft_edge", "image": PICTURE, "model": "xlabs"}],
    },
    "two ControlNets": {
        "task": "control",
        "controls": [
            {"kind": "canny", "image": PICTURE, "model": "plain"},
            {"kind": "pose", "image": PICTURE, "model": "union"},
        ],
    },
    "a control LoRA": {
        "task": "control", "controls": [{"kind": "canny", "image": PICTURE, "model": "micro-canny-lora"}],
    },
    "Fill": {"task": "fill", "model": family.FILL.model, "image": PICTURE, "mask": PICTURE[..., 0]},
    "edit": {"task": "edit", "model": family.KONTEXT.model, "image": PICTURE, "references": [PICTURE[::2]]},
    "upscale": {"task": "upscale", "image": PICTURE[::2, ::2]},
}  # fmt: skip


@pytest.mark.parametrize("title", LOADED)
def test_the_engine_loads_each_part_of_the_plan_once_and_nothing_else(
    any_engine: FluxEngine, monkeypatch: pytest.MonkeyPatch, title: str
) -> None:
    from flux_core.pipeline import job as module

    planned: list[Plan] = []
    loaded: list[PartKey] = []
    make, load = module.make_plan, Parts._load

    def spy_plan(*args: Any) -> Plan:
        planned.append(make(*args))
        return planned[-1]

    def spy_load(self: Parts, key: PartKey) -> None:
        loaded.append(key)
        load(self, key)

    monkeypatch.setattr(module, "make_plan", spy_plan)
    monkeypatch.setattr(Parts, "_load", spy_load)
    any_engine.release()
    fields = {"model": family.DEV.model, "num_steps": 1, **LOADED[title]}
    run(any_engine, **fields)
    assert sorted(loaded) == sorted(planned[0].keys)
    loaded.clear()
    run(any_engine, **fields)
    assert not loaded


def test_with_little_memory_each_part_is_freed_before_the_next_stage(
    any_engine: FluxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[set[PartKey]] = []
    load = Parts._load

    def spy(self: Parts, key: PartKey) -> None:
        load(self, key)
        together.append({*self._loaded})

    monkeypatch.setattr(Parts, "_load", spy)
    monkeypatch.setattr(any_engine._bench, "_budget_bytes", 0)
    any_engine.release()
    fields = LOADED["two ControlNets"]
    run(any_engine, model=family.DEV.model, num_steps=1, **fields)
    nets = {PartKey(Component.CONTROLNET, name) for name in ("plain", "union")}
    assert max(together, key=len) == {TRANSFORMER, *nets}
    assert all(len(parts) == 1 for parts in together if not parts & (nets | {TRANSFORMER}))


def test_weights_are_counted_as_they_lie_in_the_file(family_dir: Path) -> None:
    file = load_file(family_dir / family.DEV.model / family.DEV.files.transformer)
    assert num_values(family.DEV, Component.TRANSFORMER) == sum(int(np.prod(x.shape)) for x in file.values())
