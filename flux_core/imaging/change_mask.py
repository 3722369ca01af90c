"""What an edit has really changed, so that everything else keeps its bytes.

An editing model paints the whole picture anew: also where nothing was asked for, every pixel differs a
little, by the autoencoder's rounding of texture and a slight shift of tones. The mask holds what differs
by more than that; outside it the source is kept as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import RequestInvalid
from flux_core.imaging import masks
from flux_core.imaging.color import match_colours
from flux_core.imaging.geometry import Box, crop
from flux_core.imaging.inpaint import Patch, apply
from flux_core.imaging.opencv import opencv
from flux_core.imaging.registration import Registration, lay_back, register

GROW_PX = 6
FEATHER_PX = 6
_CELL_PX = 8  # match_colours wants whole cells

_SMOOTH_PX = 1.5  # sigma of the differences, so that single pixels of noise do not count
_TEXTURE_SHARE = 0.7  # of the local contrast is what an autoencoder gets wrong
_NOISE_RANGE = (1.5, 6.0)  # levels of Lab; more is a change, not noise
_QUIET_QUANTILE = 0.4  # of the differences: noise as long as so much of the picture is unchanged
_SEED_NOISES = 7.0  # a change begins where the difference is so many times the noise
_SPREAD_NOISES = 3.0  # and goes on to here
_MIN_DIFFERENCE = 8.0  # levels; less is seen by nobody
_MIN_AREA_SHARE = 2e-4  # of the picture; smaller specks go out
_MIN_AREA_PX = 100.0
_TRIM_ROUNDS = 4
_MAX_SHIFT = 8.0  # of a Lab channel; a model's drift of tones is less, a background of another colour is more
_LEAST_KEPT = 0.05  # of the picture, below which nobody can tell a drift from a change

Pixels = NDArray[np.uint8]
Plane = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class SettledEdit:
    """An edit, laid back onto its source.

    Attributes:
        pixels: [H, W, 3]; the source's bytes wherever `mask` is 0.
        mask: [H, W] how much of the edit shows.
        registration: How the model's picture had been moved.
    """

    pixels: Pixels
    mask: Pixels
    registration: Registration


def settle_edit(
    source: Pixels,
    edited: Pixels,
    grow_px: int = GROW_PX,
    feather_px: int = FEATHER_PX,
    round_trip: Pixels | None = None,
) -> SettledEdit:
    """Registers an edited picture, finds what it changed, matches its colours, and keeps the rest.

    Args:
        source: [H, W, 3].
        edited: [H, W, 3], the model's answer at the source's size.
        grow_px: As in `change_mask`.
        feather_px: As in `change_mask`.
        round_trip: As in `change_mask`.

    Raises:
        RequestInvalid: The sizes differ.
    """
    registration = register(source, edited)
    moved = lay_back(edited, registration)
    mask = change_mask(source, moved, grow_px, feather_px, round_trip)
    matched = match_to_kept(source, moved, mask)
    return SettledEdit(keep_unchanged(source, matched, mask), mask, registration)


def change_mask(
    source: Pixels,
    edited: Pixels,
    grow_px: int = GROW_PX,
    feather_px: int = FEATHER_PX,
    round_trip: Pixels | None = None,
) -> Pixels:
    """The mask [H, W] of what an edit changed; all 0 when it changed nothing that can be seen.

    Args:
        source: [H, W, 3].
        edited: [H, W, 3], already laid onto the source (see `registration`).
        grow_px: How far the mask reaches beyond what differs.
        feather_px: Width of the fade, inwards from that limit; up to `grow_px` all of the change shows.
        round_trip: [H, W, 3], the source after the model's encoder and decoder. With it the autoencoder's own
            errors are no changes; a weak autoencoder makes false ones on a third of a hard-edged picture.

    Raises:
        RequestInvalid: The sizes differ.
    """
    _check_sizes(source, edited)
    before = source if round_trip is None else round_trip
    _check_sizes(source, before)
    difference = _difference(before, edited)
    noise = _noise(source, difference)
    limit = np.maximum(_SPREAD_NOISES * noise, _MIN_DIFFERENCE / 2)
    seed = np.maximum(_SEED_NOISES * noise, _MIN_DIFFERENCE)
    core = _hysteresis(difference > limit, difference > seed)
    if not core.any():
        return np.zeros(core.shape, np.uint8)
    grown = masks.grown(np.where(core, np.uint8(255), np.uint8(0)), grow_px)
    return masks.feathered(grown, feather_px)


def keep_unchanged(source: Pixels, edited: Pixels, mask: Pixels) -> Pixels:
    """The edit where the mask is, the source elsewhere.

    Args:
        source: [H, W, 3 or 4].
        edited: [H, W, 3].
        mask: [H, W] how much of the edit shows.

    Returns:
        As `source`; byte-equal to it wherever the mask is 0.

    Raises:
        RequestInvalid: The sizes differ.
    """
    _check_sizes(source, edited)
    _check_sizes(source, mask)
    return apply(source, Patch(0, 0, edited, mask))


def match_to_kept(source: Pixels, edited: Pixels, mask: Pixels) -> Pixels:
    """The edit [H, W, 3] with its colours moved to the source's, as measured around the mask [H, W]."""
    height, width = mask.shape
    box = Box(0, 0, -(-width // _CELL_PX) * _CELL_PX, -(-height // _CELL_PX) * _CELL_PX)
    inside = np.zeros((box.height, box.width), bool)
    inside[:height, :width] = True
    matched = match_colours(crop(source[..., :3], box), crop(edited, box), crop(mask, box), inside)
    return matched[:height, :width]


def _difference(source: Pixels, edited: Pixels) -> Plane:
    """Smoothed distance in Lab (levels of 255 a channel) after taking out the shift of most pixels."""
    cv2 = opencv()
    one, other = (
        cv2.cvtColor(np.ascontiguousarray(p[..., :3]).astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB)
        for p in (source, edited)
    )
    shift = _common_shift(one, other)
    apart = cv2.GaussianBlur(other - shift - one, (0, 0), _SMOOTH_PX)
    return np.sqrt(np.square(apart).sum(axis=2)) * np.float32(2.55)


def _common_shift(one: Plane, other: Plane) -> Plane:
    """[H, W, 3]: per channel a + b * value, fitted to the pixels that follow it; the others drop out.

    Most pixels may follow what was asked for, a new background, so only small differences take part.
    """
    rows = max(one.shape[0] * one.shape[1] // 60_000, 1)
    x = one.reshape(-1, 3)[::rows].astype(np.float64)
    y = other.reshape(-1, 3)[::rows].astype(np.float64) - x
    is_small = np.abs(y).max(axis=1) <= _MAX_SHIFT
    if is_small.mean() < _LEAST_KEPT:
        return np.zeros_like(one)
    x, y = x[is_small], y[is_small]
    gain, offset = np.zeros(3), np.median(y, axis=0)
    for _ in range(_TRIM_ROUNDS):
        error = np.square(y - offset - gain * x).sum(axis=1)
        follows = error <= np.quantile(error, 0.6)
        mean_x, mean_y = x[follows].mean(axis=0), y[follows].mean(axis=0)
        spread = np.square(x[follows] - mean_x).mean(axis=0)
        gain = ((x[follows] - mean_x) * (y[follows] - mean_y)).mean(axis=0) / (spread + 25.0)
        gain = np.clip(gain, -0.25, 0.25)
        offset = mean_y - gain * mean_x
    return np.clip(offset + gain * one, -_MAX_SHIFT, _MAX_SHIFT).astype(np.float32)


def _noise(source: Pixels, difference: Plane) -> Plane:
    """What differs anyway at each place: the picture's usual difference, more where it has texture."""
    cv2 = opencv()
    plane = cv2.cvtColor(np.ascontiguousarray(source[..., :3]), cv2.COLOR_RGB2GRAY).astype(np.float32)
    detail = plane - cv2.GaussianBlur(plane, (0, 0), 2.0)
    contrast = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 4.0))
    usual = float(np.clip(np.quantile(difference, _QUIET_QUANTILE), *_NOISE_RANGE))
    return usual + np.float32(_TEXTURE_SHARE) * contrast / np.float32(_SPREAD_NOISES)


def _hysteresis(weak: NDArray[np.bool_], strong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Connected parts of `weak` that hold something strong and are no specks, with their holes filled."""
    cv2 = opencv()
    closed = cv2.morphologyEx(weak.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    is_kept = np.zeros(count, bool)
    is_kept[np.unique(labels[strong & (closed > 0)])] = True
    smallest = max(_MIN_AREA_SHARE * weak.size, _MIN_AREA_PX)
    is_kept &= statistics[:, cv2.CC_STAT_AREA] >= smallest
    is_kept[0] = False
    core = is_kept[labels]
    return core | _small_holes(core, smallest * 8)


def _small_holes(core: NDArray[np.bool_], largest_px: float) -> NDArray[np.bool_]:
    cv2 = opencv()
    _, labels, statistics, _ = cv2.connectedComponentsWithStats((~core).astype(np.uint8), connectivity=4)
    is_small = statistics[:, cv2.CC_STAT_AREA] <= largest_px
    is_small[0] = False
    return is_small[labels]


def _check_sizes(source: Pixels, other: Pixels) -> None:
    if source.shape[:2] != other.shape[:2]:
        raise RequestInvalid(
            f"The picture is {source.shape[1]} x {source.shape[0]} pixels, and its edit "
            f"{other.shape[1]} x {other.shape[0]}.",
            "Use pictures of the same size.",
        )
