"""What an engine may have beside FLUX.1: depth estimators, upscalers, models that look at pictures.

They come from other libraries, so a backend brings them; an engine without them says so in one sentence.
Edges need no model and are found for every engine here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import RequestInvalid
from flux_core.imaging import edges
from flux_core.looking import Finding, Look
from flux_core.reporting import Report
from flux_core.request import ControlKind, GenerationRequest

Bytes = NDArray[np.uint8]


class Helpers(Protocol):
    """What is loaded when asked for, and freed after."""

    def check(self, request: GenerationRequest) -> None:
        """Whether the maps and the enlargement that a painting asks for can be made, before it begins.

        Raises:
            RequestInvalid: Not by this engine.
            ModelMissing: What makes them is not on this machine.
        """
        ...

    def control_map(self, kind: ControlKind, rgba: Bytes, report: Report) -> Bytes:
        """The control map of a picture, [H, W, 4] -> [H, W, 4].

        Raises:
            RequestInvalid: Such maps cannot be made here.
            ModelMissing: What makes them is not on this machine.
        """
        ...

    def enlarge(self, rgba: Bytes, name: str, report: Report) -> Bytes:
        """A larger picture, by the upscaler of this name; as control_map."""
        ...

    def look(
        self, look: Look, images: Sequence[Bytes], report: Report
    ) -> tuple[Sequence[Finding], Sequence[Bytes]]:
        """What pictures [H, W, 4] show, and the masks and maps that the findings name, [H, W]."""
        ...


class NoHelpers:
    """What needs no model: edges alone."""

    makes: Collection[ControlKind] = (ControlKind.CANNY,)
    """The maps that can be made of pictures."""

    def check(self, request: GenerationRequest) -> None:
        for use in request.controls:
            if not use.is_map and use.kind not in self.makes:
                raise _cannot_make(use.kind)
        if request.upscaler:
            raise _cannot_enlarge()

    def control_map(self, kind: ControlKind, rgba: Bytes, report: Report) -> Bytes:
        if kind is ControlKind.CANNY:
            return _opaque(edges.canny_map(rgba, *edges.BFL_THRESHOLDS))
        raise _cannot_make(kind)

    def enlarge(self, rgba: Bytes, name: str, report: Report) -> Bytes:
        raise _cannot_enlarge()

    def look(
        self, look: Look, images: Sequence[Bytes], report: Report
    ) -> tuple[Sequence[Finding], Sequence[Bytes]]:
        raise RequestInvalid("This engine cannot look at pictures.", "Choose the engine torch.")


def _cannot_make(kind: ControlKind) -> RequestInvalid:
    able = " or choose the engine torch" if kind is ControlKind.DEPTH else ""
    return RequestInvalid(
        f"This engine cannot make a {kind.value.replace('_', ' ')} map of a picture.",
        f"Give it the map itself{able}.",
    )


def _cannot_enlarge() -> RequestInvalid:
    return RequestInvalid(
        "This engine has no upscaler models.", "Leave the upscaler out, or choose the engine torch."
    )


def _opaque(rgb: Bytes) -> Bytes:
    return np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
