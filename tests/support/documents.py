"""Documents for tests: small pictures, comparisons, and random edits."""

from __future__ import annotations

import numpy as np

from desktop.document.blend import BlendMode
from desktop.document.geometry import Extent, Rect
from desktop.document.layers import (
    GenerativeLayer,
    GroupLayer,
    Layer,
    RasterLayer,
    Recipe,
    Variant,
)
from desktop.document.state import DocumentState
from desktop.document.tiles import TileRaster
from flux_core.imaging.codec import encode_png
from flux_core.request import GenerationRequest


def noise(seed: int, width: int, height: int, channels: int = 4) -> np.ndarray:
    """Random uint8 [H, W, 4], with some fully clear and some opaque pixels, or [H, W]."""
    rng = np.random.default_rng(seed)
    if channels == 1:
        return rng.integers(0, 256, (height, width), dtype=np.uint8)
    pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    pixels[: height // 3, :, 3] = 255
    pixels[height // 3 : height // 2, :, 3] = 0
    return pixels


def smooth(seed: int, width: int, height: int) -> np.ndarray:
    """A smooth colourful picture with soft transparency, uint8 [H, W, 4]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = []
    for _ in range(4):
        fx, fy, phase = rng.uniform(0.005, 0.05), rng.uniform(0.005, 0.05), rng.uniform(0, 6)
        planes.append(127.5 + 127.5 * np.sin(fx * x + fy * y + phase))
    return np.stack(planes, axis=-1).astype(np.uint8)


def raster_layer(name: str, pixels: np.ndarray, x: int = 0, y: int = 0, **attributes: object) -> RasterLayer:
    return RasterLayer(name=name, raster=TileRaster.from_array(pixels, x, y), **attributes)  # type: ignore[arg-type]


def recipe(chosen: int = 0) -> Recipe:
    crops = tuple(Variant(encode_png(noise(seed, 64, 64)), seed) for seed in (7, 8))
    request = GenerationRequest(prompt="ein Apfel 苹果", seed=7, num_images=2)
    return Recipe(request=request, box=Rect(-3, 5, 80, 80), variants=crops, chosen=chosen)


def everything(width: int = 300, height: int = 280) -> DocumentState:
    """A document that uses every feature that is saved."""
    layers: tuple[Layer, ...] = (
        raster_layer("photo", smooth(1, width, height)),
        raster_layer("outside", noise(2, 90, 70), -40, -30, opacity=0.5, blend=BlendMode.MULTIPLY),
        GroupLayer(
            name="group <&> 组",
            opacity=0.75,
            children=(
                raster_layer("in", noise(3, 100, 100), 20, 30, is_locked=True, blend=BlendMode.SCREEN),
                raster_layer(
                    "masked in",
                    smooth(4, 150, 120),
                    60,
                    50,
                    mask=TileRaster.from_array(noise(5, 150, 120, 1), 60, 50, fill=255),
                ),
                GroupLayer(name="empty", is_isolated=False),
            ),
        ),
        GroupLayer(
            name="masked group",
            is_visible=True,
            mask=TileRaster.from_array(noise(6, 80, 80, 1), 100, 100),
            children=(
                raster_layer("low", smooth(7, 120, 120), 90, 90),
                raster_layer("high", smooth(8, 60, 60), 120, 110, blend=BlendMode.DIFFERENCE),
            ),
        ),
        raster_layer("hidden", noise(9, 30, 30), 5, 5, is_visible=False),
        RasterLayer(name="nothing"),
        GenerativeLayer(
            name="apple (7)",
            recipe=recipe(1),
            raster=TileRaster.from_array(smooth(10, 80, 80), -3, 5),
            mask=TileRaster.from_array(noise(11, 80, 80, 1), -3, 5),
            blend=BlendMode.LUMINOSITY,
        ),
    )
    selection = TileRaster.from_array(noise(12, 50, 40, 1), 200, 200)
    return DocumentState(size=Extent(width, height), layers=layers, selection=selection)


def assert_same(one: DocumentState, other: DocumentState, *, has_same_ids: bool = True) -> None:
    """Every attribute and every pixel is equal."""
    assert one.size == other.size
    assert one.selection.equals(other.selection)
    assert_same_layers(one.layers, other.layers, has_same_ids)


def assert_same_layers(one: tuple[Layer, ...], other: tuple[Layer, ...], has_same_ids: bool = True) -> None:
    assert [layer.name for layer in one] == [layer.name for layer in other]
    for a, b in zip(one, other, strict=True):
        assert type(a) is type(b), (a.name, type(a), type(b))
        assert not has_same_ids or a.id == b.id
        attributes = ("opacity", "is_visible", "is_locked", "blend")
        assert [getattr(a, n) for n in attributes] == [getattr(b, n) for n in attributes]
        assert (a.mask is None) == (b.mask is None), a.name
        assert a.mask is None or (b.mask is not None and a.mask.equals(b.mask)), a.name
        if isinstance(a, RasterLayer) and isinstance(b, RasterLayer):
            assert a.raster.equals(b.raster), a.name
        if isinstance(a, GroupLayer) and isinstance(b, GroupLayer):
            assert a.is_isolated == b.is_isolated
            assert_same_layers(a.children, b.children, has_same_ids)
        if isinstance(a, GenerativeLayer) and isinstance(b, GenerativeLayer):
            assert a.recipe == b.recipe
