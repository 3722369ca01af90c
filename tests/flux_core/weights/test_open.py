"""What a path holds is told by its contents; whatever is not weights is refused in one sentence."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from backends.models_store.reading import open_any
from flux_core.errors import Corrupt, FluxError, ModelMissing, RequestInvalid
from flux_core.weights.open import open_source
from flux_core.weights.tensors import TensorSource
from tests.support import layouts

WEIGHTS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.bias": np.ones(4, np.float32),
    "c": np.full((2, 2), 7, np.float32),
}


def values(source: TensorSource) -> dict[str, np.ndarray]:
    return {name: source.read(name).to_numpy() for name in source.names()}


def assert_holds_weights(source: TensorSource) -> None:
    found = values(source)
    assert set(found) == set(WEIGHTS)
    assert all(np.array_equal(found[name], array) for name, array in WEIGHTS.items())


def write_shards(folder: Path, stem: str = "model") -> Path:
    """Two shards and their index, the way the libraries name them."""
    names = [f"{stem}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    save_file({"a.weight": WEIGHTS["a.weight"]}, folder / names[0])
    save_file({"b.bias": WEIGHTS["b.bias"], "c": WEIGHTS["c"]}, folder / names[1])
    index = folder / f"{stem}.safetensors.index.json"
    weight_map = {"a.weight": names[0], "b.bias": names[1], "c": names[1]}
    index.write_text(json.dumps({"metadata": {"total_size": 56}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("name", ["w.safetensors", "w.ckpt", "w.gguf", "w"])
def test_a_safetensors_file_opens_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    save_file(WEIGHTS, tmp_path / name)
    assert_holds_weights(open_source(tmp_path / name))


@pytest.mark.parametrize("name", ["w.gguf", "w.safetensors", "w.bin"])
def test_a_gguf_file_opens_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    layouts.gguf_file()(tmp_path, WEIGHTS)
    (tmp_path / "part.gguf").rename(tmp_path / name)
    assert_holds_weights(open_source(tmp_path / name))


@pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model", "anything"])
@pytest.mark.parametrize("what", ["index", "folder", "the file that was cut into shards"])
def test_shards_open_by_index_by_folder_and_by_the_name_of_the_whole(
    tmp_path: Path, stem: str, what: str
) -> None:
    index = write_shards(tmp_path, stem)
    paths = {"index": index, "folder": tmp_path}
    source = open_source(paths.get(what, tmp_path / f"{stem}.safetensors"))
    assert_holds_weights(source)
    assert source.metadata["total_size"] == "56"


MEMBERS = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]


@pytest.mark.parametrize("name", [".", "model.safetensors", *MEMBERS])
@pytest.mark.parametrize("has_index", [True, False])
def test_one_shard_its_folder_and_the_name_of_the_whole_all_mean_the_set(
    tmp_path: Path, name: str, has_index: bool
) -> None:
    index = write_shards(tmp_path)
    if not has_index:
        index.unlink()
    assert_holds_weights(open_source(tmp_path / name))


@pytest.mark.parametrize("name", [".", "model.safetensors", MEMBERS[0]])
def test_a_set_without_an_index_names_the_shard_that_is_missing(tmp_path: Path, name: str) -> None:
    write_shards(tmp_path).unlink()
    (tmp_path / MEMBERS[1]).unlink()
    with pytest.raises(Corrupt, match=rf"lacks 1 of 2 shards: {MEMBERS[1]}\."):
        open_source(tmp_path / name)


def test_two_sets_in_a_folder_are_a_choice(tmp_path: Path) -> None:
    write_shards(tmp_path).unlink()
    write_shards(tmp_path, "other").unlink()
    with pytest.raises(Corrupt, match=r"several sets of weights: model-\*-of-00002\.safetensors, other-"):
        open_source(tmp_path)
    assert_holds_weights(open_source(tmp_path / "other-00002-of-00002.safetensors"))


def test_files_that_people_numbered_are_not_a_set(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "1.safetensors")
    save_file({"x": WEIGHTS["c"]}, tmp_path / "2.safetensors")
    assert_holds_weights(open_source(tmp_path / "1.safetensors"))
    with pytest.raises(Corrupt, match=r"several sets of weights: 1\.safetensors, 2\.safetensors\."):
        open_source(tmp_path)


def test_a_folder_with_one_file_opens(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "weights.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert_holds_weights(open_source(tmp_path))


def test_a_folder_prefers_the_usual_name_over_a_variant(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    save_file({"x": WEIGHTS["c"]}, tmp_path / "model.fp16.safetensors")
    assert_holds_weights(open_source(tmp_path))


def test_shards_may_be_links_into_a_cache(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    index = write_shards(tmp_path)
    for number, path in enumerate(sorted(tmp_path.glob("*.safetensors"))):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    assert_holds_weights(open_source(index))


Spoil = Callable[[Path, dict[str, Any]], object]
BROKEN_INDEXES: dict[str, tuple[Spoil, str]] = {
    "a file outside the folder": (
        lambda folder, index: index["weight_map"].update(c="../w.safetensors"),
        r"names the file '\.\./w\.safetensors', which is no safetensors file of its own folder",
    ),
    "an absolute path": (
        lambda folder, index: index["weight_map"].update(c="/etc/w.safetensors"),
        "no safetensors file of its own folder",
    ),
    "a path of Windows": (
        lambda folder, index: index["weight_map"].update(c="C:w.safetensors"),
        "no safetensors file of its own folder",
    ),
    "a pickle": (
        lambda folder, index: index["weight_map"].update(c="pytorch_model.bin"),
        "no safetensors file of its own folder",
    ),
    "a shard that is not there": (
        lambda folder, index: (folder / index["weight_map"]["c"]).unlink(),
        r"00002-of-00002\.safetensors cannot be read: No such file",
    ),
    "a tensor that is in no shard": (
        lambda folder, index: index["weight_map"].update(d=index["weight_map"]["c"]),
        r"00002-of-00002\.safetensors holds the tensor 'd', which is not so",
    ),
    "a tensor in the wrong shard": (
        lambda folder, index: index["weight_map"].update(c=index["weight_map"]["a.weight"]),
        r"holds the tensor 'c', which is not where .*index\.json says",
    ),
    "a tensor that it does not list": (
        lambda folder, index: index["weight_map"].pop("c"),
        r"holds the tensor 'c', which is not in .*index\.json",
    ),
    "no weight_map": (lambda folder, index: index.pop("weight_map"), "it has no weight_map"),
    "an empty weight_map": (lambda folder, index: index["weight_map"].clear(), "it has no weight_map"),
    "a weight_map of numbers": (
        lambda folder, index: index["weight_map"].update(c=3),
        "its weight_map gives no file for 'c'",
    ),
    "nested metadata": (
        lambda folder, index: index["metadata"].update(deep={"er": 1}),
        "text or number expected in metadata",
    ),
    "another entry": (lambda folder, index: index.update(more={}), "unexpected or repeated entry 'more'"),
}


@pytest.mark.parametrize("fault", BROKEN_INDEXES)
def test_an_index_that_does_not_fit_its_shards_is_refused(tmp_path: Path, fault: str) -> None:
    path = write_shards(tmp_path)
    index = json.loads(path.read_text())
    spoil, message = BROKEN_INDEXES[fault]
    spoil(tmp_path, index)
    path.write_text(json.dumps(index))
    with pytest.raises(FluxError, match=message) as caught:
        open_source(path)
    assert isinstance(caught.value, Corrupt | ModelMissing)
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"weight_map":', '{"weight_map":{"a":"b.safetensors"}} x', "\xff" * 3, "[" * 9999],
)
def test_an_index_that_is_not_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(Corrupt, match=r"is not a sound index of weights: it is not"):
        open_source(path)


def test_a_tensor_that_two_numbered_shards_hold_is_refused(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "0.safetensors")
    save_file({"c": WEIGHTS["c"]}, tmp_path / "1.safetensors")
    with pytest.raises(Corrupt, match=r"'c', which also lies in 0\.safetensors"):
        open_source(tmp_path)


class RunsAProgram:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["w.ckpt", "w.pt", "w.pth", "w.bin", "w.safetensors", "w.gguf", "w"])
@pytest.mark.parametrize("form", ["torch archive", "old torch", "plain protocol 2", "plain protocol 5"])
def test_a_pickle_is_refused_whatever_it_is_called_and_nothing_of_it_runs(
    tmp_path: Path, name: str, form: str
) -> None:
    path, proof = tmp_path / name, tmp_path / "it-ran"
    hostile = {"weight": torch.ones(2), "x": RunsAProgram(proof)}
    if "torch" in form:
        torch.save(hostile, path, _use_new_zipfile_serialization=form == "torch archive")
    else:
        path.write_bytes(pickle.dumps(hostile["x"], protocol=int(form[-1])))
    with pytest.raises(Corrupt, match="can run any program when it is opened") as caught:
        open_source(path)
    assert "safetensors" in caught.value.hint
    assert not proof.exists()


def test_the_store_of_models_refuses_a_pickle_in_the_same_words(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(pickle.dumps([1], protocol=2))
    with pytest.raises(Corrupt) as opened:
        open_source(path)
    with pytest.raises(RequestInvalid) as imported:
        open_any(path)
    assert str(opened.value) == str(imported.value)
    assert "s.save_file(d.get('state_dict', d), 'w.safetensors')" in opened.value.hint


@pytest.mark.parametrize("protocol", [0, 1])
def test_a_pickle_without_a_mark_is_refused_by_its_suffix(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(pickle.dumps([1], protocol=protocol))
    with pytest.raises(Corrupt, match="can run any program"):
        open_source(path)


def test_a_folder_of_pickles_is_refused_with_the_reason(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(Corrupt, match="can run any program"):
        open_source(tmp_path)


def test_a_safetensors_file_whose_length_looks_like_a_pickle_opens(tmp_path: Path) -> None:
    """A header of 0x280 bytes begins with the mark of pickle protocol 2."""
    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.ljust(0x280)
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    assert (tmp_path / "w.safetensors").read_bytes()[:2] == b"\x80\x02"
    assert list(open_source(tmp_path / "w.safetensors").names()) == ["a"]


NOT_WEIGHTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty|it has 0 bytes"),
    "a web page": (b"<!DOCTYPE html><html>Sign in</html>", "is a web page"),
    "a note of Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "a note of Git LFS",
    ),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "is neither a safetensors nor|not a sound safetensors"),
}


@pytest.mark.parametrize("name", ["w.safetensors", "w.gguf", "w"])
@pytest.mark.parametrize("kind", NOT_WEIGHTS)
def test_what_is_not_weights_is_refused_by_what_it_is(tmp_path: Path, kind: str, name: str) -> None:
    content, message = NOT_WEIGHTS[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Corrupt, match=message):
        open_source(tmp_path / name)


def test_an_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.safetensors", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(Corrupt, match="can run any program"):
        open_source(tmp_path / "w.safetensors")


def test_a_folder_without_weights_or_with_several_sets_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="holds no weights"):
        open_source(tmp_path)
    for name in ("one", "two"):
        save_file(WEIGHTS, tmp_path / f"{name}.safetensors")
    with pytest.raises(Corrupt, match=r"several sets of weights: one\.safetensors, two\.safetensors\."):
        open_source(tmp_path)


def test_nothing_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="cannot be read: No such file"):
        open_source(tmp_path / "w.safetensors")
