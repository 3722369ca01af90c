"""A source whose tensors are put together from several tensors of a file.

Quantised formats spread one weight over codes, scales and notes; a format says for each of the model's
tensors what it is and how to read it, and this makes a TensorSource of that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

from flux_core.weights.tensors import RawTensor, TensorInfo, TensorSource


@dataclass(frozen=True, slots=True)
class Assembly:
    """One tensor: its scheme (or plain dtype) and logical shape, and how to get it."""

    info: TensorInfo
    read: Callable[[], RawTensor]


class AssembledSource:
    """A TensorSource over assemblies.

    Args:
        assemblies: By the tensor's name.
        metadata: Of the file.
    """

    def __init__(self, assemblies: Mapping[str, Assembly], metadata: Mapping[str, str]) -> None:
        self._assemblies = dict(assemblies)
        self._names = {name: assembly.info for name, assembly in assemblies.items()}
        self.metadata = metadata

    def names(self) -> Mapping[str, TensorInfo]:
        return self._names

    def read(self, name: str) -> RawTensor:
        return self._assemblies[name].read()


def replaced(
    source: TensorSource, assemblies: Mapping[str, Assembly], used: Collection[str]
) -> AssembledSource:
    """A source with some tensors put together, some used up by that, and all others as they are.

    Args:
        source: The file.
        assemblies: By name; a tensor of the source with the same name is replaced in its place.
        used: Names that the model does not ask for: scales, notes, markers.
    """
    kept = {
        name: assemblies.get(name) or Assembly(info, partial(source.read, name))
        for name, info in source.names().items()
        if name not in used
    }
    return AssembledSource(kept, source.metadata)
