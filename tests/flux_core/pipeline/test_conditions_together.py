"""Conditions that come together: each is heard beside the others, or the request is refused in a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flux_core.errors import RequestInvalid
from flux_core.models.controlnet import ControlNet
from flux_core.pipeline import FluxEngine
from flux_core.request import StepCache
from flux_core.sampling.step_cache import PRESETS, BlockCache, Preset
from tests.support import family_random as family
from tests.support.engine_runs import psnr_db, run, scene

PICTURE = scene(64, 64)
MAP = np.ascontiguousarray(PICTURE[::-1, :, ::-1])
EDIT: dict[str, Any] = {"model": family.KONTEXT.model, "task": "edit", "image": PICTURE}


def use(model: str, kind: str, image: np.ndarray = MAP, **fields: Any) -> dict[str, Any]:
    return {"model": model, "kind": kind, "image": image, **fields}


def paint(engine: FluxEngine, **fields: Any) -> np.ndarray:
    usual = {"model": family.DEV.model, "prompt": "a red apple", "precision": "fp32", "decoder": "fast"}
    return run(engine, **{**usual, "num_steps": 2, **fields}).pixels


@pytest.mark.parametrize(("net", "kind"), [("plain", "canny"), ("xlabs", "soft_edge")])
def test_a_controlnet_steers_an_edit_and_leaves_its_references_alone(
    both: tuple[FluxEngine, FluxEngine], net: str, kind: str
) -> None:
    fields = {**EDIT, "references": [MAP[:, :32]]}
    torch, mlx = (paint(engine, **fields, controls=[use(net, kind)]) for engine in both)
    assert psnr_db(torch, mlx) > 55
    assert psnr_db(mlx, paint(both[1], **fields, controls=[use(net, kind, PICTURE)])) < 60
    unheard = paint(both[1], **fields, controls=[use(net, kind, strength=0.0)])
    assert psnr_db(unheard, paint(both[1], **fields)) > 60


def test_a_control_lora_on_an_edit_is_refused(any_engine: FluxEngine) -> None:
    with pytest.raises(RequestInvalid, match="cannot follow a map in an edit"):
        paint(any_engine, **EDIT, controls=[use("canny-control", "canny")])


def test_a_control_that_ends_halfway_is_heard_in_half_of_the_steps_that_are_walked(
    any_engine: FluxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transform of strength 0.4 walks 4 steps of 10; shares of all 10 would never hear it."""
    calls: list[int] = []
    call = ControlNet.__call__

    def spy(self: ControlNet, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(ControlNet, "__call__", spy)
    fields: dict[str, Any] = {"task": "transform", "image": PICTURE, "strength": 0.4, "num_steps": 10}
    paint(any_engine, **fields, controls=[use("plain", "canny", end=0.5)])
    assert len(calls) == 2


def test_what_begins_and_ends_within_a_step_is_not_heard_and_the_person_is_told(
    any_engine: FluxEngine,
) -> None:
    result = run(
        any_engine,
        model=family.DEV.model,
        num_steps=2,
        controls=[use("plain", "canny", start=0.1, end=0.4), use("union", "pose", end=0.5)],
        pictures=[{"image": MAP, "adapter": "micro-ip-adapter", "start": 0.6}],
    ).result
    assert [sentence.split(" was ")[0] for sentence in result.warnings] == [
        "The control from 0.1 to 0.4",
        "The picture from 0.6 to 1",
    ]


def test_a_step_cache_takes_over_nothing_where_one_controlnet_follows_another(
    any_engine: FluxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many speak as before, but others do; a threshold that everything is below shows who looks."""
    monkeypatch.setitem(PRESETS, StepCache.FAST, Preset(1e9, max_run=100))
    whole: list[tuple[int, bool]] = []
    through = BlockCache.through

    def spy(self: BlockCache, *args: Any) -> Any:
        out = through(self, *args)
        whole.append((self.evaluations, self.is_hit))
        return out

    monkeypatch.setattr(BlockCache, "through", spy)
    controls = [use("plain", "canny", end=0.5), use("union", "pose", start=0.5)]
    paint(any_engine, num_steps=12, step_cache="fast", controls=controls)
    assert [number for number, is_hit in whole if not is_hit] == [1, 7, 12]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a strength without a picture": ({"strength": 0.5}, "generate does not start from a picture"),
    "the strength of an edit": ({**EDIT, "strength": 0.5}, "edit does not start from a picture"),
    "the end of Redux": ({"task": "vary", "pictures": [{"image": MAP, "end": 0.5}]}, "Redux reads"),
    "the end of a control LoRA": ({"controls": [use("canny-control", "canny", end=0.5)]}, "no end"),
    "the start of a model's own control": (
        {"model": family.CANNY.model, "task": "control", "controls": [use("", "canny", start=0.5)]},
        "no start",
    ),
    "the strength of a model's own control": (
        {"model": family.CANNY.model, "task": "control", "controls": [use("", "canny", strength=0.5)]},
        "has no strength for it",
    ),
    "a look with pictures to be like": (
        {"task": "look", "look": {"kind": "caption"}, "image": PICTURE, "pictures": [{"image": MAP}]},
        "A look takes no pictures to be like",
    ),
    "a look with regions": (
        {"task": "look", "look": {"kind": "caption"}, "image": PICTURE,
         "regions": [{"prompt": "a", "mask": np.full((64, 64), 255, np.uint8)}]},
        "A look takes no regions",
    ),
}  # fmt: skip


@pytest.mark.parametrize("title", REFUSED)
def test_what_would_change_nothing_is_refused(any_engine: FluxEngine, title: str) -> None:
    fields, sentence = REFUSED[title]
    with pytest.raises(RequestInvalid, match=sentence) as caught:
        paint(any_engine, **fields)
    assert caught.value.hint


def test_a_guidance_that_a_model_does_not_read_is_told(any_engine: FluxEngine) -> None:
    told = run(any_engine, model=family.SCHNELL.model, num_steps=1, guidance=7.0).result.warnings
    assert ["reads no guidance" in sentence for sentence in told] == [True]
    assert run(any_engine, model=family.SCHNELL.model, num_steps=1).result.warnings == ()
