"""The window is tested without a screen: Qt draws into memory."""

from __future__ import annotations

import os

import numpy as np
import pytest

from desktop.document.document import Document
from desktop.document.geometry import Extent
from desktop.document.layers import RasterLayer
from desktop.document.state import DocumentState
from desktop.document.tiles import TileRaster

os.environ["QT_QPA_PLATFORM"] = "offscreen"


def photo_document(width: int = 320, height: int = 240) -> Document:
    """A document of one opaque layer whose pixels all differ a little."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.dstack([x % 256, y % 256, (x + y) % 256, np.full_like(x, 255)]).astype(np.uint8)
    layer = RasterLayer(name="photo", raster=TileRaster.from_array(pixels))
    return Document(DocumentState(size=Extent(width, height), layers=(layer,)))


@pytest.fixture
def photo() -> Document:
    return photo_document()
