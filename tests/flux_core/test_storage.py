"""Files are replaced whole or not at all, where they are and as open as they were."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from flux_core.errors import RequestInvalid
from flux_core.storage import write_atomically


def test_a_new_file_gets_the_usual_permissions(tmp_path: Path) -> None:
    usual, ours = tmp_path / "usual", tmp_path / "ours"
    usual.write_bytes(b"")
    write_atomically(ours, b"x")
    assert ours.stat().st_mode == usual.stat().st_mode


def test_a_private_file_is_private_from_the_first_byte(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    modes: list[int] = []

    def write(file: BinaryIO) -> None:
        file.write(b"secret")
        modes.append(os.fstat(file.fileno()).st_mode & 0o777)

    write_atomically(path, write)
    assert [*modes, path.stat().st_mode & 0o777] == [0o600, 0o600]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "picture.ora", tmp_path / "link.ora"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["n" * 251 + ".png", "\u753b" * 83 + ".png"], ids=["latin", "chinese"])
def test_the_longest_names_can_be_written(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, b"x")
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyError

    with pytest.raises(KeyError):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RequestInvalid, match="cannot be written: No such file"):
        write_atomically(tmp_path / "none" / "file", b"x")
