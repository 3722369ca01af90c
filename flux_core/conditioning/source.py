"""The picture and the mask that a request brings: read, checked against it, made ready for the model.

This happens before anything is loaded, so a wrong request costs nothing. Sizes must be those of the
request, because only the sender knows how a picture should be fitted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flux_core.conditioning import pixels
from flux_core.errors import RequestInvalid
from flux_core.imaging import codec
from flux_core.request import GenerationRequest

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Source:
    """The picture a job starts from.

    Attributes:
        image: [1, H', W', 3] in [-1, 1], sides padded to 16.
        freedom: [1, H'/8, W'/8, 1] in [0, 1], how much of each latent may change; None without a mask.
    """

    image: Floats
    freedom: Floats | None


def read_source(request: GenerationRequest, read_blob: Callable[[str], bytes]) -> Source | None:
    """Reads and checks a request's picture and mask; None if it has none.

    Raises:
        RequestInvalid: A picture is unreadable, not of the request's size, or the mask is empty.
        Corrupt: A picture is damaged.
    """
    if request.image is None:
        return None
    image = codec.decode(read_blob(request.image), "the picture")
    _check_size(image, request, "The picture")
    if request.mask is None:
        return Source(pixels.image_to_model(image), None)
    mask = codec.decode_grey(read_blob(request.mask), "the mask")
    _check_size(mask, request, "The mask")
    if not mask.any():
        raise RequestInvalid("The mask is empty, so nothing would be repainted.", "Paint where to repaint.")
    return Source(pixels.image_to_model(image), pixels.mask_to_freedom(mask))


def _check_size(image: NDArray[np.uint8], request: GenerationRequest, what: str) -> None:
    height, width = image.shape[:2]
    if (width, height) != (request.width_px, request.height_px):
        raise RequestInvalid(
            f"{what} is {width} x {height} pixels, and the request says "
            f"{request.width_px} x {request.height_px}.",
            "Send it in the size of the request.",
        )
