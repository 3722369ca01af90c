"""What every tool works with: the document, the settings, and what it may ask of the view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from desktop.document.document import Document
from desktop.tools.settings import ToolSettings

if TYPE_CHECKING:
    from desktop.tools.click_mask import Clicks


class View(Protocol):
    """What a tool may ask of the canvas widget; distances in device pixels."""

    def pan(self, dx: float, dy: float) -> None: ...
    def ask_mask(self, clicks: Clicks) -> None:
        """Wants the mask of what was clicked; the answer comes to the tool later."""
        ...

    def show_clicks(self) -> None:
        """Clicks or the box that is drawn have changed."""
        ...


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything a tool works with.

    Attributes:
        new_layer_name: Name of the layer that painting makes where there is none.
    """

    document: Document
    settings: ToolSettings
    view: View
    new_layer_name: str = "Layer"
