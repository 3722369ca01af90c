"""Helpers that look are listed, verified by their headers, and never taken for parts of FLUX.1."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from backends.models_store import hub, keeping
from flux_core import catalog


def _put(models: Path, row: str) -> Path:
    path = models / row / catalog.PARTS[row].downloads[0].name
    path.parent.mkdir(parents=True)
    save_file({"encoder.weight": torch.zeros(2, 2)}, path)
    return path


def test_a_helper_s_weights_are_sound_if_their_header_is(tmp_path: Path) -> None:
    path = _put(tmp_path, "depth-pro")
    (check,) = keeping.verify(catalog.find_row("depth-pro"), (tmp_path,))
    assert (check.path, check.is_sound) == (path, True)
    path.write_bytes(path.read_bytes()[:-4])
    (check,) = keeping.verify(catalog.find_row("depth-pro"), (tmp_path,))
    assert not check.is_sound


def test_a_download_gets_the_files_of_a_helper_that_are_not_here(tmp_path: Path) -> None:
    _put(tmp_path, "sam2.1-tiny")
    row = catalog.PARTS["sam2.1-tiny"]
    wanted = hub.wanted_files(row, tmp_path, (tmp_path,))
    assert [(one.repository, one.file.path) for one in wanted] == [
        ("facebook/sam2.1-hiera-tiny", "config.json"),
        ("facebook/sam2.1-hiera-tiny", "preprocessor_config.json"),
    ]
    assert catalog.part_folder(row, (tmp_path,)) is None, "weights alone cannot look"
    (tmp_path / "sam2.1-tiny" / "config.json").write_text("{}")
    assert catalog.part_folder(row, (tmp_path,)) == tmp_path / "sam2.1-tiny"


def test_a_helper_can_be_deleted(tmp_path: Path) -> None:
    path = _put(tmp_path, "llava-1.5-7b")
    keeping.delete(keeping.plan_deletion("llava-1.5-7b", tmp_path))
    assert not path.parent.exists()
