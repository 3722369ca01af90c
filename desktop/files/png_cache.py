"""Encoded layers, remembered by the pixels they came from.

Rasters and layers are immutable, so what was encoded once gives the same PNG at every later save, and
only what changed costs time. The cache holds what the last save of each kind used and nothing else, so
its size follows the document's.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from desktop.document.geometry import Rect
from desktop.document.tiles import Pixels
from flux_core.imaging import codec

_EMPTY_PICTURE = np.zeros((1, 1, 4), np.uint8)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A PNG and where its top left corner lies on the document."""

    png: bytes
    rect: Rect
    sha256: str

    @classmethod
    def of(cls, pixels: Pixels, rect: Rect) -> Encoded:
        """Encodes [H, W, 4] or [H, W]; an empty rectangle becomes one clear pixel."""
        png = codec.encode_png(_EMPTY_PICTURE if rect.is_empty else pixels, compress_level=1)
        return cls.known(png, rect)

    @classmethod
    def known(cls, png: bytes, rect: Rect) -> Encoded:
        """A PNG that exists already."""
        return cls(png, rect, hashlib.sha256(png).hexdigest())


class PngCache:
    """PNG bytes by the objects they were made from; may be shared by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[tuple[Any, ...], tuple[tuple[object, ...], Encoded]] = {}

    def start(self) -> Encoder:
        """An encoder for one save."""
        return Encoder(self)

    def get(self, kind: str, objects: tuple[object, ...]) -> Encoded | None:
        """What was made from exactly these objects, if anything."""
        with self._lock:
            found = self._entries.get((kind, *map(id, objects)))
        return found[1] if found else None

    def put(self, kind: str, objects: tuple[object, ...], encoded: Encoded) -> None:
        """Remembers it; the objects are kept alive, so that their ids stay theirs."""
        with self._lock:
            self._entries[(kind, *map(id, objects))] = (objects, encoded)

    def keep_only(self, keys: set[tuple[Any, ...]]) -> None:
        """Forgets everything else of the kinds that occur in `keys`."""
        kinds = {key[0] for key in keys}
        with self._lock:
            self._entries = {
                key: entry for key, entry in self._entries.items() if key in keys or key[0] not in kinds
            }


class Encoder:
    """Encodes for one save through a cache; `finish` lets the cache forget what is not needed any more."""

    def __init__(self, cache: PngCache) -> None:
        self._cache = cache
        self._used: set[tuple[Any, ...]] = set()

    def encode(
        self, kind: str, objects: tuple[object, ...], make: Callable[[], tuple[Pixels, Rect]]
    ) -> Encoded:
        """What `make` gives, encoded; `make` is only called if it is not remembered.

        Args:
            kind: Tells apart different pictures of the same objects.
            objects: All that the picture depends on.
            make: Returns [H, W, 4] or [H, W] pixels and where they lie.
        """
        self._used.add((kind, *map(id, objects)))
        found = self._cache.get(kind, objects)
        if found is None:
            found = Encoded.of(*make())
            self._cache.put(kind, objects, found)
        return found

    def finish(self) -> None:
        """Forgets everything that this save did not use."""
        self._cache.keep_only(self._used)
