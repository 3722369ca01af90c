"""The rows of the catalog hold together, and a model's parts are found wherever they lie."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from flux_core import catalog
from flux_core.catalog import Kind, ModelSpec
from flux_core.catalog.places import bytes_in
from flux_core.errors import ModelMissing, RequestInvalid
from flux_core.models.transformer import Transformer
from flux_core.request import Task
from flux_core.weights.expected import expected_shapes
from tests.support.tiny_random import MICRO

SHARING = replace(MICRO, needs=("t5-xxl", "clip-l", "ae"))
SHARED_PLACES = {
    "autoencoder": "ae/ae.safetensors",
    "t5": "t5-xxl/text_encoder_2/model.safetensors",
    "clip": "clip-l/text_encoder/model.safetensors",
    "t5_tokenizer": "t5-xxl/tokenizer_2/tokenizer.json",
    "clip_tokenizer": "clip-l/tokenizer/vocab.json",
}


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of models with the micro model's transformer, and everything else shared."""
    put(tmp_path / "micro/transformer.safetensors", *(tmp_path / place for place in SHARED_PLACES.values()))
    return tmp_path


def test_the_issue_s_models_and_parts_are_all_there() -> None:
    kinds = {row.model: row.kind for row in catalog.rows()}
    assert len(kinds) == len(catalog.rows())
    assert [name for name, kind in kinds.items() if kind is Kind.MODEL] == [
        "tiny", "flux1-dev", "flux1-schnell", "flux1-krea-dev", "flux1-fill-dev", "flux1-canny-dev",
        "flux1-depth-dev", "flux1-kontext-dev",
    ]  # fmt: skip
    assert {name for name, kind in kinds.items() if kind is Kind.LORA} == {
        "flux1-canny-dev-lora",
        "flux1-depth-dev-lora",
    }
    assert sum(kind is Kind.CONTROLNET for kind in kinds.values()) == 7
    assert {"t5-xxl", "clip-l", "ae", "siglip-so400m", "taef1", "flux1-redux-dev"} <= kinds.keys()


@pytest.mark.parametrize("row", catalog.rows(), ids=lambda row: row.model)
def test_every_row_refers_to_rows_that_exist_and_says_where_it_comes_from(row: catalog.Row) -> None:
    ids = {each.model for each in catalog.rows()}
    assert set(row.needs) <= ids
    assert set(getattr(row, "works_with", ())) <= ids
    assert row.title
    assert row.licence
    assert bool(row.downloads) == bool(row.repository) == (not row.is_bundled)
    assert row.is_bundled == row.model.startswith("tiny")
    for file in row.downloads:
        assert re.fullmatch(r"([0-9a-f]{64})?", file.sha256)
        assert not Path(file.name).is_absolute()
        assert ".." not in Path(file.name).parts
    if isinstance(row, ModelSpec):
        assert row.tasks
        assert row.model == "tiny" or row.downloads[0].name == row.files.transformer


def test_no_two_files_have_one_hash_so_dev_s_is_not_krea_s() -> None:
    hashes = [file.sha256 for row in catalog.rows() for file in row.downloads if file.sha256]
    assert len(hashes) == len(set(hashes)) == 12
    assert catalog.KREA.downloads[0].sha256 == ""


@pytest.mark.parametrize(
    ("model", "tensors", "parameters"),
    [
        ("flux1-dev", 780, 11_901_408_320),
        ("flux1-schnell", 776, 11_891_178_560),
        ("flux1-krea-dev", 780, 11_901_408_320),
        ("flux1-kontext-dev", 780, 11_901_408_320),
        ("flux1-fill-dev", 780, 11_902_391_360),
        ("flux1-canny-dev", 780, 11_901_604_928),
        ("flux1-depth-dev", 780, 11_901_604_928),
    ],
)
def test_every_published_transformer_has_the_published_numbers(
    model: str, tensors: int, parameters: int
) -> None:
    config = catalog.find(model).transformer
    shapes = expected_shapes(lambda ops, make: Transformer(ops, make, config))
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == (tensors, parameters)


def test_a_task_that_a_model_was_not_made_for_is_refused_in_one_sentence() -> None:
    with pytest.raises(RequestInvalid, match=r"^FLUX\.1 Fill \[dev\] cannot do generate\."):
        catalog.check_task(catalog.FILL, Task.GENERATE)
    catalog.check_task(catalog.KREA, Task.FILL)
    with pytest.raises(RequestInvalid, match=r"cannot do fill\. It can: generate\.") as caught:
        catalog.check_task(replace(MICRO, tasks=(Task.GENERATE,)), Task.FILL)
    assert "\n" not in str(caught.value)


