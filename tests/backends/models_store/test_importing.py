"""Models that are on the disk already become models that Flowbrush finds, without copying a byte."""

from __future__ import annotations

import json
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from backends.models_store import linking
from backends.models_store.importing import Imported, import_models, sha256_of
from backends.models_store.inspecting import inspect, inspect_all
from backends.models_store.placing import LIBRARY_FOLDERS
from flux_core import catalog
from flux_core.catalog import CANNY, DEV, FILL, SCHNELL, RemoteFile
from flux_core.errors import Corrupt, FluxError, ModelMissing, RequestInvalid
from flux_core.weights.tensors import TensorInfo
from tests.support import published
from tests.support.published import Infos, infos, write_shards, write_sparse, write_sparse_gguf

LORA = infos({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (4, 3072)})
CONTROL_LORA = infos(
    {
        "img_in.lora_A.weight": (8, 128),
        "img_in.lora_B.weight": (3072, 8),
        "double_blocks.0.img_attn.norm.query_norm.scale": (128,),
    }
)
SDXL = infos({"conditioner.embedders.0.x": (1,), "model.diffusion_model.input_blocks.0.0.weight": (4, 4)})
TOKENIZERS = {"tokenizer": ("vocab.json", "merges.txt"), "tokenizer_2": ("tokenizer.json", "spiece.model")}


def fp8(names: Infos) -> Infos:
    return {name: replace(info, dtype="F8_E4M3") for name, info in names.items()}


