"""Which adapters hang on the leaves of a loaded part of a model: attached, weighed and detached by name.

The base weights are never changed, so a detached adapter leaves what was there before, to the bit, and a
quantised base stays quantised. What differs between frameworks are a few verbs, which a backend gives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flux_core.weights.lora.patches import Floats, NormChange, Patch


@dataclass(slots=True)
class _Attached:
    """One LoRA on this part: its strength, its adapters by layer, and the norms it changes."""

    strength: float
    adapters: list[tuple[str, int, Any]] = field(default_factory=list[tuple[str, int, Any]])
    norms: list[tuple[str, NormChange]] = field(default_factory=list[tuple[str, NormChange]])


class Adapters(ABC):
    """The adapters of one part.

    Args:
        leaves: Every leaf by checkpoint name.

    Attributes:
        structure: Grows with every attach and detach, never with a strength. What was compiled or
            captured before it changed must be made again; after a new strength it must not.
    """

    def __init__(self, leaves: Mapping[str, Any]) -> None:
        self._leaves = leaves
        self._attached: dict[str, _Attached] = {}
        self._plain_norms: dict[tuple[str, str], Any] = {}
        self._narrow: dict[str, Any] = {}
        self.structure = 0

    @property
    def strengths(self) -> Mapping[str, float]:
        """Strength by name, in the order they were attached."""
        return {name: attached.strength for name, attached in self._attached.items()}

    def attach(self, name: str, patches: Iterable[Patch], strength: float) -> None:
        """Adds a LoRA's patches; nothing changes if one of them cannot be read.

        Args:
            name: For weigh and detach.
            patches: Only those of this part.
            strength: Any number; 1 is what its author meant, 0 is none (but norms that it replaces).

        Raises:
            ValueError: The name is in use.
            KeyError: A patch names a layer that this part has not.
        """
        if name in self._attached:
            raise ValueError(f"{name!r} is attached already")
        new = _Attached(strength)
        for patch in patches:
            leaf = self._leaves[patch.layer]
            if isinstance(patch.delta, NormChange):
                new.norms.append((patch.layer, patch.delta))
            else:
                new.adapters.append((patch.layer, patch.columns, self._adapter(leaf, patch, strength)))
        self._attached[name] = new
        self.structure += 1
        self._fit_widths({layer for layer, _, _ in new.adapters})
        for layer, _, adapter in new.adapters:
            self._insert(self._leaves[layer], adapter)
        self._write_norms({layer for layer, _ in new.norms})

    def detach(self, name: str) -> None:
        """Takes a LoRA away; raises KeyError if there is none of this name."""
        old = self._attached.pop(name)
        for layer, _, adapter in old.adapters:
            self._remove(self._leaves[layer], adapter)
        self._fit_widths({layer for layer, _, _ in old.adapters})
        self._write_norms({layer for layer, _ in old.norms})
        self.structure += 1

    def weigh(self, name: str, strength: float) -> None:
        """Changes a number on the device and nothing else."""
        attached = self._attached[name]
        attached.strength = strength
        for _, _, adapter in attached.adapters:
            self._set_strength(adapter, strength)
        self._write_norms({layer for layer, change in attached.norms if not change.is_replacement})

    def _fit_widths(self, layers: set[str]) -> None:
        """Makes bases as wide as their widest adapter, with zeros, or as they were."""
        for layer in layers:
            leaf = self._leaves[layer]
            if layer in self._narrow:
                self._set_weight(leaf, self._narrow.pop(layer))
            widest = max(
                (
                    columns
                    for attached in self._attached.values()
                    for other, columns, _ in attached.adapters
                    if other == layer
                ),
                default=0,
            )
            if widest > leaf.weight.shape[1]:
                self._narrow[layer] = leaf.weight
                self._set_weight(leaf, self._widened(leaf, widest))

    def _write_norms(self, layers: set[str]) -> None:
        """Puts the weights of norms to what is attached now: the last replacement, and all that is added."""
        for layer in layers:
            for part in ("weight", "bias"):
                self._write_norm(layer, part)

    def _write_norm(self, layer: str, part: str) -> None:
        leaf, key = self._leaves[layer], (layer, part)
        value: Floats | None = None
        added: Floats | float = 0.0
        for attached in self._attached.values():
            for other, change in attached.norms:
                array = change.weight if part == "weight" else change.bias
                if other != layer or array is None:
                    continue
                if change.is_replacement:
                    value = array
                else:
                    added = added + np.float32(attached.strength) * array
        if value is None and isinstance(added, float):
            if key in self._plain_norms:
                self._set_norm(leaf, part, self._plain_norms.pop(key))
            return
        if key not in self._plain_norms:
            self._plain_norms[key] = self._norm(leaf, part)
        plain = self._host(self._plain_norms[key]) if value is None else value
        self._set_norm(leaf, part, plain + added)

    # The verbs of a backend

    @abstractmethod
    def _adapter(self, leaf: Any, patch: Patch, strength: float) -> Any:
        """What to call with (leaf, x, y)."""

    @abstractmethod
    def _insert(self, leaf: Any, adapter: Any) -> None:
        """Puts it at the end of leaf.adapters."""

    @abstractmethod
    def _remove(self, leaf: Any, adapter: Any) -> None:
        """Takes this very object out of leaf.adapters."""

    @abstractmethod
    def _set_strength(self, adapter: Any, strength: float) -> None:
        """Writes the number on the device."""

    @abstractmethod
    def _widened(self, leaf: Any, columns: int) -> Any:
        """The leaf's weight with columns of zeros behind its own."""

    @abstractmethod
    def _set_weight(self, leaf: Any, weight: Any) -> None:
        """Gives a linear leaf another weight."""

    @abstractmethod
    def _norm(self, leaf: Any, part: str) -> Any:
        """A copy of a norm's "weight" or "bias" on the device."""

    @abstractmethod
    def _set_norm(self, leaf: Any, part: str, values: Any) -> None:
        """Writes it: from the host, or what `_norm` gave."""

    @abstractmethod
    def _host(self, values: Any) -> Floats:
        """What `_norm` gave, as float32 on the host."""
