"""Compositing against a plain float64 reference of the W3C formulas, and the rules around it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from desktop.document import mask
from desktop.document.blend import BlendMode
from desktop.document.compositor import Compositor, render, render_layers
from desktop.document.geometry import Extent, Rect
from desktop.document.layers import GroupLayer, Layer, RasterLayer
from desktop.document.state import DocumentState
from desktop.document.tiles import TileKey, TileRaster, keys_in
from tests.support.documents import everything, noise, raster_layer, smooth

SIZE = Extent(64, 48)


def lum(c: np.ndarray) -> np.ndarray:
    return (c * [0.3, 0.59, 0.11]).sum(-1, keepdims=True)


def clip_color(c: np.ndarray) -> np.ndarray:
    light, low, high = lum(c), c.min(-1, keepdims=True), c.max(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        c = np.where(low < 0, light + (c - light) * light / (light - low), c)
        return np.where(high > 1, light + (c - light) * (1 - light) / (high - light), c)


def set_lum(c: np.ndarray, light: np.ndarray) -> np.ndarray:
    return clip_color(c + light - lum(c))


def sat(c: np.ndarray) -> np.ndarray:
    return c.max(-1, keepdims=True) - c.min(-1, keepdims=True)


def set_sat(c: np.ndarray, s: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num((c - c.min(-1, keepdims=True)) * s / sat(c))


def hard_light(b: np.ndarray, s: np.ndarray) -> np.ndarray:
    return np.where(s <= 0.5, b * 2 * s, b + (2 * s - 1) - b * (2 * s - 1))


def soft_light(b: np.ndarray, s: np.ndarray) -> np.ndarray:
    d = np.where(b <= 0.25, ((16 * b - 12) * b + 4) * b, np.sqrt(b))
    return np.where(s <= 0.5, b - (1 - 2 * s) * b * (1 - b), b + (2 * s - 1) * (d - b))


def dodge(b: np.ndarray, s: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(b == 0, 0.0, np.where(s >= 1, 1.0, np.minimum(1, b / (1 - s))))


def burn(b: np.ndarray, s: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(b >= 1, 1.0, np.where(s <= 0, 0.0, 1 - np.minimum(1, (1 - b) / s)))


BLENDS = {
    BlendMode.NORMAL: lambda b, s: s,
    BlendMode.MULTIPLY: lambda b, s: b * s,
    BlendMode.SCREEN: lambda b, s: b + s - b * s,
    BlendMode.OVERLAY: lambda b, s: hard_light(s, b),
    BlendMode.DARKEN: np.minimum,
    BlendMode.LIGHTEN: np.maximum,
    BlendMode.COLOR_DODGE: dodge,
    BlendMode.COLOR_BURN: burn,
    BlendMode.HARD_LIGHT: hard_light,
    BlendMode.SOFT_LIGHT: soft_light,
    BlendMode.DIFFERENCE: lambda b, s: np.abs(b - s),
    BlendMode.PLUS: lambda b, s: np.minimum(1, b + s),
    BlendMode.HUE: lambda b, s: set_lum(set_sat(s, sat(b)), lum(b)),
    BlendMode.SATURATION: lambda b, s: set_lum(set_sat(b, sat(s)), lum(b)),
    BlendMode.COLOR: lambda b, s: set_lum(s, lum(b)),
    BlendMode.LUMINOSITY: lambda b, s: set_lum(b, lum(s)),
}


def reference(layers: tuple[Layer, ...], rect: Rect, backdrop: np.ndarray | None = None) -> np.ndarray:
    """Premultiplied float64 [H, W, 4] of the layers over `backdrop`."""
    out = np.zeros((rect.height, rect.width, 4)) if backdrop is None else backdrop
    for layer in layers:
        if not layer.is_visible:
            continue
        if isinstance(layer, GroupLayer):
            if layer.is_pass_through:
                out = reference(layer.children, rect, out)
                continue
            source = reference(layer.children, rect)
        else:
            assert isinstance(layer, RasterLayer)
            source = layer.raster.read(rect) / 255.0
            source[..., :3] *= source[..., 3:]
        alpha = layer.opacity * (1.0 if layer.mask is None else layer.mask.read(rect)[..., None] / 255.0)
        out = over(out, source * alpha, layer.blend)
    return out


def over(below: np.ndarray, above: np.ndarray, blend: BlendMode) -> np.ndarray:
    a_b, a_s = below[..., 3:], above[..., 3:]
    with np.errstate(divide="ignore", invalid="ignore"):
        b, s = np.nan_to_num(below[..., :3] / a_b), np.nan_to_num(above[..., :3] / a_s)
    mixed = BLENDS[blend](np.clip(b, 0, 1), np.clip(s, 0, 1))
    color = above[..., :3] * (1 - a_b) + below[..., :3] * (1 - a_s) + a_b * a_s * mixed
    return np.concatenate([color, a_s + a_b * (1 - a_s)], -1)


def premultiplied(pixels: np.ndarray) -> np.ndarray:
    out = pixels / 255.0
    out[..., :3] *= out[..., 3:]
    return out


def on_screen(state: DocumentState, active_id: str | None = None) -> np.ndarray:
    """Premultiplied float [H, W, 4] of the canvas as the compositor shows it."""
    compositor = Compositor()
    out = np.zeros((state.size.height, state.size.width, 4))
    for key in keys_in(state.canvas):
        tile = compositor.tile(state, key, active_id)
        bgra = np.frombuffer(tile.constBits(), np.uint8).reshape(256, 256, 4)
        shared = key.rect.intersection(state.canvas)
        assert not np.delete(np.delete(bgra, np.s_[: shared.height], 0), np.s_[: shared.width], 1).any(), (
            "outside the canvas is clear"
        )
        out[shared.slices_in(state.canvas)] = bgra[shared.slices_in(key.rect)][..., [2, 1, 0, 3]] / 255.0
    return out


def assert_close(got: np.ndarray, wanted: np.ndarray, levels: float) -> None:
    assert np.abs(got - wanted).max() * 255 <= levels, np.abs(got - wanted).max() * 255


@pytest.mark.parametrize("opacity", [1.0, 0.4])
@pytest.mark.parametrize("blend", list(BlendMode))
def test_every_blend_mode_follows_the_formula(blend: BlendMode, opacity: float) -> None:
    below = raster_layer("below", noise(1, *SIZE))
    above = raster_layer("above", noise(2, *SIZE)[::-1].copy(), blend=blend, opacity=opacity)
    state = DocumentState(size=SIZE, layers=(below, above))
    wanted = reference(state.layers, state.canvas)
    assert_close(premultiplied(render(state)), wanted, 1.01)  # straight colour and alpha are each rounded
    # Modes that divide blow up the rounding of the screen's eight premultiplied bits in a few pixels.
    off = np.abs(on_screen(state) - wanted) * 255
    assert np.percentile(off, 99.5) <= 3.0
    assert off.mean() <= 0.5


@pytest.mark.parametrize("blend", list(BlendMode))
def test_every_blend_mode_over_an_opaque_picture_is_within_two_levels_on_screen(blend: BlendMode) -> None:
    photo, paint = smooth(1, *SIZE), smooth(2, *SIZE)
    photo[..., 3] = paint[..., 3] = 255
    layers = (raster_layer("photo", photo), raster_layer("paint", paint, blend=blend, opacity=0.8))
    state = DocumentState(size=SIZE, layers=layers)
    assert_close(on_screen(state), reference(layers, state.canvas), 2.0)


def test_masks_groups_and_modes_together_follow_the_formula() -> None:
    state = everything()
    wanted = reference(state.layers, state.canvas)
    assert_close(premultiplied(render(state)), wanted, 2.0)
    for layer in (None, *state.walk()):
        assert_close(on_screen(state, layer.id if layer else None), wanted, 6.0)


def test_pass_through_groups_let_blend_modes_see_below_and_isolated_ones_do_not() -> None:
    photo = raster_layer("photo", smooth(1, *SIZE))
    child = raster_layer("child", smooth(2, *SIZE), blend=BlendMode.MULTIPLY)
    through = GroupLayer(name="g", children=(child,), is_isolated=False)
    isolated = replace(through, is_isolated=True)
    flat = render_layers((photo, child), Rect(0, 0, *SIZE))
    assert np.array_equal(render_layers((photo, through), Rect(0, 0, *SIZE)), flat)
    normal = replace(child, blend=BlendMode.NORMAL)
    wanted = render_layers((photo, normal), Rect(0, 0, *SIZE))
    assert np.abs(render_layers((photo, isolated), Rect(0, 0, *SIZE)).astype(int) - wanted).max() <= 1


def test_a_single_layer_comes_out_byte_for_byte_even_its_clear_pixels() -> None:
    pixels = noise(1, 700, 300)
    state = DocumentState(size=Extent(700, 300), layers=(raster_layer("only", pixels),))
    assert np.array_equal(render(state), pixels)
    hidden = raster_layer("hidden", noise(2, 700, 300), is_visible=False)
    assert np.array_equal(render(replace(state, layers=(*state.layers, hidden))), pixels)


def test_a_masked_result_leaves_every_pixel_outside_the_mask_byte_equal() -> None:
    photo, result = noise(1, 300, 300), smooth(2, 300, 300)
    grey = np.zeros((300, 300), np.uint8)
    grey[100:140, 90:260] = 200
    layers = (
        raster_layer("photo", photo),
        raster_layer("result", result, mask=TileRaster.from_array(grey)),
    )
    got = render(DocumentState(size=Extent(300, 300), layers=layers))
    assert np.array_equal(got[grey == 0], photo[grey == 0])
    assert not np.array_equal(got, photo)


def test_rendering_a_part_gives_that_part_of_the_whole() -> None:
    state = everything()
    part = Rect(-20, 100, 290, 60)
    whole = render(state, Rect(-50, -50, 400, 400))
    assert np.array_equal(render(state, part), whole[part.slices_in(Rect(-50, -50, 400, 400))])


def test_a_layer_mask_hides_everything_outside_its_tiles_if_it_fills_with_hide() -> None:
    layer = raster_layer("a", noise(1, 300, 300))
    canvas = Rect(0, 0, 300, 300)
    assert not render_layers((replace(layer, mask=mask.hide_all()),), canvas)[..., 3].any()
    assert np.array_equal(render_layers((replace(layer, mask=mask.show_all()),), canvas), noise(1, 300, 300))


def test_the_cache_is_bounded_and_never_shows_an_old_tile() -> None:
    compositor = Compositor(cache_bytes=3 * 256 * 256 * 4)
    for seed in range(30):
        color = np.full((10, 10, 4), [seed, 0, 0, 255], np.uint8)
        state = DocumentState(size=Extent(10, 10), layers=(raster_layer("a", color),))
        tile = compositor.tile(state, TileKey(0, 0), state.layers[0].id)
        assert tile.pixelColor(5, 5).red() == seed
        assert len(compositor._cache) <= 3


def test_an_unchanged_tile_is_not_composed_again() -> None:
    state = everything()
    compositor = Compositor()
    first = compositor.tile(state, TileKey(0, 0), state.layers[0].id)
    renamed = state.replaced(replace(state.layers[0], name="other"))
    assert compositor.tile(renamed, TileKey(0, 0), state.layers[3].id) is first