def write_tokenizers(folder: Path) -> None:
    for name, files in TOKENIZERS.items():
        (folder / name).mkdir(parents=True)
        for file in files:
            (folder / name / file).write_text(name)
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps({f"w{i}": i for i in range(49_408)}))
    vocabulary = [[f"w{i}", 0.0] for i in range(32_100)]
    (folder / "tokenizer_2" / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "home" / "models"


@pytest.fixture
def comfy(tmp_path: Path) -> Path:
    """A ComfyUI folder of models, as artists have them, with files of the true size."""
    root = tmp_path / "ComfyUI" / "models"
    write_sparse(root / "diffusion_models/flux1-dev.safetensors", published.bfl_transformer(DEV))
    write_sparse(root / "unet/flux1-dev-fp8.safetensors", fp8(published.bfl_transformer(DEV)))
    write_sparse(root / "diffusion_models/flux1-fill-dev.safetensors", published.bfl_transformer(FILL))
    write_sparse(root / "vae/ae.safetensors", published.bfl_autoencoder())
    write_sparse(root / "clip/clip_l.safetensors", published.clip())
    write_sparse(root / "text_encoders/t5xxl_fp16.safetensors", published.t5())
    write_sparse(root / "loras/Ink style.safetensors", LORA)
    write_sparse(root / "controlnet/unknown.safetensors", published.controlnet(3, 2, None))
    write_sparse(root / "controlnet/flux-canny-controlnet-v3.safetensors", published.xlabs_controlnet())
    write_sparse(root / "style_models/flux1-redux-dev.safetensors", published.redux())
    write_sparse(root / "clip_vision/sigclip_vision_patch14_384.safetensors", published.siglip())
    write_sparse(root / "vae_approx/taef1.safetensors", published.taef1())
    write_sparse(root / "checkpoints/sd_xl_base_1.0.safetensors", SDXL)
    (root / "checkpoints/v1-5.ckpt").write_bytes(bytes(2_000_000))
    return root


def placed(done: Imported) -> dict[str, str]:
    """Where each file went."""
    return {each.source.name: str(name) for each in done.taken for _, name in each.places}


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refused(path: Path, models: Path, kind: type[FluxError] = RequestInvalid, **options: object) -> FluxError:
    with pytest.raises(kind) as caught:
        import_models(path, models, **options)  # type: ignore[arg-type]
    assert caught.value.message.endswith(".")
    assert not models.exists() or files_of(models) == []
    return caught.value


def test_a_whole_comfyui_folder_is_linked_and_sorted(comfy: Path, models: Path) -> None:
    before = os.statvfs(comfy).f_bavail
    done = import_models(comfy, models)
    assert placed(done) == {
        "flux1-dev.safetensors": "flux1-dev/flux1-dev.safetensors",
        "flux1-fill-dev.safetensors": "flux1-fill-dev/flux1-fill-dev.safetensors",
        "ae.safetensors": "ae/ae.safetensors",
        "clip_l.safetensors": "clip-l/text_encoder/model.safetensors",
        "t5xxl_fp16.safetensors": "t5-xxl/text_encoder_2/model.safetensors",
        "Ink style.safetensors": "loras/Ink style.safetensors",
        "unknown.safetensors": "controlnets/unknown.safetensors",
        "flux-canny-controlnet-v3.safetensors": "xlabs-canny-v3/flux-canny-controlnet-v3.safetensors",
        "flux1-redux-dev.safetensors": "flux1-redux-dev/flux1-redux-dev.safetensors",
        "sigclip_vision_patch14_384.safetensors": "siglip-so400m/image_encoder/model.safetensors",
        "taef1.safetensors": "taef1/diffusion_pytorch_model.safetensors",
    }
    left = {each.path.name: each.reason for each in done.left}
    assert left.keys() == {"flux1-dev-fp8.safetensors", "sd_xl_base_1.0.safetensors", "v1-5.ckpt"}
    assert "a Stable Diffusion XL checkpoint" in left["sd_xl_base_1.0.safetensors"]
    assert "is a pickle, which can run any program" in left["v1-5.ckpt"]
    assert "flux1-dev.safetensors is in its place" in left["flux1-dev-fp8.safetensors"]
    assert (models / "flux1-dev/flux1-dev.safetensors").samefile(
        comfy / "diffusion_models/flux1-dev.safetensors"
    )
    assert abs(os.statvfs(comfy).f_bavail - before) * os.statvfs(comfy).f_frsize < 50_000_000
    assert catalog.missing_parts(DEV, (models,)) == {"t5_tokenizer", "clip_tokenizer"}


def test_importing_again_changes_nothing(comfy: Path, models: Path) -> None:
    first = import_models(comfy, models)
    before = files_of(models)
    again = import_models(comfy, models)
    assert again.taken == ()
    assert {each.source for each in again.present} == {each.source for each in first.taken}
    assert files_of(models) == before


def test_a_diffusers_folder_becomes_a_model_and_its_shared_parts(tmp_path: Path, models: Path) -> None:
    folder = tmp_path / "my-flux"
    write_shards(
        folder / "transformer", "diffusion_pytorch_model", published.diffusers_transformer(SCHNELL), 3
    )
    write_shards(folder / "text_encoder_2", "model", published.t5(), 2)
    write_sparse(folder / "text_encoder/model.safetensors", published.clip())
    write_sparse(folder / "vae/diffusion_pytorch_model.safetensors", published.diffusers_autoencoder())
    write_tokenizers(folder)
    done = import_models(folder, models)
    assert done.left == ()
    assert len(files_of(models / "flux1-schnell/transformer")) == 4
    spec, own = catalog.locate(SCHNELL, (models,))
    assert own / spec.files.transformer == models / "flux1-schnell/transformer"
    assert own / spec.files.t5 == models / "t5-xxl/text_encoder_2"
    for at, name in ((spec.files.t5_tokenizer, "tokenizer_2"), (spec.files.clip_tokenizer, "tokenizer")):
        assert all((own / at / file).samefile(folder / name / file) for file in TOKENIZERS[name])
    assert import_models(folder, models).taken == ()


def test_the_tokenizers_of_another_model_are_left(tmp_path: Path, models: Path) -> None:
    bundled = Path(__file__).parents[3] / "resources" / "models" / "tiny"
    for name in TOKENIZERS:
        shutil.copytree(bundled / name, tmp_path / "other" / name)
    write_sparse(tmp_path / "other" / "ae.safetensors", published.bfl_autoencoder())
    done = import_models(tmp_path / "other", models)
    assert len([left for left in done.left if "the tokenizer of another model" in left.reason]) == 2
    assert catalog.missing_parts(DEV, (models,)) >= {"t5_tokenizer", "clip_tokenizer"}


def test_a_hugging_face_cache_is_read_through_its_links(tmp_path: Path, models: Path) -> None:
    repo = tmp_path / "hub" / "models--black-forest-labs--FLUX.1-Kontext-dev"
    snapshot = repo / "snapshots" / "abc"
    blob = write_sparse(repo / "blobs" / "0123", published.bfl_transformer(DEV))
    snapshot.mkdir(parents=True)
    (snapshot / "weights.safetensors").symlink_to("../../blobs/0123")
    (repo / "snapshots" / "older").mkdir()
    (repo / "snapshots" / "older" / "weights.safetensors").symlink_to("../../blobs/0123")
    done = import_models(tmp_path / "hub", models)
    assert placed(done) == {"weights.safetensors": "flux1-kontext-dev/flux1-kontext-dev.safetensors"}
    at = models / "flux1-kontext-dev/flux1-kontext-dev.safetensors"
    assert at.samefile(blob)
    assert not at.is_symlink()  # so the cache may be emptied
    shutil.rmtree(tmp_path / "hub")
    assert inspect(at).found is not None


def test_an_all_in_one_file_gets_a_name_for_each_part(tmp_path: Path, models: Path) -> None:
    file = write_sparse(tmp_path / "flux1-schnell-all.safetensors", published.all_in_one(SCHNELL))
    import_models(file, models)
    assert files_of(models / "flux1-schnell") == [
        "ae.safetensors", "flux1-schnell.safetensors", "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors",
    ]  # fmt: skip
    assert all(path.samefile(file) for path in (models / "flux1-schnell").rglob("*.safetensors"))
    assert catalog.missing_parts(SCHNELL, (models,)) == {"t5_tokenizer", "clip_tokenizer"}
    assert catalog.bytes_in(models / "flux1-schnell") == file.stat().st_size


def test_an_open_question_is_asked_and_answered_with_as(tmp_path: Path, models: Path) -> None:
    file = write_sparse(tmp_path / "dream.safetensors", fp8(published.bfl_transformer(DEV)))
    error = refused(file, models)
    assert "FLUX.1 [dev], FLUX.1 Krea [dev] or FLUX.1 Kontext [dev]" in error.message
    assert "--as flux1-krea-dev" in error.hint
    error = refused(file, models, as_model="flux1-fill-dev")
    assert "is not FLUX.1 Fill [dev], but: FLUX.1 transformer, dev family" in error.message
    assert "nothing called 'flux9'" in refused(file, models, as_model="flux9").message
    import_models(file, models, as_model="flux1-krea-dev")
    assert files_of(models) == ["flux1-krea-dev/flux1-krea-dev.safetensors"]


def test_what_a_person_says_weighs_more_than_a_name(tmp_path: Path, models: Path) -> None:
    file = write_sparse(tmp_path / "flux1-dev.safetensors", published.bfl_transformer(DEV))
    import_models(file, models, as_model="flux1-krea-dev")
    assert files_of(models) == ["flux1-krea-dev/flux1-krea-dev.safetensors"]


def test_the_published_form_is_taken_before_its_copies(tmp_path: Path, models: Path) -> None:
    repo = tmp_path / "FLUX.1-schnell"
    names = published.diffusers_transformer(SCHNELL)
    write_shards(repo / "a_transformer", "diffusion_pytorch_model", names, 2)
    write_sparse(repo / "flux1-schnell.safetensors", published.bfl_transformer(SCHNELL))
    write_sparse(repo / "a_vae/diffusion_pytorch_model.safetensors", published.diffusers_autoencoder())
    write_sparse(repo / "ae.safetensors", published.bfl_autoencoder())
    done = import_models(repo, models)
    assert sorted(placed(done)) == ["ae.safetensors", "flux1-schnell.safetensors"]
    assert {each.path.name for each in done.left} == {"a_transformer", "diffusion_pytorch_model.safetensors"}


def test_an_incomplete_set_of_shards_is_one_reason(tmp_path: Path, models: Path) -> None:
    index = write_shards(tmp_path / "t", "model", published.t5(), 3)
    next(index.parent.glob("*-00002-of-*")).unlink()
    done = import_models(tmp_path / "t", models)
    (left,) = done.left
    assert "lacks 1 of 3 shards: model-00002-of-00003.safetensors" in left.reason


@pytest.mark.parametrize("named", ["the folder", "one shard"])
def test_shards_without_an_index_are_one_find_and_are_found_where_they_are_put(
    tmp_path: Path, models: Path, named: str
) -> None:
    folder = tmp_path / "t"
    write_shards(folder, "model", published.t5(), 3).unlink()
    path = folder if named == "the folder" else folder / "model-00002-of-00003.safetensors"
    (seen,) = inspect_all(path)
    assert seen.num_tensors == len(published.t5())
    done = import_models(path, models)
    assert [len(each.places) for each in done.taken] == [3]
    assert done.left == ()
    assert "t5" not in catalog.missing_parts(DEV, (models,))


def test_a_set_without_an_index_says_which_shard_is_missing(tmp_path: Path, models: Path) -> None:
    folder = tmp_path / "t"
    write_shards(folder, "model", published.t5(), 3).unlink()
    lost = folder / "model-00002-of-00003.safetensors"
    lost.unlink()
    done = import_models(folder, models)
    (left,) = done.left
    assert f"lacks 1 of 3 shards: {lost.name}" in left.reason
    assert "lacks 1 of 3 shards" in inspect_all(folder)[0].problem
    err = refused(folder / "model-00001-of-00003.safetensors", models, Corrupt)
    assert f"lacks 1 of 3 shards: {lost.name}" in err.message


def test_what_is_left_is_told_what_is_in_its_place_and_not_what_was_left_too(
    tmp_path: Path, models: Path
) -> None:
    at_home = write_sparse(models / "ae/ae.safetensors", published.bfl_autoencoder())
    for name in ("a", "b"):
        write_sparse(tmp_path / f"more/{name}.safetensors", published.bfl_autoencoder())
    done = import_models(tmp_path / "more", models)
    assert [each.reason for each in done.left] == [
        f"{name}.safetensors was left: {at_home} is in its place." for name in ("a", "b")
    ]


def test_the_answer_goes_to_the_files_of_a_folder_that_it_fits(tmp_path: Path, models: Path) -> None:
    folder = tmp_path / "mine"
    write_sparse(folder / "a.safetensors", fp8(published.bfl_transformer(DEV)))
    write_sparse(folder / "vae.safetensors", published.bfl_autoencoder())
    done = import_models(folder, models, as_model="flux1-krea-dev")
    assert sorted(placed(done).values()) == ["ae/ae.safetensors", "flux1-krea-dev/flux1-krea-dev.safetensors"]
    with pytest.raises(RequestInvalid, match=r"Nothing in .* can be FLUX\.1 Fill \[dev\]"):
        import_models(folder, models, as_model="flux1-fill-dev")


def test_a_hash_answers_where_names_do_not(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_sparse(tmp_path / "x.safetensors", CONTROL_LORA)
    assert "Canny [dev] LoRA or FLUX.1 Depth [dev] LoRA" in refused(file, models).message
    row = catalog.PARTS["flux1-depth-dev-lora"]
    known = replace(row, downloads=(RemoteFile(row.downloads[0].path, sha256=sha256_of(file)),))
    monkeypatch.setitem(catalog.PARTS, row.model, known)
    import_models(file, models)
    assert files_of(models) == ["flux1-depth-dev-lora/flux1-depth-dev-lora.safetensors"]


def test_loras_and_unknown_controlnets_keep_their_names(tmp_path: Path, models: Path) -> None:
    import_models(write_sparse(tmp_path / "Ink.safetensors", LORA), models)
    union = write_sparse(tmp_path / "net.safetensors", published.controlnet(5, 0, None))
    import_models(union, models)  # its blocks are InstantX's, but anybody's may be
    assert files_of(models) == ["controlnets/net.safetensors", "loras/Ink.safetensors"]
    (models / "controlnets/net.safetensors").unlink()
    import_models(union, models, as_model="instantx-canny")
    assert "instantx-canny/diffusion_pytorch_model.safetensors" in files_of(models)
    assert {path.split("/")[0] for path in files_of(models)} <= {*LIBRARY_FOLDERS.values(), "instantx-canny"}


def test_what_is_there_is_never_replaced(tmp_path: Path, models: Path) -> None:
    one = write_sparse(tmp_path / "a/ae.safetensors", published.bfl_autoencoder())
    other = write_sparse(tmp_path / "b/ae.safetensors", published.bfl_autoencoder())
    import_models(one, models)
    with pytest.raises(RequestInvalid, match=r"ae\.safetensors is in its place") as caught:
        import_models(other, models)
    assert "flowbrush models delete ae" in caught.value.hint
    assert (models / "ae/ae.safetensors").samefile(one)
    sharded = write_shards(tmp_path / "c", "model", published.t5(), 2)
    import_models(write_sparse(tmp_path / "t5xxl.safetensors", published.t5()), models)
    with pytest.raises(RequestInvalid, match=r"text_encoder_2/model\.safetensors is in its place"):
        import_models(sharded, models)


def test_copies_are_files_of_their_own(tmp_path: Path, models: Path) -> None:
    file = tmp_path / "Ink.safetensors"
    save_file({name: np.ones(info.shape, np.float32) for name, info in LORA.items()}, file)
    told: list[tuple[str, int, int]] = []
    import_models(file, models, is_copy=True, on_bytes=lambda *now: told.append(now))
    copy = models / "loras/Ink.safetensors"
    assert copy.read_bytes() == file.read_bytes()
    assert not copy.samefile(file)
    assert told[-1][1] == told[-1][2] == file.stat().st_size


def test_another_file_system_gets_symbolic_links(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_disk(source: object, target: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(linking.os, "link", other_disk)  # no second disk to be had in a test
    file = write_sparse(tmp_path / "Ink.safetensors", LORA)
    import_models(file, models)
    assert (models / "loras/Ink.safetensors").readlink() == file
    assert import_models(file, models).taken == ()


def test_a_failure_in_the_middle_leaves_nothing(
    comfy: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[object] = []
    rename = os.rename

    def fails_late(source: object, target: object) -> None:
        moved.append(target)
        if len(moved) == 5:
            raise OSError(5, "Input/output error")
        rename(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(linking.os, "rename", fails_late)
    refused(comfy, models)
    assert len(moved) >= 5


def test_what_a_killed_import_left_is_swept(tmp_path: Path, models: Path) -> None:
    left = models / ".importing-99999999-abcd" / "loras"
    left.mkdir(parents=True)
    import_models(write_sparse(tmp_path / "Ink.safetensors", LORA), models)
    assert [path.name for path in models.iterdir()] == ["loras"]


@pytest.mark.parametrize("ending", ["ckpt", "pt", "pth", "bin"])
def test_pickles_are_refused_with_the_way_to_convert(tmp_path: Path, models: Path, ending: str) -> None:
    file = tmp_path / f"model.{ending}"
    file.write_bytes(b"\x80\x04.")
    error = refused(file, models)
    assert "is a pickle, which can run any program when it is opened" in error.message
    assert "save_file" in error.hint
    assert f"torch.load('model.{ending}'" in error.hint


def test_the_way_to_convert_never_repeats_a_name_that_could_run(tmp_path: Path, models: Path) -> None:
    file = tmp_path / "a'); import os; ('.ckpt"
    file.write_bytes(b"\x80\x04.")
    assert "import os" not in refused(file, models).hint


def test_links_that_lead_out_of_the_folder_are_left(tmp_path: Path, models: Path) -> None:
    outside = write_sparse(tmp_path / "secret/Other.safetensors", LORA)
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "innocent.safetensors").symlink_to(outside)
    (folder / "nowhere.safetensors").symlink_to(tmp_path / "gone")
    (folder / "loop").symlink_to(folder)
    (folder / "elsewhere").symlink_to(outside.parent)
    os.mkfifo(folder / "pipe.safetensors")
    done = import_models(folder, models)
    reasons = {each.path.name: each.reason for each in done.left}
    assert "leads out of the folder" in reasons["innocent.safetensors"]
    assert "leads nowhere" in reasons["nowhere.safetensors"]
    assert "not a plain file" in reasons["pipe.safetensors"]
    assert "link to a folder" in reasons["loop"]
    assert "link to a folder" in reasons["elsewhere"]
    assert (done.taken, models.exists()) == ((), False)
    import_models(folder / "innocent.safetensors", models)  # the person named it
    assert files_of(models) == ["loras/innocent.safetensors"]


@pytest.mark.parametrize(
    ("weight_map", "sentence"),
    [
        ({"a": "../../etc/passwd"}, "which is not beside it"),
        ({"a": "gone.safetensors"}, "lacks 1 of 1 shards: gone.safetensors"),
        ({}, "names no shards"),
        (["a"], "is not an index of shards"),
    ],
)
def test_a_lying_index_is_refused(tmp_path: Path, models: Path, weight_map: object, sentence: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert sentence in refused(index, models, Corrupt).message


def test_shards_whose_links_lead_elsewhere_are_left(tmp_path: Path, models: Path) -> None:
    index = write_shards(tmp_path / "real", "model", published.t5(), 2)
    given = tmp_path / "given"
    given.mkdir()
    shutil.copy(index, given)
    for shard in index.parent.glob("*.safetensors"):
        (given / shard.name).symlink_to(shard)
    assert "leads out of the folder" in refused(given / index.name, models).message


def test_gguf_files_are_taken_under_their_own_ending(tmp_path: Path, models: Path) -> None:
    file = write_sparse_gguf(tmp_path / "flux1-kontext-dev-Q4_K_S.gguf", published.bfl_transformer(DEV))
    assert (found := inspect(file)).num_parameters == 11_901_408_320
    assert found.dtypes == {"F32": 476, "Q4_K": 304}
    import_models(file, models)
    assert files_of(models) == ["flux1-kontext-dev/flux1-kontext-dev.gguf"]
    assert "transformer" not in catalog.missing_parts(catalog.KONTEXT, (models,))


def test_what_is_missing_or_damaged_is_said(tmp_path: Path, models: Path) -> None:
    assert "cannot be read" in refused(tmp_path / "gone.safetensors", models, ModelMissing).message
    (tmp_path / "x.safetensors").write_bytes(b"no")
    assert "not a sound safetensors file" in refused(tmp_path / "x.safetensors", models, Corrupt).message
    (tmp_path / "x.txt").write_bytes(b"no")
    assert "neither a safetensors nor a GGUF" in refused(tmp_path / "x.txt", models, Corrupt).message
    (tmp_path / "empty").mkdir()
    assert "holds no weights" in refused(tmp_path / "empty", models).message


def test_inspecting_a_folder_says_what_everything_is(comfy: Path) -> None:
    found = {each.path.name: each for each in inspect_all(comfy)}
    dev = found["flux1-dev.safetensors"]
    assert dev.num_parameters == 11_901_408_320
    assert dev.dtypes == {"BF16": 780}
    assert dev.as_json()["candidates"] == ["flux1-dev"]
    assert "In the catalog: FLUX.1 [dev], by its name." in "\n".join(dev.lines())
    assert "pickle" in found["v1-5.ckpt"].problem
    assert found["flux1-dev-fp8.safetensors"].as_json()["storage"] == "fp8 (e4m3)"


def test_inspecting_shards_counts_them_as_one(tmp_path: Path) -> None:
    index = write_shards(tmp_path, "diffusion_pytorch_model", published.diffusers_transformer(CANNY), 3)
    for path in (index, tmp_path):
        (found,) = [inspect(path)] if path == index else inspect_all(path)
        assert (found.num_tensors, found.num_parameters) == (1160, 11_901_604_928)
        assert found.as_json()["question"] == (
            "Its tensors do not say whether it is FLUX.1 Canny [dev] or FLUX.1 Depth [dev]."
        )


def test_nothing_of_the_weights_is_read(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    inspect(write_sparse(tmp_path / "flux1-dev.safetensors", published.bfl_transformer(DEV)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes, of 24 GB


def test_tiny_parts_that_fit_no_row_are_named(tmp_path: Path, models: Path) -> None:
    names = {"encoder.conv_in.weight": (32, 3, 3, 3), "decoder.conv_in.weight": (128, 16, 3, 3)}
    file = write_sparse(tmp_path / "ae.safetensors", {n: TensorInfo("F32", s) for n, s in names.items()})
    assert (
        "fits no model of the catalog. It is 128 wide where FLUX.1's is 512." in refused(file, models).message
    )
