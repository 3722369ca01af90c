"""Flat pictures come in upright and in sRGB, and go out with what was made how."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from desktop.document.compositor import render
from desktop.document.geometry import Extent
from desktop.document.layers import GenerativeLayer, RasterLayer
from desktop.document.state import DocumentState
from desktop.document.tiles import TileRaster
from desktop.files.flat import export_picture, open_picture, recipe_of
from flux_core.errors import Corrupt, RequestInvalid
from flux_core.imaging.metadata import read_request
from tests.support.documents import everything, noise, raster_layer, recipe, smooth


def generated(**attributes: object) -> GenerativeLayer:
    raster = TileRaster.from_array(smooth(1, 64, 64))
    return GenerativeLayer(name="apple (8)", recipe=recipe(1), raster=raster, **attributes)  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", ["png", "webp", "tiff", "bmp"])
def test_a_picture_opens_as_one_layer_with_its_very_pixels(tmp_path: Path, ending: str) -> None:
    pixels = noise(1, 90, 70)
    if ending in ("webp", "bmp"):
        pixels[..., 3] = 255
    image = Image.fromarray(pixels) if ending != "bmp" else Image.fromarray(pixels[..., :3].copy())
    path = tmp_path / f"photo.{ending}"
    image.save(path, **({"lossless": True} if ending == "webp" else {}))
    opened = open_picture(path)
    assert opened.warnings == ()
    assert [layer.name for layer in opened.state.layers] == ["photo"]
    assert opened.state.size == Extent(90, 70)
    assert np.array_equal(render(opened.state), pixels)


def test_a_turned_jpeg_opens_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 40), (200, 10, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert open_picture(tmp_path / "a.jpg").state.size == Extent(40, 80)


def test_another_colour_space_becomes_srgb_with_a_note(tmp_path: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    Image.new("RGB", (8, 8), (9, 99, 199)).save(tmp_path / "a.png", icc_profile=lab.tobytes())
    assert open_picture(tmp_path / "a.png").warnings == (), "a profile that does not fit is ignored"


def test_sixteen_bits_become_eight_with_a_note(tmp_path: Path) -> None:
    deep = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    Image.fromarray(deep).save(tmp_path / "a.tiff")
    for name in ("a.png", "a.tiff"):
        opened = open_picture(tmp_path / name)
        assert opened.warnings == (f"{name} had 16 bits a channel and now has 8.",)
        assert render(opened.state)[7, 7, 0] == round(63000 / 257)


def test_what_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    whole = io.BytesIO()
    Image.fromarray(noise(1, 99, 99)).save(whole, "PNG")
    (tmp_path / "half.png").write_bytes(whole.getvalue()[:2000])
    with pytest.raises(RequestInvalid, match="does not exist"):
        open_picture(tmp_path / "none.png")
    with pytest.raises(RequestInvalid, match="not a picture"):
        open_picture(tmp_path / "text.png")
    with pytest.raises(Corrupt, match="damaged"):
        open_picture(tmp_path / "half.png")


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_an_export_carries_the_recipe_of_what_was_generated(tmp_path: Path, ending: str) -> None:
    state = DocumentState(size=Extent(64, 64), layers=(raster_layer("photo", smooth(2, 64, 64)), generated()))
    path = tmp_path / f"out.{ending}"
    export_picture(state, path)
    data = path.read_bytes()
    request = read_request(data)
    assert request is not None
    assert (request.prompt, request.seed, request.num_images) == ("ein Apfel 苹果", 8, 1)
    assert b"compositeWithTrainedAlgorithmicMedia" in data
    export_picture(state, path, has_metadata=False)
    assert read_request(path.read_bytes()) is None
    assert b"AlgorithmicMedia" not in path.read_bytes()


def test_a_png_export_is_the_composite_to_the_byte(tmp_path: Path) -> None:
    state = everything()
    export_picture(state, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert np.array_equal(np.array(image.convert("RGBA")), render(state))


def test_only_what_is_seen_counts_as_generated() -> None:
    photo = raster_layer("photo", smooth(2, 64, 64))
    state = DocumentState(size=Extent(64, 64), layers=(photo, generated(is_visible=False)))
    assert recipe_of(state) is None
    alone = recipe_of(replace(state, layers=(generated(),)))
    assert alone is not None
    assert not alone.is_composite
    two = recipe_of(replace(state, layers=(generated(), generated())))
    assert two is not None
    assert two.request is None
    assert recipe_of(replace(state, layers=(RasterLayer(name="empty"),))) is None


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestInvalid, match=r"out\.xyz"):
        export_picture(everything(), tmp_path / "out.xyz")
    assert list(tmp_path.iterdir()) == []
