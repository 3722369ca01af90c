"""A model whose parts lie in the folders that models share paints what it paints from one folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from flux_core import catalog
from flux_core.parts import identify
from flux_core.pipeline import FluxEngine
from flux_core.request import Precision
from tests.support.engine_runs import run
from tests.support.tiny_random import MICRO, write_models_dir

SHARED = {
    "ae.safetensors": "ae",
    "text_encoder": "clip-l",
    "tokenizer": "clip-l",
    "text_encoder_2": "t5-xxl",
    "tokenizer_2": "t5-xxl",
}


def test_shared_parts_paint_the_same_picture(
    make_engine: Callable[[Path], FluxEngine],
    models_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = run(make_engine(models_dir)).result.images[0].png
    shared = write_models_dir(tmp_path, MICRO)
    for name, row in SHARED.items():
        (shared / row).mkdir(exist_ok=True)
        (shared / "micro" / name).rename(shared / row / name)
    monkeypatch.setitem(catalog.MODELS, MICRO.model, replace(MICRO, needs=("t5-xxl", "clip-l", "ae")))
    engine = make_engine(shared)
    assert run(engine).result.images[0].png == expected
    (shared / "t5-xxl" / "text_encoder_2").rename(shared / "micro" / "text_encoder_2")
    assert run(engine).result.images[0].png == expected  # found again where it lies now


def test_a_person_s_own_transformer_is_used_with_the_bundled_rest(
    make_engine: Callable[[Path], FluxEngine], models_dir: Path, tmp_path: Path
) -> None:
    other = write_models_dir(tmp_path / "other", MICRO, seed=9)
    (tmp_path / "own" / "micro").mkdir(parents=True)
    (other / "micro" / MICRO.files.transformer).rename(tmp_path / "own" / "micro" / MICRO.files.transformer)
    spec, folder = catalog.locate(MICRO, (tmp_path / "own", models_dir))
    assert folder == tmp_path / "own" / "micro"
    assert Path(spec.files.autoencoder).is_relative_to(models_dir)


def test_a_shard_that_was_overwritten_is_noticed(tmp_path: Path) -> None:
    shards = write_models_dir(tmp_path, MICRO) / "micro"
    (shards / "transformer").mkdir()
    shard = shards / "transformer" / "0.safetensors"
    (shards / MICRO.files.transformer).rename(shard)
    spec = replace(MICRO, files=replace(MICRO.files, transformer="transformer"))
    before = identify(spec, shards, Precision.FP32)
    assert identify(spec, shards, Precision.FP32) == before
    os.utime(shard, ns=(1, 1))
    assert identify(spec, shards, Precision.FP32) != before
