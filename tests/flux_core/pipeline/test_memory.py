"""What a job may hold in memory, and when it lets go of it."""

from __future__ import annotations

import dataclasses
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.mlx_metal.engine import MlxEngine
from flux_core.errors import RequestInvalid
from flux_core.models.transformer import Transformer
from flux_core.pipeline import FluxEngine
from flux_core.pipeline.conditions import ConditionMaker, Conditions
from flux_core.pipeline.pictures import Pictures
from flux_core.plan import Component, PartKey
from tests.support import family_random as family
from tests.support.engine_runs import run, scene

PICTURE = scene(64, 64)
WHITE = np.full((64, 64), 255, np.uint8)
REGIONS = [{"prompt": "a cat", "mask": WHITE}]


def test_regions_are_made_once_in_the_models_own_precision(
    both: tuple[FluxEngine, FluxEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every attention of every step would cast its own copy of the largest array there is."""
    kinds: list[str] = []
    call = Transformer.modulated

    def spy(self: Transformer, *args: Any, **kwargs: Any) -> Any:
        kinds.append(str(kwargs["bias"].dtype))
        return call(self, *args, **kwargs)

    monkeypatch.setattr(Transformer, "modulated", spy)
    for engine in both:
        run(engine, model=family.DEV.model, num_steps=1, precision="bf16", regions=REGIONS)
    assert [kind.rpartition(".")[2] for kind in kinds] == ["bfloat16", "bfloat16"]


@pytest.mark.parametrize(
    "fields",
    [
        {"regions": [{"prompt": "a cat", "mask": np.full((4096, 4096), 255, np.uint8)}]},
        {"task": "vary", "pictures": [{"image": PICTURE, "strength": 0.5}]},
    ],
    ids=["regions", "pictures"],
)
def test_regions_that_would_fill_the_memory_are_refused(
    any_engine: FluxEngine, fields: dict[str, Any]
) -> None:
    with pytest.raises(RequestInvalid, match="too large"):
        run(any_engine, model=family.DEV.model, width_px=4096, height_px=4096, num_steps=1, **fields)


def test_what_a_walk_was_told_is_gone_when_its_pictures_are_decoded(
    any_engine: FluxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Conditions]] = []
    found: list[bool] = []
    make, decode = ConditionMaker.make, Pictures.decode_all

    class Held(Conditions):  # slots of the class itself leave no place for a weak reference
        __slots__ = ("__weakref__",)

    def spy_make(self: ConditionMaker, job: Any) -> Conditions:
        made = make(self, job)
        held = Held(*(getattr(made, each.name) for each in dataclasses.fields(made)))
        alive.append(weakref.ref(held))
        return held

    def spy_decode(self: Pictures, *args: Any) -> Any:
        found.append(alive[-1]() is not None)
        return decode(self, *args)

    monkeypatch.setattr(ConditionMaker, "make", spy_make)
    monkeypatch.setattr(Pictures, "decode_all", spy_decode)
    run(any_engine, model=family.DEV.model, num_steps=1, regions=REGIONS)
    assert found == [False]


def test_a_job_that_does_not_fit_finds_nothing_of_one_that_did(
    family_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its words are remembered, so nobody would come to free the text encoders during the walk."""
    engine = MlxEngine((family_dir,))
    seen: list[set[Component]] = []
    call = Transformer.modulated
    parts = engine._bench.parts  # pyright: ignore[reportPrivateUsage]

    def spy(self: Transformer, *args: Any, **kwargs: Any) -> Any:
        seen.append({part for part in Component if parts.has(PartKey(part))})
        return call(self, *args, **kwargs)

    monkeypatch.setattr(Transformer, "modulated", spy)
    run(engine, model=family.DEV.model, num_steps=1)
    monkeypatch.setattr(engine._bench, "_budget_bytes", 0)  # pyright: ignore[reportPrivateUsage]
    run(engine, model=family.DEV.model, num_steps=1)
    assert Component.T5 in seen[0]
    assert seen[1] == {Component.TRANSFORMER}
