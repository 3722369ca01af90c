"""The parts beside a model that a request asks for: found, opened and matched before anything is loaded.

A name is a row of the catalog, whose files lie in models/<row>, or a file in the folder of its kind beside
the models (`adapters`, `controlnets`). A name never has a separator, so it cannot lead out of that folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flux_core.catalog import (
    PARTS,
    ClipVisionConfig,
    IpAdapterConfig,
    Kind,
    ModelSpec,
    PartSpec,
    ReduxConfig,
    SiglipConfig,
    part_folder,
    part_path,
)
from flux_core.catalog.spec import PartConfig
from flux_core.errors import ModelMissing, RequestInvalid
from flux_core.models.clip_vision import clip_vision_config
from flux_core.models.controlnet import controlnet_config
from flux_core.models.ip_adapter import ip_adapter_config
from flux_core.models.redux import redux_config
from flux_core.models.siglip import siglip_config
from flux_core.models.taef1 import taef1_config
from flux_core.plan import Component, PartKey
from flux_core.request import ControlKind, ControlUse, Decoder, GenerationRequest
from flux_core.weights import synonyms
from flux_core.weights.extra_components import told
from flux_core.weights.open import open_source
from flux_core.weights.tensors import TensorSource

ADAPTERS = "adapters"
CONTROLNETS = "controlnets"
LORAS = "loras"
UPSCALERS = "upscalers"
CONDITION_CHANNELS = 64  # of a control token; 68 with a mask
UNION_MODES = {
    ControlKind.CANNY: 0,
    ControlKind.TILE: 1,
    ControlKind.DEPTH: 2,
    ControlKind.BLUR: 3,
    ControlKind.POSE: 4,
    ControlKind.GREY: 5,
    ControlKind.LOW_QUALITY: 6,
}
"""Rows of a union's table of modes. Source: InstantX and Shakker's model cards."""

_SUFFIX = ".safetensors"
_SHOWN = 5
_WORDS = {
    Kind.ADAPTER: "Redux adapter",
    Kind.IP_ADAPTER: "IP-Adapter",
    Kind.CONTROLNET: "ControlNet",
    Kind.IMAGE_ENCODER: "picture encoder",
    Kind.PREVIEW_AUTOENCODER: "fast decoder",
}


@dataclass(frozen=True, slots=True)
class Companion:
    """A part beside the model.

    Attributes:
        key: Which part of the plan it is.
        path: Its weights.
        config: Its numbers, as its file tells.
        title: For messages.
    """

    key: PartKey
    path: Path
    config: PartConfig
    title: str

    @property
    def stamp(self) -> tuple[str, int, int]:
        """Equal only for the same file with the same content."""
        status = self.path.stat()
        return str(self.path), status.st_mtime_ns, status.st_size


def find_companions(
    request: GenerationRequest, spec: ModelSpec, models_dirs: tuple[Path, ...]
) -> tuple[Companion, ...]:
    """Every part beside the model that a request needs, each once.

    Raises:
        ModelMissing: A part is not on this machine; says how to get it.
        Corrupt: Its file is damaged, or holds something else.
        RequestInvalid: It was made for another model, or for another kind of control.
    """
    finder = _Finder(spec, models_dirs)
    found: list[Companion] = []
    for name in dict.fromkeys(use.adapter or spec.redux for use in request.pictures):
        found += finder.adapter(name)
    for use in request.controls:
        if use.model and not is_lora(use, models_dirs):
            check_kind(use)
            found.append(finder.controlnet(use))
    if request.upscaler:
        find_file(request.upscaler, UPSCALERS, models_dirs, "upscaler")
    if request.decoder is Decoder.FAST:
        found.append(finder.fast_decoder())
    return tuple({companion.key: companion for companion in found}.values())


def is_lora(use: ControlUse, models_dirs: tuple[Path, ...]) -> bool:
    """Whether a control is followed by a control LoRA: a row that is one, or a file in their folder alone."""
    row = PARTS.get(use.model)
    if row is not None or not use.model:
        return row is not None and row.kind is Kind.LORA
    is_net, is_lora = (
        any(_is_file(base / folder / f"{use.model}{end}") for base in models_dirs for end in ("", _SUFFIX))
        for folder in (CONTROLNETS, LORAS)
    )
    return is_lora and not is_net


def check_kind(use: ControlUse) -> None:
    """Raises RequestInvalid if a row of the catalog was not made for this kind of map."""
    row = PARTS.get(use.model)
    if row is not None and row.kinds and use.kind not in row.kinds:
        able = ", ".join(kind.value for kind in row.kinds)
        raise RequestInvalid(f"{row.title} does not follow {use.kind.value} maps.", f"It follows: {able}.")


class _Finder:
    """Finds the parts for one model."""

    def __init__(self, spec: ModelSpec, models_dirs: tuple[Path, ...]) -> None:
        self._spec = spec
        self._dirs = models_dirs

    def adapter(self, name: str) -> Iterator[Companion]:
        """What reads pictures, with the encoder that it sees through."""
        if not name:
            raise RequestInvalid(
                f"{self._spec.title} has no Redux adapter, so it cannot be shown a picture to be like.",
                "Choose another model, or name an IP-Adapter.",
            )
        row, path = self._find(name, ADAPTERS, (Kind.ADAPTER, Kind.IP_ADAPTER))
        source = open_source(path)
        title = row.title if row else name
        if any("ip_adapter" in key for key in source.names()):
            eye = self._picture_encoder(_eye_of(row, "clip-vision-l"), PartKey(Component.CLIP_VISION, name))
            adapter = self._ip_adapter(source, path, name, title)
        else:
            eye = self._picture_encoder(_eye_of(row, "siglip-so400m"), PartKey(Component.SIGLIP, name))
            adapter = self._redux(source, path, name, title)
        _check_sees(adapter, eye)
        yield from (eye, adapter)

    def _ip_adapter(self, source: TensorSource, path: Path, name: str, title: str) -> Companion:
        sizes = self._spec.transformer
        like = IpAdapterConfig(
            context_in_dim=sizes.context_in_dim,
            hidden_size=sizes.hidden_size,
            num_heads=sizes.num_heads,
            depth=sizes.depth,
        )
        source = synonyms.canonical(source, synonyms.ip_adapter_name)
        self._check_width(source, "double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight", title)
        config = told(lambda names: ip_adapter_config(names, like), source, path, "an XLabs IP-Adapter")
        return Companion(PartKey(Component.IP_ADAPTER, name), path, config, title)

    def _redux(self, source: TensorSource, path: Path, name: str, title: str) -> Companion:
        config = told(redux_config, synonyms.canonical(source, synonyms.redux_name), path, "a Redux adapter")
        if config.context_in_dim != self._spec.transformer.context_in_dim:
            raise self._made_for_another(title)
        return Companion(PartKey(Component.REDUX, name), path, config, title)

    def _picture_encoder(self, name: str, key: PartKey) -> Companion:
        row, path = self._find(name, "", (Kind.IMAGE_ENCODER,))
        title = row.title if row else name
        like = row.config if row else None
        source = open_source(path)
        if key.component is Component.CLIP_VISION:
            clip_like = like if isinstance(like, ClipVisionConfig) else None
            source = synonyms.canonical(source, synonyms.clip_vision_name)
            config = told(
                lambda names: clip_vision_config(names, clip_like), source, path, "a CLIP vision tower"
            )
            return Companion(key, path, config, title)
        siglip_like = like if isinstance(like, SiglipConfig) else SiglipConfig()
        source = synonyms.canonical(source, synonyms.siglip_states_name)
        config = told(lambda names: siglip_config(names, siglip_like), source, path, "a SigLIP vision tower")
        return Companion(key, path, config, title)

    def controlnet(self, use: ControlUse) -> Companion:
        """A ControlNet; checked for this model and for the kind of map."""
        row, path = self._find(use.model, CONTROLNETS, (Kind.CONTROLNET,))
        title = row.title if row else use.model
        source = open_source(path)
        first = "img_in.weight" if "img_in.weight" in source.names() else "x_embedder.weight"
        self._check_width(source, first, title)
        like = self._spec.transformer
        config = told(lambda names: controlnet_config(names, like), source, path, "a ControlNet for FLUX.1")
        if config.condition_channels > CONDITION_CHANNELS:
            raise RequestInvalid(
                f"{title} is a ControlNet for inpainting, which this version cannot use.",
                "Choose a Fill model, or another ControlNet.",
            )
        modes = [kind.value for kind, mode in UNION_MODES.items() if mode < config.num_modes]
        if config.num_modes and use.kind.value not in modes:
            raise RequestInvalid(
                f"{title} has no mode for {use.kind.value} maps.", f"It has: {', '.join(modes)}."
            )
        return Companion(PartKey(Component.CONTROLNET, use.model), path, config, title)

    def fast_decoder(self) -> Companion:
        """The small autoencoder of the model's latents."""
        name = self._spec.fast_decoder
        if not name:
            raise RequestInvalid(f"{self._spec.title} has no fast decoder.", "Leave the decoder at full.")
        row, path = self._find(name, "", (Kind.PREVIEW_AUTOENCODER,))
        source = synonyms.canonical(open_source(path), synonyms.taef1_decoder_name)
        config = told(taef1_config, source, path, "the decoder of a tiny autoencoder")
        return Companion(PartKey(Component.FAST_DECODER, name), path, config, row.title if row else name)

    def _find(self, name: str, folder: str, kinds: tuple[Kind, ...]) -> tuple[PartSpec | None, Path]:
        """The row of a name, if it is one, and the weights."""
        row = PARTS.get(name)
        if row is None:
            return None, find_file(name, folder, self._dirs, " or ".join(_WORDS[kind] for kind in kinds))
        if row.kind not in kinds:
            raise RequestInvalid(
                f"{row.title} is not a {' or a '.join(_WORDS[kind] for kind in kinds)}.",
                f"Choose one of: {', '.join(_ids(kinds))}.",
            )
        place = part_folder(row, self._dirs)
        inside = part_path(place, "", row.weights) if place is not None else None
        if place is None or inside is None:
            raise ModelMissing(f"{row.title} is not on this machine.", row.how_to_get)
        return row, place / inside

    def _check_width(self, source: TensorSource, tensor: str, title: str) -> None:
        """Refuses what was made for a stream of another width, from the rows of one of its matrices."""
        info = source.names().get(tensor)
        if info is not None and info.shape[:1] != (self._spec.transformer.hidden_size,):
            raise self._made_for_another(title)

    def _made_for_another(self, title: str) -> RequestInvalid:
        return RequestInvalid(
            f"{title} was made for another model than {self._spec.title}.", "Choose the model it belongs to."
        )


