"""From a file to the parts that stand beside a FLUX.1 model: SigLIP, Redux, ControlNet and others.

Each function opens, checks strictly and builds one part, as flux_core.weights.components does for the
model's own. What the shapes tell is read from the shapes, so a person need not say which of many
ControlNets a file holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from flux_core.catalog import (
    ClipVisionConfig,
    ControlNetConfig,
    IpAdapterConfig,
    ReduxConfig,
    SiglipConfig,
    Taef1Config,
    TransformerConfig,
)
from flux_core.errors import Corrupt
from flux_core.models.clip_vision import ClipVision, clip_vision_config
from flux_core.models.controlnet import ControlNet, controlnet_config
from flux_core.models.ip_adapter import IpAdapter, ip_adapter_config
from flux_core.models.redux import Redux, redux_config
from flux_core.models.siglip import SiglipVision, siglip_config
from flux_core.models.taef1 import Taef1Decoder, Taef1Encoder, taef1_config
from flux_core.ops import Backend, LeafFactory, Ops
from flux_core.request import Precision
from flux_core.weights import synonyms
from flux_core.weights.diffusers_keys import ConvertedSource, controlnet_recipes
from flux_core.weights.expected import check_strict, expected_shapes
from flux_core.weights.safetensors_file import SafetensorsFile
from flux_core.weights.tensors import TensorInfo, TensorSource

File = Path | TensorSource
"""A safetensors file, or tensors that were opened already, of whatever format."""

C = TypeVar("C")
M = TypeVar("M")


def load_siglip(
    file: File, backend: Backend, precision: Precision, like: SiglipConfig | None = None
) -> SiglipVision:
    """Loads the SigLIP vision tower.

    Args:
        file: Where its tensors lie.
        backend: Where it will run.
        precision: AUTO lets the backend choose.
        like: Gives what the shapes do not tell; without, the published so400m without its pooling head.

    Raises:
        ModelMissing: The file is not there.
        Corrupt: It is damaged, or does not hold exactly this model.
    """
    like = like or SiglipConfig()
    rename = synonyms.siglip_name if like.has_head else synonyms.siglip_states_name
    source = synonyms.canonical(_opened(file), rename)
    config = told(lambda names: siglip_config(names, like), source, file, "a SigLIP vision tower")
    return _built(source, file, backend, precision, lambda ops, make: SiglipVision(ops, make, config))


def load_redux(
    file: File, backend: Backend, precision: Precision, config: ReduxConfig | None = None
) -> Redux:
    """Loads the Redux adapter; as load_siglip."""
    source = synonyms.canonical(_opened(file), synonyms.redux_name)
    known = config or told(redux_config, source, file, "a Redux adapter")
    return _built(source, file, backend, precision, lambda ops, make: Redux(ops, make, known))


def load_clip_vision(
    file: File, backend: Backend, precision: Precision, like: ClipVisionConfig | None = None
) -> ClipVision:
    """Loads the CLIP vision tower with its projection; as load_siglip."""
    source = synonyms.canonical(_opened(file), synonyms.clip_vision_name)
    config = told(lambda names: clip_vision_config(names, like), source, file, "a CLIP vision tower")
    return _built(source, file, backend, precision, lambda ops, make: ClipVision(ops, make, config))


def load_ip_adapter(
    file: File, backend: Backend, precision: Precision, like: IpAdapterConfig | None = None
) -> IpAdapter:
    """Loads an XLabs IP-Adapter; as load_siglip."""
    source = synonyms.canonical(_opened(file), synonyms.ip_adapter_name)
    config = told(lambda names: ip_adapter_config(names, like), source, file, "an XLabs IP-Adapter")
    return _built(source, file, backend, precision, lambda ops, make: IpAdapter(ops, make, config))


def load_taef1_encoder(
    file: File, backend: Backend, precision: Precision, config: Taef1Config | None = None
) -> Taef1Encoder:
    """Loads the encoder of the tiny autoencoder, alone or from a file of both halves; as load_siglip."""
    source = synonyms.canonical(_opened(file), synonyms.taef1_encoder_name)
    known = config or told(taef1_config, source, file, "the encoder of a tiny autoencoder")
    return _built(source, file, backend, precision, lambda ops, make: Taef1Encoder(ops, make, known))


def load_taef1_decoder(
    file: File, backend: Backend, precision: Precision, config: Taef1Config | None = None
) -> Taef1Decoder:
    """Loads the decoder of the tiny autoencoder, alone or from a file of both halves; as load_siglip."""
    source = synonyms.canonical(_opened(file), synonyms.taef1_decoder_name)
    known = config or told(taef1_config, source, file, "the decoder of a tiny autoencoder")
    return _built(source, file, backend, precision, lambda ops, make: Taef1Decoder(ops, make, known))


def load_controlnet(
    file: File, backend: Backend, precision: Precision, like: TransformerConfig | None = None
) -> ControlNet:
    """Loads a ControlNet with BFL's names (XLabs) or diffusers' (InstantX, Shakker and others).

    Args:
        file: Where its tensors lie.
        backend: Where it will run.
        precision: AUTO lets the backend choose.
        like: The transformer it will steer: gives heads and rotary axes, which shapes do not tell.

    Raises:
        ModelMissing: The file is not there.
        Corrupt: It is damaged, or does not hold exactly one ControlNet.
    """
    opened = _opened(file)
    config = told(lambda names: controlnet_config(names, like), opened, file, "a ControlNet for FLUX.1")
    source = controlnet_source(opened, config)
    return _built(source, file, backend, precision, lambda ops, make: ControlNet(ops, make, config))


def controlnet_source(source: TensorSource, config: ControlNetConfig) -> TensorSource:
    """A ControlNet's tensors under the model's names, whichever of the two spellings the file has."""
    if "x_embedder.weight" in source.names():
        return ConvertedSource(source, controlnet_recipes(config))
    return synonyms.canonical(source, synonyms.controlnet_name)


def _opened(file: File) -> TensorSource:
    return SafetensorsFile(file) if isinstance(file, Path) else file


def _called(file: File) -> str:
    return str(file if isinstance(file, Path) else getattr(file, "path", "The file"))


def told(derive: Callable[[Mapping[str, TensorInfo]], C], source: TensorSource, file: File, what: str) -> C:
    """The configuration that the shapes tell, or one error that says what the file is not."""
    names = source.names()
    reason = "its tensors have shapes that no such model has"
    try:
        if all(0 not in info.shape for info in names.values()):
            return derive(names)
    except KeyError as err:
        reason = f"it has no tensor {err}"
    except (IndexError, ValueError, ArithmeticError):
        pass
    raise Corrupt(
        f"{_called(file)} does not hold {what}: {reason}.",
        "Choose the file of this very part, or download it again.",
    )


def _built(
    source: TensorSource,
    file: File,
    backend: Backend,
    precision: Precision,
    build: Callable[[Ops, LeafFactory], M],
) -> M:
    check_strict(expected_shapes(build), source.names(), _called(file))
    return build(backend.ops, backend.leaves(source, precision))
