"""The size an edit works at: one of the few that the editing model knows, reached without stretching.

FLUX.1 Kontext was trained on 17 sizes of about one megapixel. The nearest in proportion is taken, the
picture is scaled by one factor for both axes, and what is then missing is its own edge, repeated; BFL and
diffusers scale the axes by different factors, which shifts everything in the result against its source.

Source: black-forest-labs/flux util.py (PREFERED_KONTEXT_RESOLUTIONS).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import RequestInvalid
from flux_core.imaging.geometry import Box, crop, resize
from flux_core.request import MIN_SIDE_PX, SIZE_MULTIPLE_PX

KONTEXT_SIDE_PX = 1024
KONTEXT_SIZES = (
    (672, 1568),
    (688, 1504),
    (720, 1456),
    (752, 1392),
    (800, 1328),
    (832, 1248),
    (880, 1184),
    (944, 1104),
    (1024, 1024),
    (1104, 944),
    (1184, 880),
    (1248, 832),
    (1328, 800),
    (1392, 752),
    (1456, 720),
    (1504, 688),
    (1568, 672),
)
"""Width and height."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Fit:
    """How a picture lies on a working size.

    Attributes:
        picture_size: Width and height of the picture.
        width_px, height_px: The working size.
        x0, y0: Where the working size begins, in picture pixels; below 0 where edge is added.
        scale: Working pixels per picture pixel, the same on both axes.
    """

    picture_size: tuple[int, int]
    width_px: int
    height_px: int
    x0: float
    y0: float
    scale: float


def preferred_sizes(working_side_px: int, max_side_px: int | None = None) -> tuple[tuple[int, int], ...]:
    """The sizes (width, height) that a model of this working side edits at.

    Args:
        working_side_px: From the catalog; 1024 gives Kontext's own list, another the same proportions.
        max_side_px: Longest side the model can paint; longer sizes shrink with their proportions.
    """
    sizes: dict[tuple[int, int], None] = {}
    for width, height in KONTEXT_SIZES:
        factor = working_side_px / KONTEXT_SIDE_PX
        if max_side_px is not None:
            factor = min(factor, max_side_px / max(width, height))
        sizes[_multiple(width * factor), _multiple(height * factor)] = None
    return tuple(sizes)


def nearest_size(
    width_px: int, height_px: int, working_side_px: int = KONTEXT_SIDE_PX, max_side_px: int | None = None
) -> tuple[int, int]:
    """The preferred size (width, height) whose proportions are nearest.

    Nearest is measured on the logarithm, so that a picture on its side gets the size on its side; BFL takes
    the difference of the ratios, which treats tall and wide pictures unlike.

    Raises:
        RequestInvalid: The picture is empty.
    """
    if min(width_px, height_px) < 1:
        raise RequestInvalid(
            f"A picture of {width_px} x {height_px} pixels is empty.", "Use another picture."
        )
    wanted = math.log(width_px / height_px)
    return min(
        preferred_sizes(working_side_px, max_side_px),
        key=lambda size: (round(abs(math.log(size[0] / size[1]) - wanted), 9), -size[0] * size[1]),
    )


def fit(picture_size: tuple[int, int], size: tuple[int, int], how: Literal["pad", "crop"] = "pad") -> Fit:
    """Lays a picture centred on a working size with one scale for both axes.

    Args:
        picture_size: Width and height.
        size: Width and height to work at.
        how: "pad" keeps the whole picture and repeats its edge, so that the result can be laid back;
            "crop" fills the size and loses what sticks out, good for a reference of style.
    """
    ratios = size[0] / picture_size[0], size[1] / picture_size[1]
    scale = min(ratios) if how == "pad" else max(ratios)
    return Fit(
        picture_size=picture_size,
        width_px=size[0],
        height_px=size[1],
        x0=(picture_size[0] - size[0] / scale) / 2,
        y0=(picture_size[1] - size[1] / scale) / 2,
        scale=scale,
    )


def fit_picture(picture: Pixels, fitted: Fit) -> Pixels:
    """The picture [h, w, C] as the model sees it, [height_px, width_px, C].

    Raises:
        RequestInvalid: The picture has another size than planned.
    """
    _check_size(picture, fitted.picture_size, "picture")
    x1, y1 = fitted.x0 + fitted.width_px / fitted.scale, fitted.y0 + fitted.height_px / fitted.scale
    box = Box(math.floor(fitted.x0), math.floor(fitted.y0), math.ceil(x1 - 1e-6), math.ceil(y1 - 1e-6))
    piece = crop(picture, box)
    source = (
        fitted.x0 - box.x0,
        fitted.y0 - box.y0,
        min(x1 - box.x0, float(box.width)),
        min(y1 - box.y0, float(box.height)),
    )
    return resize(piece, fitted.width_px, fitted.height_px, source)


def unfit_picture(result: Pixels, fitted: Fit) -> Pixels:
    """The model's answer [height_px, width_px, C] at the picture's size: the exact inverse of a padded fit.

    Raises:
        RequestInvalid: The answer has another size than planned.
        ValueError: The fit was cropped, so there is no way back.
    """
    if fitted.x0 > 1e-6 or fitted.y0 > 1e-6:
        raise ValueError("a cropped fit cannot be laid back")
    _check_size(result, (fitted.width_px, fitted.height_px), "edited picture")
    width, height = fitted.picture_size
    x0, y0 = max(-fitted.x0 * fitted.scale, 0.0), max(-fitted.y0 * fitted.scale, 0.0)
    x1 = min(x0 + width * fitted.scale, float(fitted.width_px))
    y1 = min(y0 + height * fitted.scale, float(fitted.height_px))
    return resize(result, width, height, (x0, y0, x1, y1))


def _multiple(side_px: float) -> int:
    return max(round(side_px / SIZE_MULTIPLE_PX) * SIZE_MULTIPLE_PX, MIN_SIDE_PX)


def _check_size(picture: Pixels, size: tuple[int, int], name: str) -> None:
    height, width = picture.shape[:2]
    if (width, height) != size:
        raise RequestInvalid(
            f"The {name} is {width} x {height} pixels, but {size[0]} x {size[1]} are needed.",
            "Use pictures of the same size.",
        )
