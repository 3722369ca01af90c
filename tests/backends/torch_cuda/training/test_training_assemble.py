"""What assemble writes is the family that the catalog knows: found, read by both engines, small enough."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from backends.mlx_metal.engine import MlxEngine
from backends.models_store import keeping
from backends.torch_cuda.engine import TorchEngine
from backends.torch_cuda.training import assemble, export
from backends.torch_cuda.training.stages import BUNDLED
from flux_core import catalog
from flux_core.catalog import TINY
from flux_core.request import Precision
from tests.support.engine_runs import psnr_db, run, scene
from tests.support.family_members import export_members

PICTURE = scene(64, 64)
HALF = np.zeros((64, 64), np.uint8)
HALF[:, 32:] = 255
MEMBERS: dict[str, dict[str, Any]] = {
    "the base": {},
    "schnell": {"model": "tiny-schnell"},
    "fill": {"model": "tiny-fill", "task": "fill", "image": PICTURE, "mask": HALF},
    "kontext": {"model": "tiny-kontext", "task": "edit", "image": PICTURE},
    "canny": {"task": "control", "controls": [{"kind": "canny", "image": PICTURE, "is_map": False}]},
    "depth": {"task": "control", "controls": [{"kind": "depth", "image": PICTURE, "is_map": True}]},
    "redux": {"task": "vary", "pictures": [{"image": PICTURE}]},
    "the fast decoder": {"decoder": "fast"},
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base as `training.run` exports it, in shards beside its facts, and random members beside it."""
    folder = tmp_path_factory.mktemp("exported")
    stems = {"transformer": TINY.files.transformer, "text_encoder": TINY.files.clip}
    stems["text_encoder_2"] = TINY.files.t5
    for stem, place in stems.items():
        state = export.read(BUNDLED / place, torch.device("cpu"))
        half = {name: p.to(torch.bfloat16).contiguous() for name, p in state.items()}
        for index, shard in enumerate(export.shards(half, 8 << 20)):
            save_file(shard, folder / f"{stem}.{index}.safetensors")
    facts = {"shift": TINY.autoencoder.shift, "scale": TINY.autoencoder.scale}
    (folder / "model.json").write_text(
        json.dumps(facts | {"is_guidance_distilled": True, "is_adopted": True})
    )
    export_members(folder / "members")
    return folder


@pytest.fixture(scope="module")
def models(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The assembled family."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(BUNDLED, folder / TINY.model)
    assemble.assemble(exported, folder / TINY.model)
    assert assemble.assemble_members(exported / "members", folder) == list(assemble.HELPERS.values())
    return folder


@pytest.fixture(scope="module")
def engines(models: Path) -> tuple[TorchEngine, MlxEngine]:
    return TorchEngine("cpu", (models,)), MlxEngine((models,))


@pytest.mark.parametrize("name", MEMBERS)
def test_torch_and_mlx_paint_the_same_with_every_member(
    engines: tuple[TorchEngine, MlxEngine], name: str
) -> None:
    fields = {"model": "tiny", "prompt": "a red apple", "seed": 7, "num_steps": 2, **MEMBERS[name]}
    pictures = [run(engine, precision=Precision.FP32, **fields).pixels for engine in engines]
    assert psnr_db(*pictures) >= 35
    if name != "the base":
        without = {"model": "tiny", "prompt": "a red apple", "seed": 7, "num_steps": 2}
        base = run(engines[0], precision=Precision.FP32, **without).pixels
        assert psnr_db(pictures[0], base) < 45, "the member changes nothing"


def test_the_whole_family_fits_its_limit_and_every_row_is_found(models: Path) -> None:
    sizes = assemble.sizes(models)
    assert sum(sizes.values()) < assemble.LIMIT_BYTES
    assert sizes["tiny/transformer.safetensors"] < 15_000_000
    here = {info.model for info in catalog.model_infos((models,)) if info.is_installed}
    assert here == {spec.model for spec in catalog.MODELS.values() if spec.is_bundled}
    parts = [row for row, _ in assemble.member_files() if isinstance(row, catalog.PartSpec)]
    assert len(parts) == 5
    assert all(catalog.part_folder(part, (models,)) is not None for part in parts)


def test_each_file_is_known_for_what_it_is(models: Path) -> None:
    rows = [row for row in catalog.rows() if (models / row.model).is_dir()]
    checks = [check for row in rows for check in keeping.verify(row, (models,))]
    assert len(checks) >= 11
    assert all(check.is_sound for check in checks), checks


def test_without_coding_the_files_hold_what_was_exported(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(BUNDLED, tmp_path / TINY.model)
    assemble.assemble(exported, tmp_path / TINY.model, is_coded=False)
    before, after = (
        export.read(folder / TINY.files.transformer, torch.device("cpu"))
        for folder in (BUNDLED, tmp_path / TINY.model)
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name].to(torch.bfloat16).float(), after[name]) for name in before)


def test_what_the_catalog_says_otherwise_is_said(models: Path) -> None:
    assert assemble.advice({"shift": TINY.autoencoder.shift}, models) == []
    assert assemble.advice({"shift": 0.5}, models) == ["tiny: shift must be 0.5."]


def test_members_that_are_not_there_are_named(tmp_path: Path) -> None:
    missing = assemble.assemble_members(tmp_path, tmp_path / "models")
    assert missing == [*(row.model for row, _ in assemble.member_files()), "tiny-clip", "tiny-depth"]
    assert len(missing) == 10


def test_helpers_go_as_they_are_for_the_library_that_loads_them(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text("{}")
    assert "tiny-clip" not in assemble.assemble_members(tmp_path, tmp_path / "models")
    assert (tmp_path / "models" / "tiny-clip" / "config.json").read_text() == "{}"
