"""The few array operations that decoding needs, so that each scheme is written once for every backend.

Arithmetic, comparisons, `&`, `|`, `<<`, `>>`, slicing, `reshape` and broadcasting are the arrays' own;
what NumPy, torch and MLX spell differently is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Bits(Protocol):
    """Operations on a backend's arrays."""

    def lookup(self, table: NDArray[np.float32], codes: Any) -> Any:
        """table: [N] float32 on the host; codes: uint8 or int32 [...] below N -> float32 [...]."""
        ...

    def halves(self, x: Any) -> Any:
        """uint8 [..., 2n], little-endian float16 -> float32 [..., n]."""
        ...

    def signed(self, x: Any) -> Any:
        """uint8 [...] read as int8 -> int32 [...]."""
        ...

    def ints(self, x: Any) -> Any:
        """uint8 [...] -> int32 [...]."""
        ...

    def floats(self, x: Any) -> Any:
        """Any numbers [...] -> float32 [...]."""
        ...

    def concat(self, arrays: Sequence[Any], axis: int) -> Any:
        """Joins along `axis`."""
        ...

    def stack(self, arrays: Sequence[Any], axis: int) -> Any:
        """Joins along a new `axis`."""
        ...


class NumpyBits:
    """Bits on NumPy: the reference that the backends are held to."""

    def lookup(self, table: NDArray[np.float32], codes: NDArray[Any]) -> NDArray[np.float32]:
        return table[codes]

    def halves(self, x: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.ascontiguousarray(x).view("<f2").astype(np.float32)

    def signed(self, x: NDArray[np.uint8]) -> NDArray[np.int32]:
        return np.ascontiguousarray(x).view(np.int8).astype(np.int32)

    def ints(self, x: NDArray[Any]) -> NDArray[np.int32]:
        return x.astype(np.int32)

    def floats(self, x: NDArray[Any]) -> NDArray[np.float32]:
        return x.astype(np.float32)

    def concat(self, arrays: Sequence[NDArray[Any]], axis: int) -> NDArray[Any]:
        return np.concatenate(arrays, axis=axis)

    def stack(self, arrays: Sequence[NDArray[Any]], axis: int) -> NDArray[Any]:
        return np.stack(arrays, axis=axis)
