"""The pictures that a wish names, as the blobs of its request.

A layer is what it shows alone; what is visible is what the person sees; a file is read when the job is
prepared, never in the window's own thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from desktop.document import compositor
from desktop.document.layers import GenerativeLayer
from desktop.document.state import DocumentState
from desktop.document.tiles import Pixels
from desktop.jobs.wish import PictureChoice, Wish
from desktop.notation import parse_loras
from flux_core.errors import RequestInvalid
from flux_core.imaging import codec, geometry, masks
from flux_core.imaging.inpaint import InpaintPlan


class Sources:
    """Collects the blobs of one request beside its source picture and its mask.

    Args:
        state: The document.
        plan: The piece of the canvas that the model sees, and at which size.
    """

    def __init__(self, state: DocumentState, plan: InpaintPlan) -> None:
        self._state, self._plan = state, plan
        self._blobs: dict[str, bytes] = {}

    @property
    def blobs(self) -> tuple[bytes, ...]:
        return tuple(self._blobs.values())

    def add(self, data: bytes) -> str:
        """Keeps a blob; returns its name."""
        name = hashlib.sha256(data).hexdigest()
        self._blobs[name] = data
        return name

    def picture(self, choice: PictureChoice) -> str:
        """A whole picture, of any size."""
        return self.add(codec.encode_png(self._pixels(choice)))

    def map(self, choice: PictureChoice) -> str:
        """A picture that is followed: what lies on the canvas is cut and scaled as the result is."""
        pixels = self._pixels(choice)
        if choice.file is None:
            pixels = self._as_seen(pixels)
        return self.add(codec.encode_png(pixels))

    def regions(self) -> list[dict[str, str]]:
        """Every visible layer with a mask that is not a result: its name, where its mask is white.

        One whose mask lies outside what the model sees is left out.
        """
        found: list[dict[str, str]] = []
        for layer in self._state.walk():
            if layer.mask is None or not layer.is_visible or isinstance(layer, GenerativeLayer):
                continue
            grey = self._as_seen(layer.mask.read(self._state.canvas))
            if int(grey.max()) >= masks.MASK_FLOOR and layer.name.strip():
                found.append({"prompt": layer.name.strip(), "mask": self.add(codec.encode_png(grey))})
        return found

    def _as_seen(self, pixels: Pixels) -> Pixels:
        piece = geometry.crop(pixels, self._plan.box)
        return geometry.resize(piece, self._plan.work_width_px, self._plan.work_height_px)

    def _pixels(self, choice: PictureChoice) -> Pixels:
        return pixels_of(self._state, choice)


def pixels_of(state: DocumentState, choice: PictureChoice) -> Pixels:
    """A picture that was chosen, [H, W, 3].

    Raises:
        RequestInvalid: It has gone, or its file cannot be read.
        Corrupt: It is damaged.
    """
    if choice.file is not None:
        try:
            return codec.flat(codec.decode(choice.file.read_bytes(), choice.file.name))
        except OSError as err:
            raise RequestInvalid(
                f"{choice.file.name} cannot be read: {err.strerror}.", "Choose another file."
            ) from err
    if not choice.layer_id:
        return codec.flat(compositor.render(state))
    layer = state.find(choice.layer_id)
    if layer is None:
        raise RequestInvalid("The chosen layer is no longer there.", "Choose another picture.")
    shown = replace(layer, is_visible=True)  # a map or a reference is often hidden on the canvas
    return codec.flat(compositor.render_layers((shown,), state.canvas))


def tuning_fields(wish: Wish, sources: Sources) -> Mapping[str, Any]:
    """What the advanced part of the panel adds to a request."""
    tuning = wish.tuning
    names = [text.strip() for text in tuning.loras.replace("，", ",").split(",")]
    return {
        "negative_prompt": tuning.negative_prompt,
        "true_guidance": tuning.true_guidance,
        "solver": tuning.solver,
        "step_cache": tuning.step_cache,
        "decoder": tuning.decoder,
        "loras": parse_loras([name for name in names if name]),
        "regions": sources.regions() if tuning.has_layer_regions else [],
    }
