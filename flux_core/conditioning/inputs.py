"""The pictures that a request brings: read, checked against it, made ready for the model.

This happens before anything is loaded, so a wrong request costs nothing. Whether a picture must have the
request's size or is fitted depends on what it is for; nothing is ever stretched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flux_core.catalog import ModelSpec
from flux_core.conditioning import pixels
from flux_core.errors import RequestInvalid
from flux_core.imaging import codec
from flux_core.request import ControlUse, GenerationRequest, Task

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

MAX_STRETCH = 0.01  # of an upscale's two sides; a pixel of rounding is no stretching


@dataclass(frozen=True, slots=True)
class Source:
    """The picture a job starts from.

    Attributes:
        image: [1, H', W', 3] in [-1, 1], sides padded to 16.
        freedom: [1, H'/8, W'/8, 1] in [0, 1], how much of each latent may change; None without a mask.
        mask: [1, H', W', 1], 1 = repaint, 0 = keep, nothing between; None without a mask.
    """

    image: Floats
    freedom: Floats | None
    mask: Floats | None


@dataclass(frozen=True, slots=True)
class Control:
    """A control map or, where the engine makes the map, the picture it is made from.

    Attributes:
        use: As the request asks for it.
        rgba: [height_px, width_px, 4] of the request's size.
    """

    use: ControlUse
    rgba: Bytes


@dataclass(frozen=True, slots=True)
class Inputs:
    """Every picture of a request.

    Attributes:
        source: What the walk starts from, or None.
        small: [h, w, 4], what an upscale enlarges, or None.
        references: What an edit reads, each [1, h', w', 3] in [-1, 1] with sides that are multiples of 16.
        pictures: What the result should be like, in the order of the request, [h, w, 4] each.
        controls: Maps, or pictures for maps.
        regions: Where each region is, [H', W'] in [0, 1].
    """

    source: Source | None = None
    small: Bytes | None = None
    references: tuple[Floats, ...] = ()
    pictures: tuple[Bytes, ...] = ()
    controls: tuple[Control, ...] = ()
    regions: tuple[Floats, ...] = ()


def read_inputs(request: GenerationRequest, spec: ModelSpec, read_blob: Callable[[str], bytes]) -> Inputs:
    """Reads and checks a request's pictures.

    Raises:
        RequestInvalid: A picture is unreadable, not of the size it must have, or a mask is empty.
        Corrupt: A picture is damaged.
    """

    def read(sha256: str, what: str) -> Bytes:
        return codec.decode(read_blob(sha256), what)

    task = request.task
    image = read(request.image, "the picture") if request.image is not None else None
    source, small, references = None, None, tuple[Floats, ...]()
    if image is not None and task is Task.EDIT:
        others = [read(ref, "a reference picture") for ref in request.references]
        references = tuple(_reference(each, request, spec) for each in (image, *others))
    elif image is not None and task is Task.UPSCALE:
        small = _check_shape(image, request)
    elif image is not None:
        source = _read_source(image, request, read_blob)
    return Inputs(
        source,
        small,
        references,
        tuple(read(use.image, "a picture to be like") for use in request.pictures),
        tuple(
            Control(use, covered(read(use.image, "a control picture"), request)) for use in request.controls
        ),
        _read_regions(request, read_blob),
    )


def make_source(image: Bytes) -> Source:
    """[H, W, 4] as what a walk starts from, all of it free."""
    return Source(pixels.image_to_model(image), None, None)


def covered(rgba: Bytes, request: GenerationRequest) -> Bytes:
    """A picture of any size, scaled so that it covers the request's size, the middle of it.

    Source: black-forest-labs/flux resizes to the output's size (Lanczos); ours keeps the proportions.
    """
    width, height = request.width_px, request.height_px
    factor = max(width / rgba.shape[1], height / rgba.shape[0])
    wide, high = max(width, round(rgba.shape[1] * factor)), max(height, round(rgba.shape[0] * factor))
    left, top = (wide - width) // 2, (high - height) // 2
    # Only the middle is resampled: of a picture one pixel wide the whole would be gigabytes.
    across, down = rgba.shape[1] / wide, rgba.shape[0] / high
    box = left * across, top * down, (left + width) * across, (top + height) * down
    return pixels.resized(rgba, width, height, box)


def _read_source(image: Bytes, request: GenerationRequest, read_blob: Callable[[str], bytes]) -> Source:
    _check_size(image, request, "The picture")
    if request.mask is None:
        return make_source(image)
    mask = codec.decode_grey(read_blob(request.mask), "the mask")
    _check_size(mask, request, "The mask")
    if not mask.any():
        raise RequestInvalid("The mask is empty, so nothing would be repainted.", "Paint where to repaint.")
    return Source(pixels.image_to_model(image), pixels.mask_to_freedom(mask), pixels.mask_to_model(mask))


def _read_regions(request: GenerationRequest, read_blob: Callable[[str], bytes]) -> tuple[Floats, ...]:
    """Where each region is; refuses one that is empty, or that covers just what another does."""
    grids: list[Floats] = []
    for number, region in enumerate(request.regions, start=1):
        mask = codec.decode_grey(read_blob(region.mask), "the mask of a region")
        _check_size(mask, request, f"The mask of region {number}")
        if not mask.any():
            raise RequestInvalid(f"The mask of region {number} is empty.", "Paint where the region is.")
        grid = pixels.padded_mask(mask)
        for other, before in enumerate(grids, start=1):
            if np.array_equal(before > 0, grid > 0):
                raise RequestInvalid(
                    f"Regions {other} and {number} cover the same place.", "Make one region of their prompts."
                )
        grids.append(grid)
    return tuple(grids)


def _reference(rgba: Bytes, request: GenerationRequest, spec: ModelSpec) -> Floats:
    """As it is where it has the request's size, so that the result lies on it; else at about the area
    that the model works best with, in its own proportions.
    """
    height, width = rgba.shape[:2]
    if (width, height) != (request.width_px, request.height_px):
        factor = spec.working_side_px / (width * height) ** 0.5
        width, height = (max(16, round(side * factor)) for side in (width, height))
        rgba = pixels.resized(rgba, width, height)
    return pixels.image_to_model(rgba)


def _check_shape(image: Bytes, request: GenerationRequest) -> Bytes:
    """Refuses an upscale that would stretch."""
    height, width = image.shape[:2]
    factors = request.width_px / width, request.height_px / height
    if min(factors) < 1.0:
        raise RequestInvalid(
            f"The picture is {width} x {height} pixels, which is larger than "
            f"{request.width_px} x {request.height_px}.",
            "Ask for a larger size.",
        )
    if abs(factors[0] - factors[1]) > max(factors) * MAX_STRETCH + 1.0 / min(width, height):
        raise RequestInvalid(
            f"{request.width_px} x {request.height_px} has other proportions than the picture, "
            f"{width} x {height}.",
            "Enlarge both sides alike.",
        )
    return image


def _check_size(image: NDArray[np.uint8], request: GenerationRequest, what: str) -> None:
    height, width = image.shape[:2]
    if (width, height) != (request.width_px, request.height_px):
        raise RequestInvalid(
            f"{what} is {width} x {height} pixels, and the request says "
            f"{request.width_px} x {request.height_px}.",
            "Send it in the size of the request.",
        )
