from __future__ import annotations

import numpy as np

from desktop.document.geometry import Rect
from desktop.document.tiles import TileRaster
from desktop.models.thumbnails import THUMB_PX, render_thumbnail


def test_a_thumbnail_shows_where_the_pixels_lie(qapp):
    red = np.zeros((300, 300, 4), np.uint8)
    red[...] = (255, 0, 0, 255)
    picture = render_thumbnail(TileRaster.from_array(red, 300, 0), Rect(0, 0, 600, 600)).toImage()
    side = picture.width()
    assert side == 2 * THUMB_PX
    assert picture.pixelColor(side * 3 // 4, side // 4).red() == 255
    assert picture.pixelColor(side * 3 // 4, side // 4).green() == 0
    assert picture.pixelColor(side // 4, side // 4).green() > 0


def test_a_mask_is_shown_grey_with_its_fill_outside_the_tiles(qapp):
    mask = TileRaster(1, 255).with_pixels(np.zeros((100, 100), np.uint8), 0, 0)
    picture = render_thumbnail(mask, Rect(0, 0, 200, 200)).toImage()
    assert picture.pixelColor(4, 4).value() == 0
    assert picture.pixelColor(picture.width() - 4, 4).value() == 255


def test_a_layer_that_reaches_outside_the_canvas_is_cut(qapp):
    pixels = np.full((50, 500, 4), 255, np.uint8)
    picture = render_thumbnail(TileRaster.from_array(pixels, -200, -20), Rect(0, 0, 37, 91))
    assert not picture.isNull()
