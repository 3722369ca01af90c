"""What is saved comes back, other programs see the same picture, and saving never endangers the old file."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from desktop.document import commands, mask
from desktop.document.blend import BlendMode
from desktop.document.compositor import render
from desktop.document.document import Document
from desktop.document.geometry import Extent
from desktop.document.layers import GroupLayer, Layer, RasterLayer
from desktop.document.state import DocumentState
from desktop.document.tiles import TileRaster
from desktop.files import disk
from desktop.files.ora import open_ora, save_ora
from desktop.files.png_cache import PngCache
from flux_core.errors import RequestInvalid, StorageFull
from flux_core.imaging.codec import decode
from tests.support.documents import assert_same, everything, noise, raster_layer, smooth


def rewritten(path: Path, **changes: bytes | None) -> Path:
    """A copy of a ZIP with entries changed or left out (None), in names with / written as __."""
    copy = path.with_name(f"changed {path.name}")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for entry in old.infolist():
            key = entry.filename.replace("/", "__").replace(".", "_")
            data = changes.get(key, old.read(entry))
            if data is not None:
                new.writestr(entry, data)
    return copy


def without_own_part(path: Path) -> Path:
    copy = path.with_name(f"standard {path.name}")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for entry in old.infolist():
            if not entry.filename.startswith("flowbrush/"):
                new.writestr(entry, old.read(entry))
    return copy


def premultiplied(pixels: np.ndarray) -> np.ndarray:
    out = pixels.astype(float)
    out[..., :3] *= out[..., 3:] / 255
    return out


def test_everything_comes_back(tmp_path: Path) -> None:
    state, path = everything(), tmp_path / "all.ora"
    losses = save_ora(state, path, active_id=state.layers[3].id)
    opened = open_ora(path)
    assert_same(state, opened.state)
    assert opened.active_id == state.layers[3].id
    assert opened.warnings == ()
    assert [loss for loss in losses if "masked group" in loss] == list(losses)


def test_the_file_is_openraster_as_its_specification_says(tmp_path: Path) -> None:
    state, path = everything(), tmp_path / "all.ora"
    save_ora(state, path)
    with zipfile.ZipFile(path) as archive:
        first = archive.infolist()[0]
        assert (first.filename, first.compress_type) == ("mimetype", zipfile.ZIP_STORED)
        assert first.header_offset == 0
        assert not first.extra
        assert archive.read("mimetype") == b"image/openraster"
        image = ET.fromstring(archive.read("stack.xml"))
        assert (image.get("w"), image.get("h")) == ("300", "280")
        names = [element.get("name") for element in image.find("stack") or ()]
        assert names[0] == "apple (7)", "the top-most layer comes first"
        for element in image.iter("layer"):
            with Image.open(io.BytesIO(archive.read(element.get("src", "")))) as layer:
                assert layer.mode == "RGBA"
                assert not layer.info.get("interlace")
        assert np.array_equal(decode(archive.read("mergedimage.png")), render(state))
        with Image.open(io.BytesIO(archive.read("Thumbnails/thumbnail.png"))) as thumbnail:
            assert thumbnail.size == (256, 239)


def test_other_programs_see_the_same_picture(tmp_path: Path) -> None:
    state, path = everything(), tmp_path / "all.ora"
    save_ora(state, path)
    opened = open_ora(without_own_part(path))
    assert all(layer.mask is None for layer in opened.state.walk())
    difference = premultiplied(render(opened.state)) - premultiplied(render(state))
    assert np.abs(difference).max() <= 2


def test_a_file_that_another_program_changed_is_trusted_and_the_report_says_so(tmp_path: Path) -> None:
    state, path = everything(), tmp_path / "all.ora"
    save_ora(state, path)
    with zipfile.ZipFile(path) as archive:
        stack = archive.read("stack.xml").replace(b'name="photo"', b'name="renamed"')
    opened = open_ora(rewritten(path, stack_xml=stack))
    assert opened.state.layers[0].name == "renamed"
    assert "Another program has changed" in opened.warnings[0]
    painted = io.BytesIO()
    Image.new("RGBA", (9, 9), (1, 2, 3, 255)).save(painted, "PNG")
    opened = open_ora(rewritten(path, data__layer0_png=painted.getvalue()))
    assert "Another program has changed" in opened.warnings[0]
    layer = opened.state.layers[0]
    assert isinstance(layer, RasterLayer)
    assert tuple(layer.raster.read(opened.state.canvas)[5, 5]) == (1, 2, 3, 255)


@pytest.mark.parametrize(
    "damage", [b"{", b'{"version": 99, "width": 1, "height": 1}', b"[" * 100_000, b"\xff"]
)
def test_a_damaged_own_part_leaves_the_standard_part(tmp_path: Path, damage: bytes) -> None:
    state, path = everything(), tmp_path / "all.ora"
    save_ora(state, path)
    opened = open_ora(rewritten(path, flowbrush__document_json=damage))
    assert "Masks and recipes could not be read" in opened.warnings[0]
    assert len(opened.state.layers) == len(state.layers)
    opened = open_ora(rewritten(path, flowbrush__mask4_png=damage))
    assert "Masks and recipes could not be read" in opened.warnings[0]


def test_the_same_document_gives_the_same_bytes(tmp_path: Path) -> None:
    state = everything()
    save_ora(state, tmp_path / "a.ora")
    save_ora(open_ora(tmp_path / "a.ora").state, tmp_path / "b.ora")
    assert (tmp_path / "a.ora").read_bytes() == (tmp_path / "b.ora").read_bytes()


def test_saving_again_encodes_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document, path, cache = Document(everything()), tmp_path / "a.ora", PngCache()
    save_ora(document.state, path)
    document = Document(open_ora(path, cache).state)
    encoded: list[tuple[int, ...]] = []
    real = disk_encoder()
    monkeypatch.setattr(
        "flux_core.imaging.codec.encode_png",
        lambda pixels, *rest, **options: encoded.append(pixels.shape) or real(pixels, *rest, **options),
    )
    save_ora(document.state, path, cache=cache)
    seen_first = len(encoded)
    encoded.clear()
    save_ora(document.state, path, cache=cache)
    assert encoded == []
    commands.rename_layer(document, document.layers[0].id, "other")
    save_ora(document.state, path, cache=cache)
    assert len(encoded) == 2, "merged picture and thumbnail only"
    encoded.clear()
    commands.set_pixels(document, document.layers[0].id, TileRaster.from_array(noise(77, 33, 44)))
    save_ora(document.state, path, cache=cache)
    assert sorted(encoded)[0] == (44, 33, 4)
    assert len(encoded) == 3
    assert seen_first < 9, "layers that lay in the file as they are were not encoded"


def disk_encoder():  # noqa: ANN201
    from flux_core.imaging.codec import encode_png

    return encode_png


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
looks = st.fixed_dictionaries(
    {
        "name": names,
        "opacity": st.floats(0, 1),
        "is_visible": st.booleans(),
        "is_locked": st.booleans(),
        "blend": st.sampled_from(BlendMode),
        "mask": st.sampled_from(
            [None, mask.hide_all(), mask.show_all(), TileRaster.from_array(noise(1, 20, 20, 1), -3, 9, 255)]
        ),
    }
)
rasters = st.builds(
    lambda seed, w, h, x, y: TileRaster.from_array(noise(seed, w, h), x, y),
    st.integers(0, 9),
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(-300, 300),
    st.integers(-300, 300),
)
leaves = st.builds(lambda a, r: RasterLayer(**a, raster=r), looks, rasters | st.just(TileRaster()))
trees = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda a, c, i: GroupLayer(**a, children=tuple(c), is_isolated=i),
        looks,
        st.lists(inner, max_size=3),
        st.booleans(),
    ),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None)
@given(st.lists(trees, max_size=4), st.integers(1, 60), st.integers(1, 60))
def test_any_document_comes_back(
    tmp_path_factory: pytest.TempPathFactory, layers: list[Layer], w: int, h: int
) -> None:
    path = tmp_path_factory.mktemp("ora") / "any.ora"
    state = DocumentState(size=Extent(w, h), layers=tuple(layers))
    save_ora(state, path)
    opened = open_ora(path)
    assert opened.warnings == ()
    assert_same(state, opened.state)
    seen = open_ora(without_own_part(path))
    assert not [warning for warning in seen.warnings if "cannot be read" in warning]
    difference = premultiplied(render(seen.state)) - premultiplied(render(state))
    assert np.abs(difference).max() <= 3 or any(layer.blend is not BlendMode.NORMAL for layer in state.walk())


def test_earlier_versions_are_kept_as_backups(tmp_path: Path) -> None:
    path = tmp_path / "a.ora"
    for width in range(10, 16):
        save_ora(DocumentState(size=Extent(width, 5)), path)
    assert open_ora(path).state.size.width == 15
    kept = [open_ora(disk.backup_path(path, n)).state.size.width for n in range(1, disk.NUM_BACKUPS + 1)]
    assert kept == [14, 13, 12]
    assert not disk.backup_path(path, disk.NUM_BACKUPS + 1).exists()


def test_a_missing_file_or_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RequestInvalid, match="does not exist"):
        open_ora(tmp_path / "nothing.ora")
    with pytest.raises(RequestInvalid, match="cannot be read"):
        open_ora(tmp_path)
    with pytest.raises(RequestInvalid, match="cannot be written"):
        save_ora(everything(), tmp_path / "no folder" / "a.ora")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB, where this user may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    if not sys.platform.startswith("linux") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here; the file size limit test covers the rest")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_leaves_the_old_file(small_disk: Path) -> None:
    path = small_disk / "a.ora"
    old = DocumentState(size=Extent(20, 20), layers=(raster_layer("small", noise(1, 20, 20)),))
    save_ora(old, path)
    with pytest.raises(StorageFull, match="untouched"):
        save_ora(everything(), path)
    assert_same(open_ora(path).state, old)
    assert [file.name for file in small_disk.iterdir() if file.suffix == ".part"] == []


SAVE_UNDER_A_LIMIT = """
import resource, signal, sys
from pathlib import Path
from desktop.files.ora import save_ora
from flux_core.errors import StorageFull
from tests.support.documents import everything
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_ora(everything(), Path(sys.argv[1]))
except StorageFull as err:
    sys.exit(42)
