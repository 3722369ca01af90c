"""What the model sees of a picture, and the pictures that travel with a request.

A frame is the whole picture, or the piece of it that an inpaint plan cuts out: masks and maps that were drawn
over the picture are brought to the same piece and size, so that they lie where the person put them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from desktop.commands import options
from desktop.commands.model_files import models_dirs
from flux_core import catalog
from flux_core.catalog import ModelSpec
from flux_core.errors import RequestInvalid
from flux_core.imaging import codec, geometry, inpaint, masks
from flux_core.imaging.codec import Pixels
from flux_core.imaging.inpaint import InpaintPlan
from flux_core.imaging.sizes import Fit, fit_picture
from flux_core.request import MAX_SIDE_PX, MIN_SIDE_PX, ControlKind, Task


class Blobs:
    """The pictures of one request, each once, under the sha256 that it travels by."""

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}

    def add(self, data: bytes) -> str:
        """Keeps a picture; returns its name."""
        name = hashlib.sha256(data).hexdigest()
        self._data[name] = data
        return name

    def add_picture(self, path: Path) -> str:
        """Reads a picture file of any kind and keeps it as an sRGB PNG; raises as codec.read does."""
        return self.add_pixels(read_picture(path).srgb())

    def add_pixels(self, pixels: Pixels) -> str:
        """Keeps sRGB pixels [H, W, 4], transparency laid on white."""
        return self.add(codec.encode_png(codec.flat(pixels)))

    @property
    def all(self) -> tuple[bytes, ...]:
        return tuple(self._data.values())


@dataclass(frozen=True, slots=True)
class Frame:
    """The size that the model paints at, and which piece of a picture that is.

    Attributes:
        plan: The piece; None is a picture that is not cut.
        added: Pixels that were added to the picture on the left, above, right and below: what was drawn over
            the picture as it was is taken, too.
        fitted: How a picture that is not cut lies on the frame; None stretches what is drawn over it.
    """

    width_px: int
    height_px: int
    plan: InpaintPlan | None = None
    added: tuple[int, int, int, int] = (0, 0, 0, 0)
    fitted: Fit | None = None

    @classmethod
    def of(cls, plan: InpaintPlan, added: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Frame:
        """The piece that a plan sends."""
        return cls(plan.work_width_px, plan.work_height_px, plan, added)

    def mask_of(self, path: Path) -> bytes:
        """A grey mask file as the PNG that a request takes, at the frame's size."""
        return codec.encode_png(self.mask(codec.decode_grey(options.read_input(path), path.name), path.name))

    def mask(self, grey: Pixels, name: str) -> Pixels:
        """A grey mask [H, W] of the picture, cut and brought to the frame's size; it stays soft."""
        if self.plan is not None:
            grey = geometry.crop(self._checked(grey, name), self.plan.box)
        elif self.fitted is not None:
            check_same_size(grey, self.fitted.picture_size, name)
            grey = fit_picture(grey, self.fitted)
        if int(grey.max()) < masks.MASK_FLOOR:
            raise RequestInvalid(f"The mask {name} is empty.", "Paint white where it should count.")
        return geometry.resize(grey, self.width_px, self.height_px)

    def map_of(self, path: Path) -> bytes:
        """A map file as a PNG: cut like the picture, or as it is where nothing is cut."""
        pixels = codec.flat(read_picture(path).srgb())
        if self.plan is not None:
            piece = geometry.crop(self._checked(pixels, path.name), self.plan.box)
            pixels = geometry.resize(piece, self.width_px, self.height_px)
        return codec.encode_png(pixels)

    def _checked(self, pixels: Pixels, name: str) -> Pixels:
        """The pixels at the size of the picture with what was added."""
        assert self.plan is not None
        left, top, right, bottom = self.added
        width, height = self.plan.picture_size
        before = (width - left - right, height - top - bottom)
        if (pixels.shape[1], pixels.shape[0]) != (width, height):
            check_same_size(pixels, before, name)
            sides = ((top, bottom), (left, right), (0, 0))[: pixels.ndim]
            pixels = np.pad(pixels, sides, mode="constant" if pixels.ndim == 2 else "edge")
        return pixels


def whole(width_px: int, height_px: int, spec: ModelSpec) -> InpaintPlan:
    """The plan that sends the whole picture, at exactly one factor for both sides."""
    everything = np.full((height_px, width_px), 255, np.uint8)
    settings = inpaint.suggest_settings(everything, spec.working_side_px, spec.max_side_px)
    settings = replace(settings, feather_px=0, context=0.0, is_colour_matched=False)
    return inpaint.plan_inpaint(everything, settings)


def check_same_size(pixels: Pixels, size: tuple[int, int], name: str) -> None:
    """Raises RequestInvalid unless [H, W, ...] pixels are of this (width, height)."""
    height, width = pixels.shape[:2]
    if (width, height) != size:
        raise RequestInvalid(
            f"{name} is {width} x {height} pixels, the picture {size[0]} x {size[1]}.",
            "Make them the same size.",
        )


def read_picture(path: Path) -> codec.Picture:
    """A picture file that a person named; raises as codec.read and options.read_input do."""
    return codec.read(options.read_input(path), path.name)


def size_like(width_px: int, height_px: int, spec: ModelSpec) -> tuple[int, int]:
    """The size of a picture's proportions that the model paints best, nothing stretched by a pixel more."""
    scale = spec.working_side_px / (width_px * height_px) ** 0.5
    longest = max(width_px, height_px) * scale
    limit = min(max(spec.max_side_px, spec.working_side_px), MAX_SIDE_PX)
    scale *= min(1.0, limit / longest)
    return max(round(width_px * scale), MIN_SIDE_PX), max(round(height_px * scale), MIN_SIDE_PX)


def model_for(
    name: str | None, task: Task, kind: ControlKind | None = None, is_quick: bool = False
) -> ModelSpec:
    """The model that was named, else the one that flux_core.catalog.choose takes of those on this machine.

    Raises:
        RequestInvalid: There is no such model, none for the task, or one is named and a quick one wanted.
    """
    if name is not None and is_quick:
        raise RequestInvalid("--model and --quick both say which model.", "Give one of them.")
    if name is not None:
        return catalog.find(name)
    here = {info.model for info in catalog.model_infos(models_dirs()) if info.is_installed}
    return catalog.choose(task, here, kind=kind, is_quick=is_quick)
