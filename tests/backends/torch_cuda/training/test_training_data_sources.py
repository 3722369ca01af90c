"""Where training pictures come from: licences, attribution, and safe unpacking."""

import dataclasses
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from backends.torch_cuda.training.data.fetch import unpack
from backends.torch_cuda.training.data.sources import ALLOWED_LICENCES, SOURCES, Source
from flux_core.errors import Corrupt

ATTRIBUTION = Path(__file__).parents[4] / "resources" / "models" / "ATTRIBUTION.md"


def _source(archive: Path, **rest: object) -> Source:
    base = Source(
        folder="x",
        registry="npm",
        package="some-package",
        version="1.0.0",
        author="Someone",
        licence="MIT",
        stated_in="package.json",
        wanted=("package/data/*",),
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
    )
    return dataclasses.replace(base, **rest)


def _tgz(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.package)
def test_every_source_has_an_allowed_licence_a_version_and_a_checksum(source: Source) -> None:
    assert set(source.licence.split(" AND ")) <= ALLOWED_LICENCES
    assert source.author
    assert source.stated_in
    assert source.version[0].isdigit()
    assert len(source.sha256) == 64 or source.members


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.package)
def test_every_source_is_credited_in_the_attribution(source: Source) -> None:
    lines = ATTRIBUTION.read_text(encoding="utf-8").splitlines()
    row = next(line for line in lines if line.startswith(f"| {source.package} |"))
    assert f"| {source.version} |" in row
    assert f"| {source.licence} |" in row


def test_only_wanted_files_are_written(tmp_path: Path) -> None:
    archive = _tgz(tmp_path / "a.tgz", {"package/data/a.txt": b"a", "package/run.js": b"evil"})
    written = unpack(_source(archive), archive, tmp_path / "out")
    assert written == [tmp_path / "out" / "data" / "a.txt"]
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["a.txt"]


def test_another_archive_is_refused(tmp_path: Path) -> None:
    archive = _tgz(tmp_path / "a.tgz", {"package/data/a.txt": b"a"})
    with pytest.raises(Corrupt, match="not the expected one"):
        unpack(_source(archive, sha256="0" * 64), archive, tmp_path / "out")


def test_a_name_that_climbs_out_is_refused(tmp_path: Path) -> None:
    archive = _tgz(tmp_path / "a.tgz", {"package/data/../../../escape.txt": b"a"})
    with pytest.raises(Corrupt, match="unsafe name"):
        unpack(_source(archive), archive, tmp_path / "out")
    assert not (tmp_path / "escape.txt").exists()


def test_a_link_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.tgz"
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("package/data/link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(Corrupt, match="lacks"):
        unpack(_source(path), path, tmp_path / "out")


def test_members_of_a_wheel_are_checked_one_by_one(tmp_path: Path) -> None:
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w") as bundle:
        bundle.writestr("package/data/a.txt", b"a")
        bundle.writestr("package/data/b.txt", b"b")
    good = hashlib.sha256(b"a").hexdigest()
    source = _source(wheel, sha256="", members=(("package/data/a.txt", good),))
    assert [path.name for path in unpack(source, wheel, tmp_path / "out")] == ["a.txt"]
    with pytest.raises(Corrupt, match="not the expected file"):
        unpack(
            _source(wheel, sha256="", members=(("package/data/a.txt", "0" * 64),)), wheel, tmp_path / "out"
        )
    with pytest.raises(Corrupt, match=r"lacks package/data/c\.txt"):
        unpack(_source(wheel, sha256="", members=(("package/data/c.txt", good),)), wheel, tmp_path / "out")
