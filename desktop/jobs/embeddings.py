"""Pictures as vectors, remembered by what they show: helper and sha256 of the PNG -> a vector of length 1.

Looking takes seconds for each picture and a picture never changes under its hash, so a second search only
looks at what is new. A file holds one vector as little-endian float32; one that is damaged is no vector.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from flux_core.errors import FluxError
from flux_core.storage import write_atomically

Vector = tuple[float, ...]
_NUMBER = np.dtype("<f4")
_LENGTH_ERROR = 1e-3  # float32 keeps a length of 1 far better


class EmbeddingMemory:
    """The folder of vectors.

    Args:
        folder: Made when the first vector is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._vectors: dict[tuple[str, str], Vector] = {}

    def keep(self, helper: str, sha256: str, vector: Sequence[float]) -> None:
        """Remembers a vector; without room on the disk for as long as the program runs."""
        place = self._folder / helper
        self._vectors[helper, sha256] = tuple(vector)
        with contextlib.suppress(OSError, FluxError):
            place.mkdir(parents=True, exist_ok=True)
            write_atomically(place / sha256, np.asarray(vector, _NUMBER).tobytes())

    def known(self, helper: str, names: Collection[str]) -> dict[str, Vector]:
        """sha256 -> vector, of those names that one helper has seen."""
        for name in names:
            if (helper, name) not in self._vectors:
                vector = self._read(self._folder / helper / name)
                if vector is not None:
                    self._vectors[helper, name] = vector
        return {name: self._vectors[helper, name] for name in names if (helper, name) in self._vectors}

    def best_helper(self, names: Collection[str]) -> str:
        """The helper that has seen the most of these pictures; "" if none has seen any."""
        helpers = sorted(path.name for path in self._folder.iterdir()) if self._folder.is_dir() else []
        counts = {
            helper: sum((self._folder / helper / name).is_file() for name in names) for helper in helpers
        }
        best = max(counts, key=lambda helper: counts[helper], default="")
        return best if counts.get(best) else ""

    def _read(self, path: Path) -> Vector | None:
        try:
            values = np.frombuffer(path.read_bytes(), _NUMBER).astype(np.float64)
        except (OSError, ValueError):
            return None
        is_unit = bool(abs(np.linalg.norm(values) - 1.0) <= _LENGTH_ERROR)  # False for NaN, too
        return tuple(values.tolist()) if is_unit else None
