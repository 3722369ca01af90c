"""`flowbrush models` from the outside: what it prints, what it asks, and how it fails."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from desktop.commands.main import run
from flux_core import catalog
from flux_core.catalog import DEV, FILL
from tests.desktop.commands.conftest import Said
from tests.support import published
from tests.support.hub_server import Hub, serve
from tests.support.published import Infos, infos, write_sparse

TOKEN = "hf_TopSecretTokenOfThisTest"
LORA = infos({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (4, 3072)})
TAEF1 = "madebyollin/taef1"


def fp8(names: Infos) -> Infos:
    return {name: replace(info, dtype="F8_E4M3") for name, info in names.items()}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "home" / "models"


@pytest.fixture
def program(models: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Callable[..., Said]:
    """The command line with a home of its own; models need no service."""
    monkeypatch.setenv("FLOWBRUSH_HOME", str(models.parent))
    monkeypatch.delenv("HF_TOKEN", raising=False)

    def call(*arguments: object) -> Said:
        capsys.readouterr()
        code = run(["models", *(str(argument) for argument in arguments)])
        said = capsys.readouterr()
        assert TOKEN not in said.out + said.err
        assert "Traceback" not in said.err
        return Said(code, said.out, said.err)

    return call


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program) -> Iterator[Hub]:
    weights = write_sparse(tmp_path / "taef1.safetensors", published.taef1()).read_bytes()
    files = {f"{TAEF1}/diffusion_pytorch_model.safetensors": weights, f"{TAEF1}/config.json": b"{}"}
    with serve(Hub(files=files)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def test_the_list_holds_every_row_with_its_licence_and_state(program, models: Path, tmp_path: Path) -> None:
    write_sparse(models / "ae/ae.safetensors", published.bfl_autoencoder())
    write_sparse(models / "flux1-dev/flux1-dev.safetensors", published.bfl_transformer(DEV))
    write_sparse(models / "loras/Ink.safetensors", LORA)
    said = program("list")
    lines = {line.split()[0]: line for line in said.out.splitlines() if line}
    assert {row.model for row in catalog.rows()} <= lines.keys()
    assert "335 MB" in lines["ae"]
    assert "lacks clip-l, t5-xxl  " in lines["flux1-dev"]
    assert "  fill  " in lines["flux1-fill-dev"]
    assert "Non-Commercial" in lines["flux1-krea-dev"]
    assert "loras/Ink.safetensors" in lines
    rows = {row["model"]: row for row in program("list", "--json").json}
    assert rows["ae"]["is_installed"] is True
    assert rows["flux1-dev"]["is_installed"] is False
    assert rows["flux1-redux-dev"]["works_with"] == ["flux1-dev", "flux1-krea-dev", "flux1-schnell"]
    assert rows["flux1-fill-dev"]["tasks"] == ["fill"]


def test_inspect_says_what_a_file_is(program, tmp_path: Path) -> None:
    file = write_sparse(tmp_path / "x.safetensors", published.bfl_transformer(DEV))
    said = program("inspect", file)
    assert "FLUX.1 transformer, dev family with 19 double and 38 single blocks, BFL names" in said.out
    assert "whether it is FLUX.1 [dev], FLUX.1 Krea [dev] or FLUX.1 Kontext [dev]" in said.out
    assert "780 tensors (780 BF16), 11,901,408,320 parameters, 23,802.9 MB" in said.out
    (found,) = program("inspect", file, "--json").json
    assert found["candidates"] == ["flux1-dev", "flux1-krea-dev", "flux1-kontext-dev"]
    assert program("inspect", tmp_path / "gone.safetensors").code == 1
    (tmp_path / "old.ckpt").write_bytes(b"\x80")
    said = program("inspect", tmp_path / "old.ckpt")
    assert said.code == 2
    assert said.err.startswith("old.ckpt is a pickle")


def test_get_downloads_checks_and_says_where(program, hub: Hub, models: Path) -> None:
    said = program("get", "taef1")
    assert said.code == 0
    assert str(models / "taef1/diffusion_pytorch_model.safetensors") in said.out
    notes = [line for line in said.err.splitlines() if not line.endswith(" MB")]
    assert len(notes) < len(said.err.splitlines())  # the rest is how far it is
    assert notes == [
        "TAEF1 small autoencoder: MIT",
        f"  {TAEF1}/diffusion_pytorch_model.safetensors",
        f"  {TAEF1}/config.json",
    ]
    assert program("get", "taef1").out == "TAEF1 small autoencoder is here already.\n"
    assert program("get", "taef1", "--json").json == {"model": "taef1", "files": []}
    assert "ok  " in program("verify", "taef1").out


def test_get_explains_gated_models_and_never_shows_the_token(
    program, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated = {DEV.repository}
    hub.files[f"{DEV.repository}/flux1-dev.safetensors"] = b""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    said = program("get", "flux1-dev")
    assert said.code == 1
    assert "FLUX.1 [dev] can only be downloaded by those who have accepted its terms." in said.err
    assert f"{hub.url}/{DEV.repository}" in said.err
    assert hub.seen[0].authorization == f"Bearer {TOKEN}"
    error = program("get", "flux1-dev", "--json").json["error"]
    assert error["code"] == "model_missing"


def test_get_refuses_what_is_not_the_published_file(program, hub: Hub, models: Path) -> None:
    hub.files["black-forest-labs/FLUX.1-schnell/ae.safetensors"] = b"another"
    said = program("get", "ae")
    assert said.code == 1
    assert "now holds another ae.safetensors" in said.err
    assert not (models / "ae").exists()


def test_get_names_what_cannot_be_got(program) -> None:
    assert "comes with Flowbrush" in program("get", "tiny").err
    assert program("get", "flux9").code == 2


def test_import_links_reports_and_says_what_is_lacking(program, tmp_path: Path, models: Path) -> None:
    folder = tmp_path / "ComfyUI/models"
    write_sparse(folder / "unet/flux1-dev.safetensors", published.bfl_transformer(DEV))
    write_sparse(folder / "vae/ae.safetensors", published.bfl_autoencoder())
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/old.ckpt").write_bytes(bytes(2_000_000))
    said = program("import", folder)
    assert said.code == 0
    assert "as flux1-dev: FLUX.1 transformer, dev family." in said.out
    assert "old.ckpt is a pickle" in said.err
    assert "FLUX.1 [dev] still lacks clip-l, t5-xxl: flowbrush models get flux1-dev." in said.err
    write_sparse(folder / "clip/clip_l.safetensors", published.clip())
    write_sparse(folder / "clip/t5xxl_fp16.safetensors", published.t5())
    program("import", folder)
    assert "lacks clip-l tokenizer, t5-xxl tokenizer" in program("list").out
    assert "is here already as flux1-dev" in program("import", folder).out
    done = program("import", folder, "--json").json
    assert {each["model"] for each in done["present"]} == {"flux1-dev", "ae", "clip-l", "t5-xxl"}
    assert done["left"][0]["path"].endswith("old.ckpt")


def test_import_asks_what_tensors_cannot_say(program, tmp_path: Path, models: Path) -> None:
    file = write_sparse(tmp_path / "dream.safetensors", fp8(published.bfl_transformer(DEV)))
    said = program("import", file)
    assert said.code == 2
    assert "--as flux1-dev or --as flux1-krea-dev or --as flux1-kontext-dev" in said.err
    assert program("import", file, "--as", "flux1-krea-dev").code == 0
    assert (models / "flux1-krea-dev/flux1-krea-dev.safetensors").samefile(file)
    other = tmp_path / "other"
    write_sparse(other / "sd.safetensors", infos({"conditioner.embedders.0.x": (1,)}))
    said = program("import", other)
    assert said.code == 2
    assert "sd.safetensors is a Stable Diffusion XL checkpoint." in said.err
    assert program("import", other, "--json").code == 2


def test_delete_asks_first_and_tells_what_stays(
    program, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_sparse(tmp_path / "flux1-fill-dev.safetensors", published.bfl_transformer(FILL))
    program("import", file)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    said = program("delete", "flux1-fill-dev")
    assert said.code == 130
    assert "holds 1 file; 1 of them keeps its original elsewhere. Deleting it frees 0 MB." in said.out
    assert (models / "flux1-fill-dev").exists()
    said = program("delete", "flux1-fill-dev", "--yes", "--json")
    assert said.json == {"model": "flux1-fill-dev", "files": 1, "freed_bytes": 0, "is_deleted": True}
    assert file.exists()
    assert program("delete", "tiny", "--yes").code == 2
    assert program("delete", "flux1-fill-dev", "--yes").code == 1


def test_verify_fails_when_a_file_is_damaged(program, models: Path) -> None:
    assert "models/tiny/transformer.safetensors: its header is sound" in program("verify").out
    path = write_sparse(models / "ae/ae.safetensors", published.bfl_autoencoder())
    os.truncate(path, 100_000)
    said = program("verify", "--json")
    assert said.code == 1
    assert [Path(one["path"]).name for one in json.loads(said.out) if not one["is_sound"]] == [
        "ae.safetensors"
    ]
    assert program("verify", "flux1-dev").code == 1
