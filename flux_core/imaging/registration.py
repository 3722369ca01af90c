"""Laying an edited picture back onto its source, to a fraction of a pixel.

An editing model returns its picture a few pixels shifted and up to some percent larger or smaller, and
part of it is changed, as was asked. Shift and scale are estimated on brightness from which the local tone is
taken, with weights that let the changed part have no say; where too little agrees, nothing is moved.

Source: Lucas & Kanade 1981 (Gauss-Newton on the warp); Geman & McClure 1985 (weights that let outliers
go); Kuglin & Hines 1975 (phase correlation, for the start).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import RequestInvalid
from flux_core.imaging.opencv import grey, opencv

MAX_SCALE_CHANGE = 0.04
MAX_SHIFT_SHARE = 0.06  # of the longer side
SURE = 0.3  # confidence from which the picture is moved

_COARSE_PX = 256  # longest side where the start is searched
_FINE_PX = 1024  # longest side of the last refinement
_START_SCALES = np.linspace(1.0 - MAX_SCALE_CHANGE, 1.0 + MAX_SCALE_CHANGE, 17)
_ROUNDS = 12  # of Gauss-Newton per level
_BLOCK_PX = 16  # pieces that agree or do not
_AGREEMENT = 0.7  # correlation of a block that agrees
_MIN_TEXTURE = 2.0  # standard deviation, of 255, of a block that can say anything
_MIN_BLOCKS = 8
_FAR_SHIFTS = ((37, 0), (0, 41), (29, 31))
_MAX_DOUBT_PX = 0.3  # standard error of the position anywhere in the picture
_MAX_CONDITION = 1e6  # of the normal equations; stripes leave one direction open
_CORRELATED_PX = 16.0  # neighbouring pixels share their errors
_STEP_PX = 1e-3  # a smaller step is the last
_STILL_PX = 0.1  # a smaller motion is not worth resampling every pixel for

Pixels = NDArray[np.uint8]
Plane = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Registration:
    """Where the source's pixels lie in the result: c + scale * (p - c) + (dx, dy), c being the centre.

    Attributes:
        dx_px, dy_px: Shift of the result against the source, right and down.
        scale: Of the result against the source.
        confidence: Share of the textured blocks that agree after the motion, beyond chance, in [0, 1].
        is_sure: Whether the motion was found; else it is the identity.
    """

    dx_px: float = 0.0
    dy_px: float = 0.0
    scale: float = 1.0
    confidence: float = 0.0
    is_sure: bool = False

    def reach_px(self, width_px: int, height_px: int) -> float:
        """How far the farthest pixel of a picture moves."""
        grow = abs(self.scale - 1.0)
        return math.hypot(abs(self.dx_px) + grow * width_px / 2, abs(self.dy_px) + grow * height_px / 2)


def register(source: Pixels, result: Pixels) -> Registration:
    """Finds shift and scale of an edited picture against its source.

    Args:
        source: [H, W, 3 or 4] or [H, W].
        result: Of the same size.

    Raises:
        RequestInvalid: The sizes differ.
    """
    if source.shape[:2] != result.shape[:2]:
        raise RequestInvalid(
            f"Pictures of {source.shape[1]} x {source.shape[0]} and {result.shape[1]} x {result.shape[0]} "
            "pixels cannot be laid over each other.",
            "Scale the edited picture to the size of its source.",
        )
    pair = grey(source), grey(result)
    longest = max(pair[0].shape)
    coarse, _ = _levels(*pair, _COARSE_PX)
    motion = _start(*coarse)
    doubt_px = math.inf
    for side in (_COARSE_PX, 2 * _COARSE_PX, _FINE_PX):
        level, shrink = _levels(*pair, side)
        motion, doubt = _refined(*level, motion / (shrink, shrink, 1.0))
        motion, doubt_px = motion * (shrink, shrink, 1.0), doubt * shrink
        if not _is_possible(motion, longest):
            return Registration()
        if longest <= side:
            break
    dx, dy, scale = (float(v) for v in motion)
    confidence = _confidence(pair[0], warp(pair[1], dx, dy, scale))
    if confidence < SURE or doubt_px > _MAX_DOUBT_PX:
        return Registration(confidence=confidence)
    return Registration(dx, dy, scale, confidence, is_sure=True)


def lay_back(result: Pixels, registration: Registration) -> Pixels:
    """The edited picture [H, W, ...] moved onto its source; unchanged when unsure or nearly still.

    What lies beyond the result's border is its edge, repeated.
    """
    height, width = result.shape[:2]
    if not registration.is_sure or registration.reach_px(width, height) < _STILL_PX:
        return result
    return warp(result, registration.dx_px, registration.dy_px, registration.scale)


def warp(picture: Pixels, dx_px: float, dy_px: float, scale: float) -> Pixels:
    """Takes the motion out of a picture [H, W] or [H, W, C]; Lanczos over 8 x 8 pixels."""
    return _warped(picture, dx_px, dy_px, scale, opencv().INTER_LANCZOS4)


def _warped(picture: NDArray[Any], dx: float, dy: float, scale: float, interpolation: int) -> NDArray[Any]:
    cv2 = opencv()
    height, width = picture.shape[:2]
    x_c, y_c = (width - 1) / 2, (height - 1) / 2
    matrix = np.array([[scale, 0.0, x_c - scale * x_c + dx], [0.0, scale, y_c - scale * y_c + dy]])
    flags = interpolation | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _levels(source: Pixels, result: Pixels, side_px: int) -> tuple[tuple[Plane, Plane], float]:
    """Both pictures at most `side_px` long, without their local tone; and how much they were reduced."""
    shrink = max(max(source.shape) / side_px, 1.0)
    size = round(source.shape[1] / shrink), round(source.shape[0] / shrink)
    cv2 = opencv()
    planes = [_toneless(cv2.resize(p, size, interpolation=cv2.INTER_AREA)) for p in (source, result)]
    return (planes[0], planes[1]), shrink


def _toneless(plane: Pixels) -> Plane:
    """Contrast against the surroundings in units of the local contrast, so that tone shifts do not matter."""
    cv2 = opencv()
    values = cv2.GaussianBlur(plane.astype(np.float32), (0, 0), 0.7)
    detail = values - cv2.GaussianBlur(values, (0, 0), 6.0)
    contrast = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 12.0)) + 4.0
    return (detail / contrast).astype(np.float32)


def _start(source: Plane, result: Plane) -> NDArray[np.float64]:
    """Scale and shift of the sharpest phase correlation over a few scales: [dx, dy, scale]."""
    cv2 = opencv()
    height, width = source.shape
    window = cv2.createHanningWindow((width, height), cv2.CV_32F) if min(height, width) > 1 else None
    best, motion = -1.0, np.array([0.0, 0.0, 1.0])
    for scale in _START_SCALES:
        scaled = _warped(result, 0.0, 0.0, float(scale), cv2.INTER_LINEAR)
        (dx, dy), response = cv2.phaseCorrelate(source, scaled, window)
        if response > best and math.hypot(dx, dy) <= MAX_SHIFT_SHARE * max(height, width):
            best, motion = response, np.array([dx * scale, dy * scale, scale])
    return motion


def _refined(source: Plane, result: Plane, motion: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Gauss-Newton with weights on [dx, dy, scale].

    Returns:
        (motion, doubt): doubt is the standard error, in pixels, of the least certain corner.
    """
    height, width = source.shape
    doubt = math.inf
    for _ in range(_ROUNDS):
        moved: Plane = _warped(result, motion[0], motion[1], motion[2], opencv().INTER_CUBIC)
        normal, towards, spread = _equations(source, moved)
        size = np.sqrt(np.diag(normal) + 1e-12)
        if np.linalg.cond(normal / np.outer(size, size)) > _MAX_CONDITION:
            return motion, math.inf
        inverse = np.linalg.inv(normal)
        step = inverse @ towards
        motion = motion + step
        corner = np.array([[1.0, 0.0, width / 2], [0.0, 1.0, height / 2]])
        variance = np.einsum("ij,jk,ik->i", corner, inverse, corner) * spread**2 * _CORRELATED_PX
        doubt = float(np.sqrt(np.maximum(variance, 0.0).max()))
        if abs(step[0]) + abs(step[1]) + abs(step[2]) * max(height, width) / 2 < _STEP_PX:
            break
    return motion, doubt


