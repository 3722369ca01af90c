"""The loaded parts of one model: taken from disk when first asked for, kept until told otherwise.

Another model, another precision or changed files make it forget everything, so two models are never
in memory together and a file that was replaced is read again. Other LoRAs only hang other adapters on the
same parts, and another strength only writes a number.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flux_core.catalog import ModelSpec
from flux_core.errors import ModelMissing
from flux_core.ops import Backend, LeafFactory
from flux_core.plan import Component
from flux_core.request import Precision
from flux_core.weights import components
from flux_core.weights.lora.attach import Adapters
from flux_core.weights.lora.library import ChosenLora

Loader = Callable[[ModelSpec, Path, Backend, Precision], Any]

_LOADERS: dict[Component, Loader] = {
    Component.CLIP: components.load_clip,
    Component.T5: components.load_t5,
    Component.VAE_ENCODER: components.load_encoder,
    Component.TRANSFORMER: components.load_transformer,
    Component.VAE_DECODER: components.load_decoder,
}
_ADAPTABLE = (Component.CLIP, Component.T5, Component.TRANSFORMER)

Identity = tuple[Any, ...]
"""Which model, which precision, which files: equal only if the loaded parts may be used again."""


class Parts:
    """Loads and keeps the parts of one model at a time.

    Args:
        backend: Where they run.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._choice: tuple[ModelSpec, Path, Precision] | None = None
        self._loaded: dict[Component, Any] = {}
        self._adapters: dict[Component, Adapters] = {}
        self._loras: tuple[ChosenLora, ...] = ()
        self.identity: Identity = ()

    def choose(
        self, spec: ModelSpec, folder: Path, precision: Precision, loras: tuple[ChosenLora, ...] = ()
    ) -> None:
        """Says which model the next parts are of, with which LoRAs; frees the parts of any other."""
        identity = identify(spec, folder, precision)
        if identity != self.identity:
            self.free_all()
        self._choice = spec, folder, precision
        self.identity = identity
        self._loras = loras

    def is_ready(self, component: Component) -> bool:
        """Whether the part is loaded, with just these LoRAs on it; strengths take no time to change."""
        if component not in self._loaded:
            return False
        adapters = self._adapters.get(component)
        return adapters is None or list(adapters.strengths) == [lora.key for lora in self._wanted(component)]

    def has(self, component: Component) -> bool:
        return component in self._loaded

    def get(self, component: Component) -> Any:
        """The part, ready to be called; loads it and attaches LoRAs if needed.

        Raises:
            ModelMissing: Its file is not there.
            Corrupt: Its file is damaged or of another model.
        """
        if component not in self._loaded:
            if self._choice is None:
                raise ValueError("choose a model first")
            spec, folder, precision = self._choice
            keeper: Any = _FactoryKeeper(self._backend)
            self._loaded[component] = _LOADERS[component](spec, folder, keeper, precision)
            if component in _ADAPTABLE:
                self._adapters[component] = self._backend.adapters(keeper.factory, precision)
        if component in self._adapters:
            self._adapt(self._adapters[component], self._wanted(component), component)
        return self._loaded[component]

    def free(self, component: Component) -> None:
        self._loaded.pop(component, None)
        self._adapters.pop(component, None)

    def free_all(self) -> None:
        self._loaded.clear()
        self._adapters.clear()
        self.identity = ()

    def _wanted(self, component: Component) -> list[ChosenLora]:
        return [lora for lora in self._loras if component in lora.lora.components]

    def _adapt(self, adapters: Adapters, wanted: list[ChosenLora], component: Component) -> None:
        """Keeps what hangs there in the wanted order, which the last bit depends on, and changes the rest."""
        attached = list(adapters.strengths.items())
        kept = 0
        while kept < min(len(attached), len(wanted)) and attached[kept][0] == wanted[kept].key:
            kept += 1
        for key, _ in attached[kept:]:
            adapters.detach(key)
        for lora, (key, strength) in zip(wanted, attached[:kept], strict=False):
            if lora.strength != strength:
                adapters.weigh(key, lora.strength)
        for lora in wanted[kept:]:
            adapters.attach(lora.key, lora.lora.patches(component), lora.strength)


class _FactoryKeeper:
    """A backend that remembers the last factory of leaves it has made."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.factory: LeafFactory | None = None

    def leaves(self, tensors: Any, precision: Any) -> LeafFactory:
        self.factory = self._backend.leaves(tensors, precision)
        return self.factory

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def identify(spec: ModelSpec, folder: Path, precision: Precision) -> Identity:
    """What must be equal for loaded weights and encoded texts to be used again.

    Raises:
        ModelMissing: A file went away meanwhile.
    """
    stamps: list[tuple[str, int, int]] = []
    try:
        for place in (folder / name for name in spec.files.all):
            for file in sorted(place.iterdir()) if place.is_dir() else [place]:
                status = file.stat()
                stamps.append((file.name, status.st_mtime_ns, status.st_size))
    except OSError as err:
        raise ModelMissing(f"{err.filename} cannot be read.", "Try again, or get the model again.") from err
    return spec.model, str(folder), spec.files, precision, tuple(stamps)
