"""The quantised formats that are laid over a container, in the order they are looked for.

A format is a function from the container's source to a source of logical tensors, or None where the
file is not of its kind. Adding a format is one file and one row.
"""

from __future__ import annotations

from collections.abc import Callable

from flux_core.weights.tensors import TensorSource

Unpack = Callable[[TensorSource], TensorSource | None]

FORMATS: dict[str, Unpack] = {}


def unpacked(source: TensorSource) -> TensorSource:
    """The source as logical tensors: quantised weights under their own name, dtype a scheme.

    Raises:
        Corrupt: The file claims a format and does not keep to it, or a format that is known and refused.
    """
    for unpack in FORMATS.values():
        found = unpack(source)
        if found is not None:
            return found
    return source
