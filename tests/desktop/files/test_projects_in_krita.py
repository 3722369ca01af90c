"""Krita itself opens what we save, and shows the same picture.

Runs where `krita` and `xvfb-run` are installed (Debian: `apt-get install krita xvfb`) and is skipped
elsewhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from desktop.document import commands
from desktop.document.blend import BlendMode
from desktop.document.compositor import render
from desktop.document.document import Document
from desktop.document.geometry import Extent
from desktop.document.layers import GroupLayer
from desktop.document.state import DocumentState
from desktop.document.tiles import TileRaster
from desktop.files.ora import save_ora
from tests.support.documents import everything, noise, raster_layer, smooth

pytestmark = pytest.mark.skipif(
    shutil.which("krita") is None or shutil.which("xvfb-run") is None,
    reason="NOT CHECKED: Krita is not installed, so nobody has opened our .ora in another program here",
)


def in_krita(state: DocumentState, folder: Path) -> np.ndarray:
    """What Krita makes of the file we save: RGBA, uint8 [H, W, 4]."""
    save_ora(state, folder / "in.ora")
    command = ["xvfb-run", "-a", "krita", "--export", "--export-filename", "out.png", "in.ora"]
    environment = {**os.environ, "HOME": str(folder), "QT_QPA_PLATFORM": "xcb"}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, timeout=240)
    with Image.open(folder / "out.png") as image:
        return np.array(image.convert("RGBA"))


def premultiplied(pixels: np.ndarray) -> np.ndarray:
    out = pixels.astype(float)
    out[..., :3] *= out[..., 3:] / 255
    return out


@pytest.mark.slow
def test_modes_opacity_masks_and_groups_look_the_same_in_krita(tmp_path: Path) -> None:
    """A strip for each mode over an opaque photo, faded and masked, and a document with everything below."""
    modes = list(BlendMode)
    photo = smooth(1, 40 * len(modes), 80)
    photo[..., 3] = 255
    strips = tuple(
        raster_layer(
            mode.name,
            smooth(n, 36, 80),
            40 * n,
            0,
            blend=mode,
            opacity=0.8,
            mask=TileRaster.from_array(noise(n, 36, 80, 1) | 128, 40 * n, 0),
        )
        for n, mode in enumerate(modes)
    )
    through = GroupLayer(name="through", children=strips[1::2], is_isolated=False)
    below = GroupLayer(name="everything", children=everything().layers)
    document = Document(
        DocumentState(
            size=Extent(40 * len(modes), 400), layers=(raster_layer("photo", photo), *strips[::2], through)
        )
    )
    commands.add_layer(document, below, index=9)
    for layer in document.state.walk():
        commands.set_locked(document, layer.id, False)
    commands.shift_layer(document, below.id, 50, 110)
    difference = np.abs(
        premultiplied(in_krita(document.state, tmp_path)) - premultiplied(render(document.state))
    )
    assert np.percentile(difference, 99.9) <= 2.5
    assert difference.max() <= 6
