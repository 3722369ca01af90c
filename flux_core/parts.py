"""The loaded parts of one job's model: taken from disk when first asked for, kept until told otherwise.

Another model, another precision or changed files make it forget everything, so two models are never
in memory together and a file that was replaced is read again. Parts beside the model go when a job does not
want them. Other LoRAs only hang other adapters on the same parts, and another strength only writes a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flux_core.catalog import (
    ClipVisionConfig,
    IpAdapterConfig,
    ModelSpec,
    ReduxConfig,
    SiglipConfig,
    Taef1Config,
)
from flux_core.companions import Companion
from flux_core.errors import ModelMissing
from flux_core.ops import Backend, LeafFactory
from flux_core.plan import Component, PartKey
from flux_core.request import Precision
from flux_core.weights import components, extra_components
from flux_core.weights.lora.attach import Adapters
from flux_core.weights.lora.library import ChosenLora
from flux_core.weights.open import open_source

Loader = Callable[[ModelSpec, Path, Backend, Precision], Any]

_LOADERS: dict[Component, Loader] = {
    Component.CLIP: components.load_clip,
    Component.T5: components.load_t5,
    Component.VAE_ENCODER: components.load_encoder,
    Component.TRANSFORMER: components.load_transformer,
    Component.VAE_DECODER: components.load_decoder,
}
_WALKING = (Component.TRANSFORMER, Component.CONTROLNET)
_ADAPTABLE = (Component.CLIP, Component.T5, Component.TRANSFORMER)


Identity = tuple[Any, ...]
"""Which model, which precision, which files: equal only if the loaded parts may be used again."""


class Parts:
    """Loads and keeps the parts of one model at a time.

    Args:
        backend: Where they run.

    Attributes:
        streamed_bytes: Of each part that was loaded for the choice, what does not stay on the device.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._choice: tuple[ModelSpec, Path, Precision] | None = None
        self._loaded: dict[PartKey, Any] = {}
        self._adapters: dict[Component, Adapters] = {}
        self._loras: tuple[ChosenLora, ...] = ()
        self._companions: dict[PartKey, Companion] = {}
        self._stamps: dict[PartKey, Any] = {}
        self._beside_bytes: Callable[[Component], int] = lambda component: 0
        self.streamed_bytes: dict[PartKey, int] = {}
        self.identity: Identity = ()

    def choose(
        self,
        spec: ModelSpec,
        folder: Path,
        precision: Precision,
        loras: tuple[ChosenLora, ...] = (),
        companions: Iterable[Companion] = (),
        beside_bytes: Callable[[Component], int] = lambda component: 0,
    ) -> None:
        """Says which model the next parts are of, with which LoRAs and which parts beside it.

        The parts of any other model are freed, and parts beside it that are not wanted or have changed.
        `beside_bytes` says what must stay free beside a part's weights.
        """
        identity = identify(spec, folder, precision)
        if identity != self.identity:
            self.free_all()
        self._choice = spec, folder, precision
        self.identity = identity
        self._loras = loras
        self._companions = {companion.key: companion for companion in companions}
        stamps = {key: companion.stamp for key, companion in self._companions.items()}
        for key in [key for key, stamp in self._stamps.items() if stamps.get(key) != stamp]:
            self.free(key)
        self._stamps = stamps
        self._beside_bytes = beside_bytes
        loaded = self._loaded
        self.streamed_bytes = {key: size for key, size in self.streamed_bytes.items() if key in loaded}

    def is_ready(self, key: PartKey) -> bool:
        """Whether the part is loaded, with just these LoRAs on it; strengths take no time to change."""
        if key not in self._loaded:
            return False
        adapters = self._adapters.get(key.component)
        if adapters is None:
            return True
        return list(adapters.strengths) == [lora.key for lora in self._wanted(key.component)]

    def has(self, key: PartKey) -> bool:
        return key in self._loaded

    def get(self, key: PartKey) -> Any:
        """The part, ready to be called; loads it and attaches LoRAs if needed.

        Raises:
            ModelMissing: Its file is not there.
            Corrupt: Its file is damaged or of another model.
        """
        if key not in self._loaded:
            self._load(key)
        if key.component in self._adapters:
            self._adapt(self._adapters[key.component], self._wanted(key.component), key.component)
        return self._loaded[key]

    def seal(self, component: Component) -> None:
        """Forgets what LoRAs are hung on, so that what a model lets go is freed; those that hang stay."""
        self._adapters.pop(component, None)

    def free(self, key: PartKey) -> None:
        self._loaded.pop(key, None)
        self._adapters.pop(key.component, None)

    def free_loaded(self) -> None:
        """Frees every part; the choice stays, and parts are loaded again when they are asked for."""
        self._loaded.clear()
        self.streamed_bytes.clear()
        self._adapters.clear()

    def free_all(self) -> None:
        self._loaded.clear()
        self._adapters.clear()
        self._stamps.clear()
        self.identity = ()

    def _load(self, key: PartKey) -> None:
        if self._choice is None:
            raise ValueError("choose a model first")
        spec, folder, precision = self._choice
        is_brief = key.component not in _WALKING
        keeper: Any = _FactoryKeeper(self._backend, self._beside_bytes(key.component), is_brief)
        if key in self._companions:
            self._loaded[key] = _load_companion(spec, self._companions[key], keeper, precision)
        else:
            self._loaded[key] = _LOADERS[key.component](spec, folder, keeper, precision)
        self.streamed_bytes[key] = self._backend.streamed_bytes(keeper.factory)
        if key not in self._companions and key.component in _ADAPTABLE:
            self._adapters[key.component] = self._backend.adapters(keeper.factory, precision)

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


def _load_companion(spec: ModelSpec, part: Companion, backend: Backend, precision: Precision) -> Any:
    file = open_source(part.path)
    match part.key.component, part.config:
        case Component.SIGLIP, SiglipConfig() as config:
            return extra_components.load_siglip(file, backend, precision, config)
        case Component.REDUX, ReduxConfig() as config:
            return extra_components.load_redux(file, backend, precision, config)
        case Component.CLIP_VISION, ClipVisionConfig() as config:
            return extra_components.load_clip_vision(file, backend, precision, config)
        case Component.IP_ADAPTER, IpAdapterConfig() as config:
            return extra_components.load_ip_adapter(file, backend, precision, config)
        case Component.CONTROLNET, _:
            return extra_components.load_controlnet(file, backend, precision, spec.transformer)
        case Component.FAST_DECODER, Taef1Config() as config:
            return extra_components.load_taef1_decoder(file, backend, precision, config)
        case _:
            raise ValueError(f"{part.key} is not a part beside a model")


class _FactoryKeeper:
    """A backend that remembers the last factory of leaves it has made, and knows what is needed beside it."""

    def __init__(self, backend: Backend, working_bytes: int, is_brief: bool) -> None:
        self._backend = backend
        self._is_brief = is_brief
        self._working_bytes = working_bytes
        self.factory: LeafFactory | None = None

    def leaves(self, tensors: Any, precision: Any) -> LeafFactory:
        self.factory = self._backend.leaves(tensors, precision, self._working_bytes, self._is_brief)
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
        for place in (folder / name for name in spec.files.all if name):
            for file in sorted(place.iterdir()) if place.is_dir() else [place]:
                status = file.stat()
                stamps.append((file.name, status.st_mtime_ns, status.st_size))
    except OSError as err:
        raise ModelMissing(f"{err.filename} cannot be read.", "Try again, or get the model again.") from err
    return spec.model, str(folder), spec.files, precision, tuple(stamps)
