"""From layers to the picture that is seen.

`render` gives exact straight RGBA of any rectangle, for export, merging and as a model's input. Compositor
gives 256 px screen tiles and remembers them by what went into them: tiles are immutable, so identity says
whether a cached one still holds, and nothing ever has to be invalidated. What lies below and above the
active layer is kept ready, so a brush stroke blends three pictures however many layers there are.
"""

from __future__ import annotations

from desktop.document.geometry import Rect
from desktop.document.layers import Layer
from desktop.document.pixels import Surface
from desktop.document.state import DocumentState
from desktop.document.tiles import Pixels, TileKey

DEFAULT_CACHE_BYTES = 512 * 1024 * 1024


def render(state: DocumentState, rect: Rect | None = None) -> Pixels:
    """The picture in `rect` (by default the canvas) as new straight RGBA, uint8 [H, W, 4].

    A single visible layer in NORMAL mode at full opacity comes out byte for byte. Pixels outside the
    canvas are rendered too if `rect` asks for them.
    """
    return render_layers(state.layers, rect or state.canvas)


def render_layers(layers: tuple[Layer, ...], rect: Rect) -> Pixels:
    """These layers (bottom to top) over nothing, as `render` does."""
    raise NotImplementedError


class Compositor:
    """Screen tiles of a document, cached.

    Belongs to one thread. A document that goes away needs no goodbye: its tiles age out.

    Args:
        cache_bytes: Limit of all that is remembered.
    """

    def __init__(self, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._cache_bytes = cache_bytes

    def tile(self, state: DocumentState, key: TileKey, active_id: str | None = None) -> Surface:
        """The composite of one tile: QImage 256 x 256, Format_ARGB32_Premultiplied, not to be painted on.

        Args:
            state: `document.state`.
            key: Which tile; see `tiles.keys_in(rect)`. Parts outside the canvas are transparent.
            active_id: The layer that is likely to change next.
        """
        raise NotImplementedError