def test_a_part_is_not_a_model_and_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(RequestInvalid, match="T5 v1.1 XXL text encoder is not a model that paints"):
        catalog.find("t5-xxl")
    with pytest.raises(RequestInvalid, match="no model called 'sdxl'") as caught:
        catalog.find("sdxl")
    assert "flux1-krea-dev" in caught.value.hint
    assert "flux1-fill-dev" in caught.value.hint
    with pytest.raises(RequestInvalid, match="nothing called 'sdxl'"):
        catalog.find_row("sdxl")
    assert catalog.find_row("ae").kind is Kind.AUTOENCODER


def test_parts_come_from_the_folders_that_models_share(models: Path) -> None:
    spec, folder = catalog.locate(SHARING, (models,))
    assert folder == models / "micro"
    assert spec.files.transformer == "transformer.safetensors"
    assert folder / spec.files.t5 == models / SHARED_PLACES["t5"]
    assert folder / spec.files.t5_tokenizer == models / "t5-xxl" / "tokenizer_2"
    assert folder / spec.files.autoencoder == models / SHARED_PLACES["autoencoder"]
    assert replace(spec, files=SHARING.files) == SHARING


def test_a_model_s_own_part_goes_before_the_shared_one(models: Path) -> None:
    put(models / "micro/ae.safetensors")
    spec, _ = catalog.locate(SHARING, (models,))
    assert spec.files.autoencoder == "ae.safetensors"


def test_shared_parts_may_lie_in_another_folder_of_models(models: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (models / "t5-xxl").rename(other / "t5-xxl")
    spec, folder = catalog.locate(SHARING, (models, other))
    assert folder / spec.files.t5 == other / SHARED_PLACES["t5"]


def test_a_model_that_shares_nothing_does_not_borrow(models: Path) -> None:
    with pytest.raises(ModelMissing, match=r"micro has no ae\.safetensors, text_encoder_2"):
        catalog.locate(MICRO, (models,))


@pytest.mark.parametrize("part", SHARED_PLACES)
def test_a_shared_part_that_is_missing_is_named_by_its_place(models: Path, part: str) -> None:
    place = models / SHARED_PLACES[part]
    place.unlink()
    place.parent.rmdir()
    assert catalog.missing_parts(SHARING, (models,)) == {part}
    with pytest.raises(ModelMissing, match=re.escape(getattr(SHARING.files, part))):
        catalog.folder_of(SHARING, (models,))


def test_gguf_and_diffusers_folders_are_found_too(models: Path) -> None:
    own = models / "micro"
    (own / "transformer.safetensors").rename(own / "transformer.gguf")
    assert catalog.locate(SHARING, (models,))[0].files.transformer == "transformer.gguf"
    (own / "transformer.gguf").unlink()
    shard = "diffusion_pytorch_model-00001-of-00002.safetensors"
    put(own / "transformer" / shard)
    with pytest.raises(ModelMissing, match=f"has no transformer/{shard.replace('00001', '00002')}"):
        catalog.folder_of(SHARING, (models,))
    put(own / "transformer" / shard.replace("00001", "00002"))
    assert catalog.locate(SHARING, (models,))[0].files.transformer == "transformer"
    put(own / "transformer" / "diffusion_pytorch_model.safetensors.index.json")
    put(own / "vae" / "diffusion_pytorch_model.safetensors")
    spec, _ = catalog.locate(SHARING, (models,))
    assert spec.files.transformer == "transformer"
    assert spec.files.autoencoder == "vae/diffusion_pytorch_model.safetensors"


def test_the_hint_says_how_to_get_a_published_model(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="no flux1-dev.safetensors, ae.safetensors") as caught:
        catalog.folder_of(catalog.DEV, (tmp_path,))
    assert caught.value.hint.startswith("Run `flowbrush models get flux1-dev`")


def test_size_on_disk_counts_a_file_with_two_names_once(models: Path) -> None:
    big = models / "micro/transformer.safetensors"
    big.write_bytes(bytes(1000))
    (models / "micro/again.safetensors").hardlink_to(big)
    (models / "micro/third.safetensors").symlink_to(big)
    assert bytes_in(models / "micro") == 1000
