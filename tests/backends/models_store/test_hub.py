"""Downloads from a hub on this machine: whole, resumed after cuts, checked, refused, and never indiscreet."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backends.models_store import hub as downloads
from backends.models_store.hub import Wanted, wanted_files
from flux_core import catalog
from flux_core.catalog import Kind, PartSpec, RemoteFile
from flux_core.errors import ConnectionLost, Corrupt, FluxError, ModelMissing, RequestInvalid, StorageFull
from tests.support.hub_server import Hub, serve

ROOT = Path(__file__).parents[3]
TOKEN = "hf_TopSecretTokenOfThisTest"
REPO = "someone/some-model"
BIG = np.random.default_rng(0).bytes(12_500_000)  # the hub's library keeps what came in steps of 10 MB
KEPT = 10 * 2**20
SMALL = b"{}"

ROW = PartSpec(
    model="testpart",
    title="Test part",
    licence="MIT",
    kind=Kind.AUTOENCODER,
    repository=REPO,
    downloads=(
        RemoteFile("big.safetensors", size_bytes=len(BIG), sha256=hashlib.sha256(BIG).hexdigest()),
        RemoteFile("sub/config.json", place="config.json"),
    ),
)
WANTED = [Wanted(ROW, file) for file in ROW.downloads]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serve(Hub(files={f"{REPO}/big.safetensors": BIG, f"{REPO}/sub/config.json": SMALL})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def refused(kind: type[FluxError], models: Path, wanted: list[Wanted] = WANTED) -> FluxError:
    """The error of a download, which is one sentence and a hint and gives nothing away."""
    with pytest.raises(kind) as caught:
        downloads.get(wanted, models)
    assert caught.value.message.endswith(".")
    assert caught.value.hint.endswith(".")
    assert TOKEN not in f"{caught.value} {caught.value.__cause__}"
    assert "X-Amz" not in str(caught.value)
    return caught.value


def leftovers(models: Path) -> list[str]:
    return sorted(path.name for path in (models / ".downloads").glob("*.part"))


def test_files_land_under_their_places_and_progress_is_told(hub: Hub, models: Path) -> None:
    told: list[tuple[str, int, int]] = []
    paths = downloads.get(WANTED, models, lambda *now: told.append(now))
    assert paths == [models / "testpart/big.safetensors", models / "testpart/config.json"]
    assert paths[0].read_bytes() == BIG
    assert paths[1].read_bytes() == SMALL
    assert ("big.safetensors", len(BIG), len(BIG)) in told
    assert [name for name, done, total in told if done > total] == []
    assert not (models / ".downloads").exists()
    assert [each.method for each in hub.seen] == ["HEAD", "HEAD", "GET", "GET"]  # and it tells nothing more


def test_a_cut_in_mid_file_goes_on_in_the_same_run(hub: Hub, models: Path) -> None:
    hub.cuts = [11_000_000]
    assert downloads.get(WANTED, models)[0].read_bytes() == BIG
    assert hub.ranges() == [None, f"bytes={KEPT}-", None]


def test_what_came_before_a_failure_is_not_read_again(hub: Hub, models: Path) -> None:
    hub.cuts, hub.is_down_after_cut = [11_000_000], True
    assert "goes on where it stopped" in refused(ConnectionLost, models).hint
    assert not (models / "testpart").exists()
    assert (models / ".downloads" / leftovers(models)[0]).stat().st_size == KEPT
    hub.is_down, hub.seen = False, []
    assert downloads.get(WANTED, models)[0].read_bytes() == BIG
    assert hub.ranges() == [f"bytes={KEPT}-", None]


def test_a_killed_download_goes_on_in_the_next(hub: Hub, models: Path, tmp_path: Path) -> None:
    hub.hold_after = 11_000_000
    code = (
        "import sys; from pathlib import Path; from backends.models_store import hub\n"
        "from tests.backends.models_store.test_hub import WANTED\n"
        "hub.get(WANTED, Path(sys.argv[1]))"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code, str(models)], env=environ, cwd=ROOT)
    assert hub.holding.wait(60)
    part = models / ".downloads"
    while not any(path.stat().st_size == KEPT for path in part.glob("*.part")):
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.release.set()
    hub.seen.clear()
    assert downloads.get(WANTED, models)[0].read_bytes() == BIG
    assert hub.ranges() == [f"bytes={KEPT}-", None]


def test_another_version_of_the_file_does_not_go_on_from_the_old(hub: Hub, models: Path) -> None:
    hub.cuts, hub.is_down_after_cut = [11_000_000], True
    file = RemoteFile("big.safetensors")
    refused(ConnectionLost, models, [Wanted(ROW, file)])
    newer = BIG[::-1]
    hub.files[f"{REPO}/big.safetensors"], hub.is_down, hub.seen = newer, False, []
    assert downloads.get([Wanted(ROW, file)], models)[0].read_bytes() == newer
    assert hub.ranges() == [None]


def test_a_repository_that_holds_another_file_is_refused_before_it_is_read(hub: Hub, models: Path) -> None:
    hub.files[f"{REPO}/big.safetensors"] = BIG[1:] + b"x"
    assert "now holds another big.safetensors" in refused(Corrupt, models).message
    assert hub.ranges() == []


def test_wrong_bytes_are_removed_and_said_in_one_sentence(hub: Hub, models: Path) -> None:
    hub.etags[f"{REPO}/big.safetensors"] = ROW.downloads[0].sha256
    hub.files[f"{REPO}/big.safetensors"] = BIG[1:] + b"x"
    assert "another sha256" in refused(Corrupt, models).message
    assert leftovers(models) == []
    assert not (models / "testpart").exists()


def test_a_hash_that_only_the_hub_knows_is_checked_too(hub: Hub, models: Path) -> None:
    hub.etags[f"{REPO}/sub/config.json"] = "0" * 64
    assert "config.json arrived with another sha256" in refused(Corrupt, models, WANTED[1:]).message


def test_gated_models_say_which_page_to_open_and_how_to_log_in(
    hub: Hub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated, hub.accepted = {REPO}, {TOKEN}
    error = refused(ModelMissing, models)
    assert "accepted its terms" in error.message
    assert f"{hub.url}/{REPO}" in error.hint
    assert "HF_TOKEN" in error.hint
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    assert "accepted its terms" in refused(ModelMissing, models).message
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert downloads.get(WANTED, models)[0].read_bytes() == BIG
    assert hub.seen[-1].authorization == f"Bearer {TOKEN}"


def test_the_token_is_not_sent_to_the_host_that_only_stores_files(
    hub: Hub, models: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serve(Hub(files=dict(hub.files), cuts=[11_000_000])) as cdn:
        hub.cdn = cdn.url.replace("127.0.0.1", "localhost")
        assert downloads.get(WANTED, models)[0].read_bytes() == BIG
        assert {each.authorization for each in cdn.seen} == {None}
        assert cdn.ranges() == [None, f"bytes={KEPT}-", None]
    assert {each.authorization for each in hub.seen} == {f"Bearer {TOKEN}"}
    said = "".join(capfd.readouterr())
    assert said == ""  # nothing of the library's own log, which would show the signed address


@pytest.mark.parametrize(
    ("repository", "path", "sentence"),
    [
        ("someone/else", "big.safetensors", "no repository someone/else"),
        (REPO, "gone.safetensors", "has no file gone.safetensors"),
    ],
)
def test_what_is_not_there_is_named(
    hub: Hub, models: Path, repository: str, path: str, sentence: str
) -> None:
    assert (
        sentence
        in refused(ModelMissing, models, [Wanted(ROW, RemoteFile(path, repository=repository))]).message
    )


def test_a_disk_that_is_too_small_is_said_before_anything_is_read(hub: Hub, models: Path) -> None:
    hub.sizes[f"{REPO}/sub/config.json"] = 10**16
    assert "10,000,000.0 GB are needed" in refused(StorageFull, models).message
    assert hub.ranges() == []


def test_a_hub_that_does_not_answer_is_one_sentence(
    hub: Hub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "127.0.0.1:9 broke" in refused(ConnectionLost, models).message


def test_two_downloads_of_one_file_do_not_mix(hub: Hub, models: Path) -> None:
    from huggingface_hub.utils import WeakFileLock

    hub.cuts, hub.is_down_after_cut = [11_000_000], True
    refused(ConnectionLost, models)
    hub.is_down = False
    lock = next((models / ".downloads").glob("*.lock"))
    with WeakFileLock(lock):
        assert "Another download of big.safetensors is running" in refused(RequestInvalid, models).message
    assert downloads.get(WANTED, models)[0].read_bytes() == BIG


def test_only_what_is_missing_is_wanted(models: Path) -> None:
    def names(row: str) -> list[str]:
        found = wanted_files(catalog.find_row(row), models, (models,))
        return [f"{each.row.model}/{each.file.name}" for each in found]

    assert names("flux1-dev")[0] == "flux1-dev/flux1-dev.safetensors"
    assert "t5-xxl/text_encoder_2/model.safetensors" in names("flux1-dev")
    for name in names("flux1-dev"):
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        (models / name).touch()
    assert names("flux1-dev") == []
    assert names("flux1-fill-dev") == ["flux1-fill-dev/flux1-fill-dev.safetensors"]
    (models / "t5-xxl/text_encoder_2/model.safetensors").rename(models / "t5-xxl/text_encoder_2/model.gguf")
    assert names("t5-xxl") == names("flux1-dev") == []
    assert names("flux1-redux-dev")[1:] == [
        "siglip-so400m/image_encoder/model.safetensors",
        "siglip-so400m/image_encoder/config.json",
    ]
