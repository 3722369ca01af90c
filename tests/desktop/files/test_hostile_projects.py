"""A file from anywhere opens, or is refused with one typed sentence; nothing else ever happens."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desktop.document.geometry import Extent
from desktop.document.layers import RasterLayer
from desktop.document.state import DocumentState
from desktop.files import archive
from desktop.files.ora import open_ora, save_ora
from flux_core.errors import Corrupt, FluxError, OutOfMemory, RequestInvalid
from flux_core.imaging.codec import encode_png
from tests.support.documents import everything, noise, raster_layer

PNG = encode_png(noise(1, 8, 8))
STACK = '<image w="{w}" h="{h}"><stack>{layers}</stack></image>'
LAYER = '<layer src="data/a.png" name="a" {more}/>'


def ora(path: Path, stack: str | bytes, **more: bytes) -> Path:
    """An OpenRaster file as another program might write it; names in `more` with / written as __."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("mimetype", "image/openraster")
        file.writestr("stack.xml", stack)
        file.writestr("data/a.png", PNG)
        for name, data in more.items():
            file.writestr(name.replace("__", "/"), data)
    return path


def stack(more: str = "", *, w: str = "10", h: str = "10", layers: str | None = None) -> str:
    return STACK.format(w=w, h=h, layers=LAYER.format(more=more) if layers is None else layers)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999)))


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "/etc/passwd",
        "data/../../x.png",
        "C:/x",
        "c:x",
        "..\\x",
        "\\x",
        "data\\x.png",
        "a\nb",
        "..",
    ],
)
def test_names_that_point_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    path = ora(tmp_path / "a.ora", stack())
    with zipfile.ZipFile(path, "a") as file:
        entry = zipfile.ZipInfo("placeholder")
        entry.filename = name
        file.writestr(entry, b"x")
    with pytest.raises(Corrupt, match="not a safe file"):
        open_ora(path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.ora"]


def test_links_are_refused(tmp_path: Path) -> None:
    path = ora(tmp_path / "a.ora", stack())
    with zipfile.ZipFile(path, "a") as file:
        link = zipfile.ZipInfo("data/link.png")
        link.external_attr = 0o120777 << 16
        file.writestr(link, "/etc/passwd")
    with pytest.raises(Corrupt, match="is a link"):
        open_ora(path)


def test_entries_that_occur_twice_are_refused(tmp_path: Path) -> None:
    path = ora(tmp_path / "a.ora", stack())
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("stack.xml", stack())
    with pytest.raises(Corrupt, match="twice"):
        open_ora(path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = ora(tmp_path / "a.ora", stack())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("data/bomb.png", bytes(archive._BOMB_BYTES + 1))
    with pytest.raises(Corrupt, match="far too much"):
        open_ora(path)


def test_a_huge_stack_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_TEXT_BYTES", 1000)
    with pytest.raises(Corrupt, match="more data"):
        open_ora(ora(tmp_path / "a.ora", stack() + " " * 2000))


XML_BOMB = b"""<?xml version="1.0"?><!DOCTYPE i [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><image w="1" h="1"><stack><layer name="&c;"/></stack></image>"""
XML_FILE = b"""<?xml version="1.0"?><!DOCTYPE i [<!ENTITY a SYSTEM "file:///etc/passwd">]>
<image w="1" h="1"><stack><layer name="&a;"/></stack></image>"""


@pytest.mark.parametrize(
    "xml",
    [
        XML_BOMB,
        XML_FILE,
        b"",
        b"<image",
        b"\xff\xfe\x00",
        b'<?xml version="1.0" encoding="nonsense"?><image/>',
        b"<other><stack/></other>",
        b'<image w="1" h="1"/>',
        b"<image><stack/></image>",
        b'<image w="1" h="1">' + b"<stack>" * 5000 + b"</stack>" * 5000 + b"</image>",
        b'<image w="1" h="1"><stack>' + b"<layer/>" * 6000 + b"</stack></image>",
        *(
            stack(w=w, h="5").encode()
            for w in ("0", "-1", "1000000", "nan", "1e3", "", "99999999999999999999")
        ),
        stack('x="1e300"').encode(),
        stack('x="nan"').encode(),
        stack('y="-999999999"').encode(),
    ],
    ids=lambda xml: repr(xml[:50]),
)
def test_a_stack_that_is_no_picture_is_corrupt(tmp_path: Path, xml: bytes) -> None:
    with pytest.raises(Corrupt) as caught:
        open_ora(ora(tmp_path / "a.ora", xml))
    assert caught.value.hint
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("more", "warning"),
    [
        ('opacity="nan"', "opacity nan"),
        ('opacity="-inf"', "opacity -inf"),
        ('opacity="7"', "opacity 7"),
        ('opacity="much"', "opacity much"),
        ('composite-op="krita:bumpmap"', "blend mode krita:bumpmap"),
    ],
)
def test_odd_values_become_a_warning(tmp_path: Path, more: str, warning: str) -> None:
    opened = open_ora(ora(tmp_path / "a.ora", stack(more)))
    assert len(opened.warnings) == 1
    assert warning in opened.warnings[0]
    layer = opened.state.layers[0]
    assert layer.opacity == 1.0
    assert isinstance(layer, RasterLayer)
    assert layer.raster.tiles


def test_unknown_elements_and_offsets_with_decimals_are_taken_lightly(tmp_path: Path) -> None:
    layers = '<text/><filter/><layer src="data/a.png" x="1.0" y="-2.4"/>'
    opened = open_ora(ora(tmp_path / "a.ora", stack(layers=layers)))
    assert len(opened.warnings) == 2
    assert opened.state.layers[0].bounds.y == -256


def test_one_damaged_layer_is_reported_and_the_rest_opens(tmp_path: Path) -> None:
    layers = LAYER.format(more="") + '<layer src="data/b.png" name="b"/><layer src="data/none.png" name="c"/>'
    opened = open_ora(
        ora(tmp_path / "a.ora", stack(layers=layers), data__b_png=b"", **{"data__b.png": PNG[:60]})
    )
    assert [layer.name for layer in opened.state.layers] == ["c", "b", "a"]
    assert len(opened.warnings) == 2
    assert all("is empty because" in warning for warning in opened.warnings)


def test_a_file_of_which_no_layer_can_be_read_is_corrupt(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="None of the layers"):
        open_ora(ora(tmp_path / "a.ora", stack(layers='<layer src="data/none.png"/>')))


def test_a_png_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    for size in ((16_000, 16_000), (2**31 - 1, 2**31 - 1), (60_000, 1)):
        layers = LAYER.format(more="") + '<layer src="data/b.png" name="b"/>'
        opened = open_ora(ora(tmp_path / "a.ora", stack(layers=layers), **{"data__b.png": png_header(*size)}))
        assert "more than can be opened" in opened.warnings[0]


def test_many_middling_png_bombs_are_refused_together(tmp_path: Path) -> None:
    layers = '<layer src="data/b.png"/>' * 200
    path = ora(tmp_path / "a.ora", stack(layers=layers), **{"data__b.png": png_header(10_900, 10_900)})
    with pytest.raises(OutOfMemory, match="megapixels"):
        open_ora(path)


def test_what_is_no_openraster_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ora"
    for content in (b"", b"PK", b"\x89PNG", b"x" * 5000):
        path.write_bytes(content)
        with pytest.raises(Corrupt):
            open_ora(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("mimetype", "image/openraster")
    with pytest.raises(Corrupt, match=r"stack\.xml"):
        open_ora(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("mimetype", "application/x-krita")
        file.writestr("stack.xml", stack())
    with pytest.raises(Corrupt, match="no OpenRaster"):
        open_ora(path)


def test_a_missing_mimetype_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.ora"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("stack.xml", stack())
        file.writestr("data/a.png", PNG)
    assert len(open_ora(path).warnings) == 1


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("honest") / "a.ora"
    small = DocumentState(
        size=Extent(20, 20), layers=(raster_layer("a", noise(1, 20, 20)), *everything().layers[-1:])
    )
    save_ora(small, path)
    return path.read_bytes()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_to_the_bytes_is_survived(
    tmp_path_factory: pytest.TempPathFactory, honest: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(honest)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damage: Callable[[], None] = data.draw(
            st.sampled_from(
                [
                    lambda at=at: damaged.__setitem__(at, damaged[at] ^ 255),
                    lambda at=at: damaged.__delitem__(slice(at, at + 40)),
                    lambda at=at: damaged.__delitem__(slice(at, None)),
                    lambda at=at: damaged.__setitem__(slice(at, at), b"\0" * 9),
                ]
            )
        )
        damage()
        if not damaged:
            break
    assert_survived(tmp_path_factory, bytes(damaged))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_change_of_the_entries_is_survived(
    tmp_path_factory: pytest.TempPathFactory, honest: bytes, data: st.DataObject
) -> None:
    """Entries are changed inside a valid ZIP, so the damage reaches XML, JSON and PNG."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(honest)) as old, zipfile.ZipFile(out, "w") as new:
        names = [entry.filename for entry in old.infolist()]
        target = data.draw(st.sampled_from([n for n in names if n not in ("mergedimage.png",)]))
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename == target:
                content = data.draw(mutated(content))
            new.writestr(entry.filename, content)
    assert_survived(tmp_path_factory, out.getvalue())


def mutated(content: bytes) -> st.SearchStrategy[bytes]:
    words = [b"nan", b"-1", b"1e999", b"null", b"[]", b"{}", b'"', b"<", b"&", b"\0", b"99999999999", b"true"]
    at = st.integers(0, len(content))
    replaced = st.builds(
        lambda i, n, w: content[:i] + w + content[i + n :], at, st.integers(0, 12), st.sampled_from(words)
    )
    return replaced | st.binary(max_size=60) | st.builds(lambda i: content[:i], at)


def assert_survived(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.ora"
    path.write_bytes(content)
    failure: FluxError | None = None
    try:
        assert open_ora(path).state.size.width >= 1
    except (Corrupt, OutOfMemory, RequestInvalid) as err:
        failure = err
    assert failure is None or (failure.hint and len(str(failure)) < 600)
    assert path.read_bytes() == content