def _equations(source: Plane, moved: Plane) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Weighted normal equations of one step: matrix [3, 3], right side [3], and the spread of the errors."""
    cv2 = opencv()
    height, width = source.shape
    x = (np.arange(width, dtype=np.float32) - (width - 1) / 2)[None, :]
    y = (np.arange(height, dtype=np.float32) - (height - 1) / 2)[:, None]
    difference: Plane = source - moved
    mean: Plane = 0.5 * (source + moved)  # its slopes are right to second order
    gx: Plane = cv2.Sobel(mean, cv2.CV_32F, 1, 0, scale=0.125)
    gy: Plane = cv2.Sobel(mean, cv2.CV_32F, 0, 1, scale=0.125)
    spread = max(1.4826 * float(np.median(np.abs(difference))), 0.02)
    slopes = np.stack([gx, gy, gx * x + gy * y]).reshape(3, -1)  # [3, H * W]
    weighted = slopes * _weights(difference, spread).reshape(1, -1)
    normal = (weighted @ slopes.T).astype(np.float64)
    towards = (weighted @ difference.reshape(-1)).astype(np.float64)
    return normal, towards, spread


def _weights(difference: Plane, spread: float) -> Plane:
    """Near 1 where the pictures agree, near 0 where they do not, judged over small neighbourhoods."""
    error = opencv().GaussianBlur(difference * difference, (0, 0), 3.0) / np.float32((2.5 * spread) ** 2)
    return (1.0 / np.square(1.0 + error)).astype(np.float32)


def _confidence(source: Pixels, moved: Pixels) -> float:
    """Share of the source's textured blocks that look alike in both, beyond what chance gives.

    Chance is what agrees when the picture is moved far away on purpose: much, where a pattern repeats.
    """
    agreeing = _agreement(source, moved)
    chance = max(_agreement(source, np.roll(moved, shift, axis=(0, 1))) for shift in _FAR_SHIFTS)
    return max(agreeing - chance, 0.0) / max(1.0 - chance, 0.05)


def _agreement(source: Pixels, moved: Pixels) -> float:
    """Share of the source's textured blocks that look alike in both."""
    one, other = _blocks(source), _blocks(moved)
    deviations = one.std(axis=1), other.std(axis=1)
    is_textured = deviations[0] > _MIN_TEXTURE
    if np.count_nonzero(is_textured) < _MIN_BLOCKS:
        return 0.0
    correlation = (one * other).mean(axis=1) / np.maximum(deviations[0] * deviations[1], 1e-3)
    return float((correlation[is_textured] > _AGREEMENT).mean())


def _blocks(plane: Pixels) -> Plane:
    """Pieces of 16 x 16 pixels without their means, [N, 256]."""
    height, width = (side // _BLOCK_PX * _BLOCK_PX for side in plane.shape)
    cut = plane[:height, :width].astype(np.float32)
    cut = cut.reshape(height // _BLOCK_PX, _BLOCK_PX, width // _BLOCK_PX, _BLOCK_PX).swapaxes(1, 2)
    cut = cut.reshape(-1, _BLOCK_PX**2)
    return cut - cut.mean(axis=1, keepdims=True)


def _is_possible(motion: NDArray[np.float64], longest_px: int) -> bool:
    return (
        bool(np.isfinite(motion).all())
        and abs(motion[2] - 1.0) <= MAX_SCALE_CHANGE
        and math.hypot(motion[0], motion[1]) <= MAX_SHIFT_SHARE * longest_px
    )
