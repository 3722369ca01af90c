"""What a job may hold in memory, and when it lets go of it."""

from __future__ import annotations

import dataclasses
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.mlx_metal.engine import MlxEngine
from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.engine import TorchEngine
from flux_core.errors import RequestInvalid
from flux_core.models.clip import ClipText
from flux_core.models.t5 import T5Encoder
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


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("negative", ["", "a dog"])
def test_a_model_that_goes_after_its_walk_walks_without_the_weights_of_its_modulation(
    both: tuple[FluxEngine, FluxEngine], monkeypatch: pytest.MonkeyPatch, fits: bool, negative: str
) -> None:
    """They are 27 % of FLUX.1, and all that they make for a walk is made before it."""
    found: list[bool] = []
    call = Transformer.modulated

    def spy(self: Transformer, *args: Any, **kwargs: Any) -> Any:
        found.append(self.modulator is not None)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(Transformer, "modulated", spy)
    fields = {"negative_prompt": negative, "true_guidance": 2.0 if negative else 1.0, "num_images": 2}
    for engine in both:
        if not fits:
            monkeypatch.setattr(engine._bench, "_budget_bytes", 0)  # pyright: ignore[reportPrivateUsage]
        for _ in range(2):
            assert len(run(engine, model=family.DEV.model, num_steps=2, **fields).result.images) == 2
    assert set(found) == {fits}


@pytest.mark.parametrize("stays", ["all of it", "not all of it", "nothing"])
def test_what_stays_and_is_called_once_a_picture_is_made_ready_for_the_next_one(
    family_dir: Path, monkeypatch: pytest.MonkeyPatch, stays: str
) -> None:
    engine = TorchEngine("cpu", (family_dir,), memory_budget_bytes=0 if stays == "nothing" else 2**40)
    if stays == "not all of it":
        monkeypatch.setattr(TorchBackend, "streamed_bytes", lambda backend, leaves: 1)
    made: list[type] = []

    def ready(method: Any) -> Any:
        made.append(type(method.__self__))
        return method

    monkeypatch.setattr(engine._bench, "_ready", ready)  # pyright: ignore[reportPrivateUsage]
    run(engine, model=family.DEV.model, num_steps=1)
    assert set(made) == ({ClipText, T5Encoder, Transformer} if stays == "all of it" else set())


def test_each_part_is_loaded_with_room_for_what_it_computes_and_what_comes_after_it(
    family_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TorchEngine("cpu", (family_dir,), memory_budget_bytes=0)
    beside: list[int] = []
    brief: list[bool] = []
    leaves = TorchBackend.leaves

    def spy(self: TorchBackend, tensors: Any, precision: Any, working_bytes: int, is_brief: bool) -> Any:
        beside.append(working_bytes)
        brief.append(is_brief)
        return leaves(self, tensors, precision, working_bytes, is_brief)

    def beside_of(**fields: Any) -> list[int]:
        beside.clear()
        brief.clear()
        run(engine, model=family.DEV.model, num_steps=1, **fields)
        return list(beside)

    monkeypatch.setattr(TorchBackend, "leaves", spy)
    small, large = beside_of(), beside_of(width_px=128, height_px=128)
    assert 2**29 < min(small) == max(small) < min(large)
    control = {"kind": "canny", "image": PICTURE, "model": "plain", "is_map": True}
    *_, net, transformer, decoder = beside_of(task="control", controls=[control])
    assert net > transformer == decoder == small[0]
    assert brief == [True] * (len(brief) - 3) + [False, False, True]


def test_weights_of_the_modulation_are_freed_though_a_lora_hangs_on_the_model(
    family_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TorchEngine("cpu", (family_dir,), memory_budget_bytes=0)
    alive: list[weakref.ref[Any]] = []
    found: list[bool] = []
    make, call = Transformer.modulations, Transformer.modulated

    def spy_make(self: Transformer, *args: Any) -> Any:
        assert self.modulator is not None
        alive.append(weakref.ref(self.modulator.linears[0]))
        return make(self, *args)

    def spy(self: Transformer, *args: Any, **kwargs: Any) -> Any:
        found.append(alive[-1]() is not None)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(Transformer, "modulations", spy_make)
    monkeypatch.setattr(Transformer, "modulated", spy)
    run(engine, model=family.KONTEXT.model, task="edit", image=PICTURE, num_steps=1)
    assert found == [False]
