"""From layers to the picture that is seen.

`render` gives exact straight RGBA of any rectangle, for export, merging and as a model's input. Compositor
gives 256 px screen tiles and remembers them by what went into them: tiles are immutable, so identity says
whether a cached one still holds, and nothing ever has to be invalidated. What lies below and above the
active layer is kept ready, so a brush stroke blends three pictures however many layers there are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from desktop.document import mask, pixels
from desktop.document.blend import BlendMode
from desktop.document.geometry import Rect
from desktop.document.layers import GroupLayer, Layer, RasterLayer
from desktop.document.pixels import Depth, Surface
from desktop.document.state import DocumentState
from desktop.document.tiles import TILE_PX, Pixels, TileKey, keys_in

DEFAULT_CACHE_BYTES = 512 * 1024 * 1024


def render(state: DocumentState, rect: Rect | None = None) -> Pixels:
    """The picture in `rect` (by default the canvas) as new straight RGBA, uint8 [H, W, 4].

    Where a single layer at full opacity is all there is, it comes out byte for byte, even its colour
    under full transparency. Pixels outside the canvas are rendered too if `rect` asks for them.
    """
    return render_layers(state.layers, state.canvas if rect is None else rect)


def render_layers(layers: tuple[Layer, ...], rect: Rect) -> Pixels:
    """These layers (bottom to top) over nothing, as `render` does."""
    out = np.zeros((rect.height, rect.width, 4), np.uint8)
    for key in keys_in(rect):
        parts = _parts(layers, key, None)
        if parts:
            shared = rect.intersection(key.rect)
            out[shared.slices_in(rect)] = _exact_tile(parts)[shared.slices_in(key.rect)]
    return out


class Compositor:
    """Screen tiles of a document, cached.

    Belongs to one thread. A document that goes away needs no goodbye: its tiles age out.

    Args:
        cache_bytes: Limit of all that is remembered.
    """

    def __init__(self, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._capacity = max(1, cache_bytes // (TILE_PX * TILE_PX * 4))
        # The parts are kept with their picture so that no id() in a key is given to a new object.
        self._cache: OrderedDict[Hashable, tuple[Surface, tuple[_Part, ...]]] = OrderedDict()

    def tile(self, state: DocumentState, key: TileKey, active_id: str | None = None) -> Surface:
        """The composite of one tile: QImage 256 x 256, Format_ARGB32_Premultiplied, not to be painted on.

        Args:
            state: `document.state`.
            key: Which tile; see `tiles.keys_in(rect)`. Parts outside the canvas are transparent.
            active_id: The layer that is likely to change next.
        """
        parts = _parts(state.layers, key, active_id)
        inside = key.rect.intersection(state.canvas)
        token = ("tile", inside, _token(parts))
        found = self._recall(token)
        if found is None:
            found = self._stack(parts)
            if inside != key.rect:
                pixels.clear_outside(found, inside.translated(-key.rect.x, -key.rect.y))
            self._remember(token, found, parts)
        return found

    def _stack(self, parts: tuple[_Part, ...]) -> Surface:
        """Composes with what is below and above the active part from the cache."""
        active = next((index for index, part in enumerate(parts) if part.is_active), len(parts))
        below, above = parts[:active], parts[active + 1 :]
        surface = self._run(below).copy()
        if active == len(parts):
            return surface
        part = parts[active]
        inner = self._stack(part.children) if part.tile is None else None
        _draw(surface, part, Depth.SCREEN, inner)
        if all(one.blend is BlendMode.NORMAL for one in above):
            if above:
                pixels.draw(surface, self._run(above), BlendMode.NORMAL, 1.0)
        else:
            for one in above:
                _draw(surface, one, Depth.SCREEN)
        return surface

    def _run(self, parts: tuple[_Part, ...]) -> Surface:
        """Parts without the active one over nothing, from the cache if possible."""
        token = ("run", _token(parts))
        found = self._recall(token)
        if found is None:
            found = _compose(parts, Depth.SCREEN)
            self._remember(token, found, parts)
        return found

    def _recall(self, token: Hashable) -> Surface | None:
        found = self._cache.get(token)
        if found is None:
            return None
        self._cache.move_to_end(token)
        return found[0]

    def _remember(self, token: Hashable, surface: Surface, parts: tuple[_Part, ...]) -> None:
        self._cache[token] = (surface, parts)
        while len(self._cache) > self._capacity:
            self._cache.popitem(last=False)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one layer adds to one tile: pixels, or for an isolated group its children's parts."""

    tile: Pixels | None
    children: tuple[_Part, ...]
    mask: Pixels | None
    opacity: float
    blend: BlendMode
    is_active: bool

    @property
    def is_plain(self) -> bool:
        """Whether, on its own, it comes out as it is."""
        return self.mask is None and self.opacity >= 1.0


def _parts(layers: tuple[Layer, ...], key: TileKey, active_id: str | None) -> tuple[_Part, ...]:
    """What is to be drawn in this tile, bottom to top; pass-through groups are opened."""
    found: list[_Part] = []
    for layer in layers:
        grey = None if layer.mask is None else layer.mask.tiles.get(key)
        is_hidden = layer.mask is not None and grey is None and layer.mask.fill == mask.HIDE
        if not layer.is_visible or layer.opacity <= 0.0 or is_hidden:
            continue
        tile, children = None, ()
        if isinstance(layer, RasterLayer):
            tile = layer.raster.tiles.get(key)
        elif isinstance(layer, GroupLayer):
            children = _parts(layer.children, key, active_id)
            if layer.is_pass_through:
                found.extend(children)
                continue
        if tile is not None or children:
            is_active = layer.id == active_id or any(child.is_active for child in children)
            found.append(_Part(tile, children, grey, layer.opacity, layer.blend, is_active))
    return tuple(found)


def _token(parts: tuple[_Part, ...]) -> Hashable:
    return tuple(
        (
            id(part.tile) if part.tile is not None else _token(part.children),
            id(part.mask),
            part.opacity,
            part.blend,
        )
        for part in parts
    )


def _compose(parts: tuple[_Part, ...], depth: Depth) -> Surface:
    surface = pixels.blank(TILE_PX, TILE_PX, depth)
    for part in parts:
        _draw(surface, part, depth)
    return surface


def _draw(surface: Surface, part: _Part, depth: Depth, inner: Surface | None = None) -> None:
    """Draws one part; `inner` is its picture if it is a group whose children are composed already."""
    if part.tile is not None:
        inner = pixels.from_pixels(part.tile, depth)
    elif inner is None:
        inner = _compose(part.children, depth)
    if part.mask is not None:
        pixels.apply_mask(inner, part.mask)
    pixels.draw(surface, inner, part.blend, part.opacity)


def _exact_tile(parts: tuple[_Part, ...]) -> Pixels:
    """Straight RGBA of a tile; colour under full transparency is the bottom layer's."""
    bottom = parts[0]
    if len(parts) == 1 and bottom.is_plain:
        return _exact_tile(bottom.children) if bottom.tile is None else bottom.tile
    out = pixels.to_pixels(_compose(parts, Depth.EXACT))
    if bottom.tile is not None:
        is_clear = out[..., 3] == 0
        out[is_clear, :3] = bottom.tile[is_clear, :3]
    return out