"""


@pytest.mark.skipif(os.name != "posix", reason="file size limits are a POSIX thing")
def test_a_file_size_limit_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ora"
    old = DocumentState(size=Extent(20, 20))
    save_ora(old, path)
    ended = subprocess.run([sys.executable, "-c", SAVE_UNDER_A_LIMIT, str(path)], env=environment())
    assert ended.returncode == 42
    assert_same(open_ora(path).state, old)
    assert [file.name for file in tmp_path.iterdir()] == ["a.ora"]


SAVE_FOREVER = """
import sys
from pathlib import Path
from desktop.document.geometry import Extent
from dataclasses import replace
from desktop.files.ora import save_ora
from tests.support.documents import everything
state = everything()
width = 300
while True:
    save_ora(replace(state, size=Extent(width, 280)), Path(sys.argv[1]))
    print(width, flush=True)
    width += 1
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a POSIX thing")
def test_a_kill_at_any_moment_of_saving_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ora"
    wanted = everything()
    for attempt in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOREVER, str(path)], env=environment(), stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"300"
        time.sleep(random.Random(attempt).uniform(0, 0.3))  # any moment will do: nothing is waited for
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        opened = open_ora(path)
        assert opened.warnings == ()
        last = int(rest.split()[-1]) if rest.split() else 300
        assert opened.state.size.width in (last, last + 1)
        assert_same(replace(opened.state, size=wanted.size), wanted, has_same_ids=False)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}


def test_how_long_saving_and_opening_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    side = 1024
    layers = tuple(raster_layer(f"layer {n}", smooth(n, side, side)) for n in range(3))
    document, path, cache = (
        Document(DocumentState(size=Extent(side, side), layers=layers)),
        tmp_path / "a.ora",
        PngCache(),
    )
    times: dict[str, float] = {}

    def measure(name: str, act) -> None:  # noqa: ANN001
        started = time.perf_counter()
        act()
        times[name] = time.perf_counter() - started

    measure("first save", lambda: save_ora(document.state, path, cache=cache))
    measure("same again", lambda: save_ora(document.state, path, cache=cache))
    commands.set_opacity(document, layers[1].id, 0.5)
    measure("opacity changed", lambda: save_ora(document.state, path, cache=cache))
    measure("open", lambda: open_ora(path))
    with capsys.disabled():
        facts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in times.items())
        sys.stdout.write(f"\n3 layers of {side} x {side}: {facts}, {path.stat().st_size / 1e6:.1f} MB\n")
