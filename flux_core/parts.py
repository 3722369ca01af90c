"""The loaded parts of one model: taken from disk when first asked for, kept until told otherwise.

Another model, another precision or changed files make it forget everything, so two models are never
in memory together and a file that was replaced is read again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flux_core.catalog import ModelSpec
from flux_core.ops import Backend
from flux_core.plan import Component
from flux_core.request import Precision
from flux_core.weights import components

Loader = Callable[[ModelSpec, Path, Backend, Precision], Any]

_LOADERS: dict[Component, Loader] = {
    Component.CLIP: components.load_clip,
    Component.T5: components.load_t5,
    Component.VAE_ENCODER: components.load_encoder,
    Component.TRANSFORMER: components.load_transformer,
    Component.VAE_DECODER: components.load_decoder,
}

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
        self.identity: Identity = ()

    def choose(self, spec: ModelSpec, folder: Path, precision: Precision) -> None:
        """Says which model the next parts are of; frees the parts of any other."""
        identity = identify(spec, folder, precision)
        if identity != self.identity:
            self.free_all()
        self._choice = spec, folder, precision
        self.identity = identity

    def has(self, component: Component) -> bool:
        return component in self._loaded

    def get(self, component: Component) -> Any:
        """The part, ready to be called; loads it if needed.

        Raises:
            ModelMissing: Its file is not there.
            Corrupt: Its file is damaged or of another model.
        """
        if component not in self._loaded:
            if self._choice is None:
                raise ValueError("choose a model first")
            spec, folder, precision = self._choice
            self._loaded[component] = _LOADERS[component](spec, folder, self._backend, precision)
        return self._loaded[component]

    def free(self, component: Component) -> None:
        self._loaded.pop(component, None)

    def free_all(self) -> None:
        self._loaded.clear()
        self.identity = ()


def identify(spec: ModelSpec, folder: Path, precision: Precision) -> Identity:
    """What must be equal for loaded weights and encoded texts to be used again."""
    files = [folder / name for name in spec.files.all]
    stamps = tuple((status.st_mtime_ns, status.st_size) for status in (file.stat() for file in files))
    return spec.model, str(folder), spec.files, precision, stamps
