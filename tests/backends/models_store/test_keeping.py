"""What is in the folder of models is verified honestly and deleted without touching an original."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from backends.models_store import keeping
from backends.models_store.importing import import_models
from flux_core import catalog
from flux_core.catalog import DEV, KONTEXT, RemoteFile
from flux_core.errors import ModelMissing, RequestInvalid
from tests.support import published
from tests.support.published import infos, write_sparse

LORA = infos({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (4, 3072)})


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "home" / "models"


@pytest.fixture
def redux(models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed Redux whose hash and size the catalog knows."""
    path = write_sparse(models / "flux1-redux-dev/flux1-redux-dev.safetensors", published.redux())
    content = path.read_bytes()
    file = RemoteFile(path.name, len(content), hashlib.sha256(content).hexdigest())
    row = catalog.PARTS["flux1-redux-dev"]
    monkeypatch.setitem(catalog.PARTS, row.model, replace(row, downloads=(file,)))
    return path


def checks(row: str, models: Path) -> list[tuple[bool, str]]:
    found = keeping.verify(catalog.find_row(row), (models,))
    return [(check.is_sound, check.detail) for check in found]


def delete(name: str, models: Path) -> keeping.Deletion:
    planned = keeping.plan_deletion(name, models)
    keeping.delete(planned)
    return planned


def test_the_published_file_is_known_byte_for_byte(redux: Path, models: Path) -> None:
    assert checks("flux1-redux-dev", models) == [(True, "it is the published file, byte for byte")]


def test_one_changed_byte_is_found(redux: Path, models: Path) -> None:
    with redux.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert checks("flux1-redux-dev", models) == [
        (False, "It has the published file's size and other content.")
    ]


def test_another_version_of_the_model_is_sound_but_said(models: Path) -> None:
    write_sparse(
        models / "flux1-dev/flux1-dev.safetensors", published.bfl_transformer(DEV) | infos({"x": (1,)})
    )
    ((is_sound, detail),) = checks("flux1-dev", models)
    assert is_sound
    assert "it is not the published file (bfloat16)" in detail


def test_a_truncated_file_and_a_file_of_another_model_are_found(redux: Path, models: Path) -> None:
    redux.write_bytes(redux.read_bytes()[:-10])
    assert checks("flux1-redux-dev", models)[0][0] is False
    write_sparse(models / "clip-l/text_encoder/model.safetensors", published.t5())
    ((is_sound, detail),) = checks("clip-l", models)
    assert (is_sound, detail) == (False, "It is not CLIP ViT-L text encoder, but: T5 v1.1 XXL text encoder.")


def test_a_file_whose_hash_nobody_knows_is_checked_as_far_as_possible(models: Path) -> None:
    write_sparse(models / "taef1/diffusion_pytorch_model.safetensors", published.taef1())
    assert checks("taef1", models) == [(True, "its header is sound (bfloat16); no hash is known")]
    assert checks("ae", models) == []


def test_deleting_frees_what_has_no_other_name(redux: Path, models: Path) -> None:
    size = redux.stat().st_size
    planned = delete("flux1-redux-dev", models)
    assert (planned.num_files, planned.freed_bytes, planned.num_linked) == (1, size, 0)
    assert list(models.iterdir()) == []


def test_an_original_that_was_linked_stays(tmp_path: Path, models: Path) -> None:
    hard = write_sparse(tmp_path / "flux1-dev.safetensors", published.bfl_transformer(DEV))
    import_models(hard, models)
    soft = write_sparse(tmp_path / "kontext.safetensors", published.bfl_transformer(KONTEXT))
    (models / "flux1-kontext-dev").mkdir()
    (models / "flux1-kontext-dev/flux1-kontext-dev.safetensors").symlink_to(soft)
    for name, original in (("flux1-dev", hard), ("flux1-kontext-dev", soft)):
        planned = delete(name, models)
        assert (planned.freed_bytes, planned.num_linked) == (0, 1)
        assert original.stat().st_size > 23_000_000_000
    assert list(models.iterdir()) == []


def test_a_model_folder_that_is_a_link_goes_and_its_target_stays(tmp_path: Path, models: Path) -> None:
    target = write_sparse(tmp_path / "mine/ae.safetensors", published.bfl_autoencoder())
    models.mkdir(parents=True)
    (models / "ae").symlink_to(target.parent)
    delete("ae", models)
    assert target.exists()
    assert not (models / "ae").is_symlink()


def test_one_file_with_many_names_is_freed_with_the_last_of_them(tmp_path: Path, models: Path) -> None:
    names = published.all_in_one(catalog.SCHNELL)
    file = write_sparse(tmp_path / "schnell.safetensors", names)
    import_models(file, models)
    size = file.stat().st_size
    file.unlink()
    planned = delete("flux1-schnell", models)
    assert (planned.num_files, planned.freed_bytes) == (4, size)


def test_what_a_broken_download_left_goes_with_the_row(models: Path) -> None:
    folder = models / ".downloads"
    folder.mkdir(parents=True)
    repository = catalog.DEV.repository.replace("/", "--")
    (folder / f"{repository}--flux1-dev.safetensors.abc.part").write_bytes(bytes(1000))
    (folder / "other--model--flux1-dev.safetensors.abc.part").write_bytes(bytes(10))
    planned = delete("flux1-dev", models)
    assert (planned.num_files, planned.freed_bytes) == (1, 1000)
    assert [path.name for path in folder.iterdir()] == ["other--model--flux1-dev.safetensors.abc.part"]


def test_files_that_are_no_rows_are_listed_and_deleted_by_their_names(tmp_path: Path, models: Path) -> None:
    import_models(write_sparse(tmp_path / "Ink.safetensors", LORA), models)
    assert keeping.library_files((models,)) == [models / "loras/Ink.safetensors"]
    delete("loras/Ink.safetensors", models)
    assert keeping.library_files((models,)) == []


@pytest.mark.parametrize("name", ["loras/../../x", "loras/..", "../x", "/etc", "loras/", "flux9", ""])
def test_nothing_outside_the_folder_of_models_can_be_named(models: Path, name: str) -> None:
    with pytest.raises(RequestInvalid, match="nothing called"):
        keeping.plan_deletion(name, models)


def test_what_is_bundled_stays_and_what_is_not_there_is_said(models: Path) -> None:
    for bundled in ("tiny", "tiny-clip", "tiny-depth"):
        with pytest.raises(RequestInvalid, match="comes with Flowbrush and stays"):
            keeping.plan_deletion(bundled, models)
    with pytest.raises(ModelMissing, match="is not there"):
        keeping.plan_deletion("flux1-dev", models)
