"""A killed process loses nothing that was noted more than an interval ago."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from desktop.document import commands
from desktop.document.document import Document
from desktop.document.geometry import Extent
from desktop.files.autosave import Autosave, discard, find_recoverable, recover
from desktop.files.png_cache import PngCache
from flux_core.errors import Corrupt, RequestInvalid
from tests.support.documents import assert_same, everything, noise, raster_layer

NOTE_AND_WAIT = """
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from desktop.document.geometry import Extent
from desktop.files.autosave import Autosave
from tests.support.documents import everything
journal = Autosave(Path(sys.argv[1]), "my picture", Path("/somewhere/my picture.ora"), interval_s=0.01)
state = everything()
width = 300
while True:
    journal.note(replace(state, size=Extent(width, 280)), state.layers[2].id)
    assert journal.flush()
    print(width, flush=True)
    width += 1
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a POSIX thing")
def test_after_a_kill_the_last_noted_document_is_recovered(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen(
        [sys.executable, "-c", NOTE_AND_WAIT, str(tmp_path)], env=environment, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    for _ in range(5):
        assert process.stdout.readline()
    assert find_recoverable(tmp_path) == [], "a living process holds its journal"
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    last = int(rest.split()[-1]) if rest.split() else 304

    (found,) = find_recoverable(tmp_path)
    assert (found.title, found.path) == ("my picture", Path("/somewhere/my picture.ora"))
    opened = recover(found)
    assert opened.state.size.width in (last, last + 1)
    wanted = replace(everything(), size=opened.state.size)
    assert_same(opened.state, wanted, has_same_ids=False)
    assert opened.active_id == opened.state.layers[2].id
    discard(found)
    assert find_recoverable(tmp_path) == []


def leave_behind(journal: Autosave) -> None:
    """What a crash does to a journal, as far as other processes can tell."""
    journal._lock.release()


def test_a_saved_or_closed_document_leaves_nothing_to_recover(tmp_path: Path) -> None:
    journal = Autosave(tmp_path, "a", interval_s=0)
    journal.note(everything())
    assert journal.flush()
    journal.note_saved("b", tmp_path / "b.ora")
    leave_behind(journal)
    assert find_recoverable(tmp_path) == []
    closed = Autosave(tmp_path, "a", interval_s=0)
    closed.note(everything())
    closed.close()
    assert not [folder for folder in tmp_path.iterdir() if folder == closed._folder]
    journal.close()


def test_a_second_write_stores_only_what_changed_and_drops_what_is_gone(tmp_path: Path) -> None:
    document = Document(everything())
    journal = Autosave(tmp_path, "a", interval_s=0, cache=PngCache())
    journal.note(document.state)
    assert journal.flush()
    first = {file.name: file.stat().st_mtime_ns for file in journal._folder.iterdir()}
    commands.set_pixels(document, document.layers[0].id, everything(9, 9).layers[0].raster)  # type: ignore[attr-defined]
    journal.note(document.state)
    assert journal.flush()
    second = {file.name: file.stat().st_mtime_ns for file in journal._folder.iterdir()}
    assert len(first.keys() - second.keys()) == 1
    assert len(second.keys() - first.keys()) == 1
    kept = first.keys() & second.keys() - {"index.json", "lock"}
    assert all(first[name] == second[name] for name in kept)
    journal.close()


def test_writes_are_at_least_an_interval_apart_and_the_newest_state_wins(tmp_path: Path) -> None:
    journal = Autosave(tmp_path, "a", interval_s=0.5)
    state = everything(40, 40)
    written_at: list[float] = []
    for burst in range(4):
        for width in range(20):
            journal.note(replace(state, size=Extent(40 + 20 * burst + width, 40)))
        assert journal.flush()
        written_at.append((journal._folder / "index.json").stat().st_mtime)
    # Between the starts lies an interval; the first write encodes the layers, so its end comes later.
    assert all(later - earlier >= 0.4 for earlier, later in pairwise(written_at[1:]))
    leave_behind(journal)
    (found,) = find_recoverable(tmp_path)
    assert recover(found).state.size.width == 119
    journal.close()


def test_a_failed_write_says_why_and_is_tried_again(tmp_path: Path) -> None:
    journal = Autosave(tmp_path, "a", interval_s=0.01)
    journal._folder.rename(tmp_path / "away")
    journal.note(everything(40, 40))
    with journal._wake:
        assert journal._wake.wait_for(lambda: journal.last_error is not None, 30)
    assert "cannot be written" in (journal.last_error or "")
    (tmp_path / "away").rename(journal._folder)
    assert journal.flush()
    assert journal.last_error is None
    journal.close()


def test_damaged_recovery_data_are_reported_and_never_deleted(tmp_path: Path) -> None:
    journal = Autosave(tmp_path, "a", interval_s=0)
    journal.note(replace(everything(40, 40), layers=(raster_layer("a", noise(1, 9, 9)),)))
    assert journal.flush()
    leave_behind(journal)
    (found,) = find_recoverable(tmp_path)
    parts = [file for file in found.folder.iterdir() if file.name not in ("index.json", "lock")]
    parts[0].write_bytes(b"nonsense")
    with pytest.raises(Corrupt, match="damaged"):
        recover(found)
    (found.folder / "index.json").write_text("{")
    assert find_recoverable(tmp_path) == []
    assert parts[0].exists()
    journal.close()


def test_a_recovery_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RequestInvalid, match="cannot be used for recovery"):
        Autosave(tmp_path / "file", "a")
