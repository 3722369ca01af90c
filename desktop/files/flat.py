"""Flat pictures: opened as a document of one layer, and the composite exported with its metadata.

Any picture that flux_core.imaging.codec reads can be opened; colours become sRGB and the camera's turn is
applied. Exports are PNG, JPEG or WebP by the name's ending, and say how generated layers were made.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import Image, TiffImagePlugin

from desktop.document.compositor import render
from desktop.document.geometry import Extent
from desktop.document.layers import GenerativeLayer, GroupLayer, Layer, RasterLayer
from desktop.document.state import DocumentState
from desktop.document.tiles import TileRaster
from desktop.files import disk
from desktop.files.ora import Opened
from desktop.files.rasters import has_deep_colour
from flux_core.imaging import codec, metadata
from flux_core.request import Task
from flux_core.storage import write_atomically

_TIFF_BITS_PER_SAMPLE = 258


def open_picture(path: Path) -> Opened:
    """Opens a PNG, JPEG, WebP, TIFF, BMP, GIF or AVIF as a document of one layer.

    Raises:
        RequestInvalid: No such file, not a picture, or too large.
        Corrupt: Truncated or damaged.
        OutOfMemory: The machine cannot hold it.
    """
    data = disk.read_file(path)
    picture = codec.read(data, path.name)
    notes: list[str] = []
    if picture.icc is not None:
        notes.append(f"The colours of {path.name} were converted from its own profile to sRGB.")
    if _is_deep(data):
        notes.append(f"{path.name} had 16 bits a channel and now has 8.")
    pixels = picture.srgb()
    layer = RasterLayer(name=path.stem, raster=TileRaster.from_array(pixels))
    size = Extent(pixels.shape[1], pixels.shape[0])
    return Opened(DocumentState(size=size, layers=(layer,)), layer.id, tuple(notes))


def export_picture(state: DocumentState, path: Path, *, quality: int = 92, has_metadata: bool = True) -> None:
    """Writes the composite as PNG, JPEG or WebP, atomically.

    Args:
        state: What to export.
        path: Its ending (.png, .jpg, .jpeg, .webp) says the format. JPEG lies on white.
        quality: 1..100 for JPEG and WebP; WebP at 100 is lossless.
        has_metadata: Whether the recipe of generated layers and the mark that a model had a part in
            the picture are written into the file.

    Raises:
        RequestInvalid: Unknown ending, a size the format cannot hold, or a folder that refuses.
        StorageFull: The disk is full; the old file is untouched.
    """
    format = codec.format_of(path.name)
    pixels = render(state)
    if int(pixels[..., 3].min()) == 255:
        pixels = pixels[..., :3]
    recipe = recipe_of(state) if has_metadata else None
    write_atomically(path, metadata.encode(pixels, format, recipe, quality=quality))


def recipe_of(state: DocumentState) -> metadata.Recipe | None:
    """How the visible picture was made; None if no model had a part in it.

    The request is given only if a single generated layer is there, because no one request would make
    the picture of two.
    """
    visible = list(_visible(state.layers))
    generated = [layer for layer in visible if isinstance(layer, GenerativeLayer)]
    if not generated:
        return None
    is_composite = len(visible) > 1 or generated[0].recipe.request.task is not Task.GENERATE
    request = None
    if len(generated) == 1:
        recipe = generated[0].recipe
        request = recipe.request.model_copy(update={"seed": recipe.seed, "num_images": 1})
    return metadata.Recipe(request, is_composite=is_composite)


def _visible(layers: tuple[Layer, ...]) -> list[RasterLayer]:
    found: list[RasterLayer] = []
    for layer in layers:
        if not layer.is_visible or layer.opacity <= 0.0:
            continue
        if isinstance(layer, GroupLayer):
            found += _visible(layer.children)
        elif isinstance(layer, RasterLayer) and layer.raster.tiles:
            found.append(layer)
    return found


def _is_deep(data: bytes) -> bool:
    """True for a PNG or TIFF with more than 8 bits a channel; any doubt counts as no."""
    if has_deep_colour(data):
        return True
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
                if not isinstance(image, TiffImagePlugin.TiffImageFile):
                    return False
                bits = image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (8,))
                return max(bits) > 8 if isinstance(bits, tuple) else int(bits) > 8
    except Exception:  # the codec has read it already; this is only a remark
        return False