def _check_sees(adapter: Companion, eye: Companion) -> None:
    """Refuses an adapter that was made for what another picture encoder gives."""
    match eye.config, adapter.config:
        case SiglipConfig(hidden_size=given), ReduxConfig(image_dim=wanted):
            pass
        case ClipVisionConfig(projection_dim=given), IpAdapterConfig(image_dim=wanted):
            pass
        case _:
            raise ValueError(f"{adapter.key} does not see through {eye.key}")
    if given != wanted:
        raise RequestInvalid(
            f"{adapter.title} was made for another picture encoder than {eye.title}.",
            "Choose another adapter, or get the picture encoder again.",
        )


def find_file(name: str, folder: str, models_dirs: Iterable[Path], what: str) -> Path:
    """A file in a folder beside the models, with or without its ".safetensors"; the first folder wins.

    Raises:
        ModelMissing: Names the folder and some of what is in it.
    """
    folders = [base / folder for base in models_dirs]
    for each in folders:
        for path in (each / name, each / f"{name}{_SUFFIX}"):
            if _is_file(path):
                return path
    here = [path.name for each in folders if each.is_dir() for path in sorted(each.glob(f"*{_SUFFIX}"))]
    listed = ", ".join(here[:_SHOWN]) + (f" and {len(here) - _SHOWN} more" if len(here) > _SHOWN else "")
    raise ModelMissing(
        f"There is no {what} called {name!r} in {folders[0]}.",
        f"Choose one of: {listed}." if here else "Put its file there.",
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name of 200 characters may have more bytes than a file system takes
        return False


def _eye_of(row: PartSpec | None, otherwise: str) -> str:
    """The row of the encoder that an adapter sees through."""
    needs = row.needs if row is not None else ()
    return next((need for need in needs if PARTS[need].kind is Kind.IMAGE_ENCODER), otherwise)


def _ids(kinds: tuple[Kind, ...]) -> Iterator[str]:
    return (row.model for row in PARTS.values() if row.kind in kinds)
