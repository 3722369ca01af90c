"""What an engine may have beside FLUX.1: depth estimators, upscalers, models that look at pictures.

They come from other libraries, so a backend brings them; an engine without them says so in one sentence.
Edges need no model and are found for every engine here.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import RequestInvalid
from flux_core.reporting import Report
from flux_core.request import ControlKind

Bytes = NDArray[np.uint8]


class Helpers(Protocol):
    """What is loaded when asked for, and freed after."""

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


class NoHelpers:
    """Edges only."""

    def control_map(self, kind: ControlKind, rgba: Bytes, report: Report) -> Bytes:
        raise RequestInvalid(
            f"This engine cannot make a {kind.value} map of a picture.",
            "Give it the map itself, or choose the engine torch.",
        )

    def enlarge(self, rgba: Bytes, name: str, report: Report) -> Bytes:
        raise RequestInvalid(
            "This engine has no upscaler models.", "Leave the upscaler out, or choose the engine torch."
        )
