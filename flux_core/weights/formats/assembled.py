"""A source whose tensors are put together from several tensors of a file.

Quantised formats spread one weight over codes, scales and notes; a format says for each of the model's
tensors what it is and how to read it, and this makes a TensorSource of that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flux_core.weights.tensors import RawTensor, TensorInfo


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
