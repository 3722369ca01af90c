"""What a row of the catalog says, for whole models and for what is added to them.

A `ModelSpec` paints; a `PartSpec` is something a model needs or can take: a text encoder, an autoencoder,
a LoRA, a ControlNet. Both say where they are published, under which licence, and which other rows they need.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from flux_core.catalog.configs import (
    AutoencoderConfig,
    ClipTextConfig,
    ClipVisionConfig,
    ControlNetConfig,
    IpAdapterConfig,
    ReduxConfig,
    SiglipConfig,
    T5Config,
    Taef1Config,
    TransformerConfig,
)
from flux_core.request import ControlKind, Task

PartConfig = SiglipConfig | ReduxConfig | ClipVisionConfig | IpAdapterConfig | ControlNetConfig | Taef1Config

FILL_CHANNELS = 64 + 256
"""What a Fill model sees of each token beside its noisy latents: the picture's latents and its mask."""


class Kind(StrEnum):
    """What a row or a file is."""

    MODEL = "model"
    LORA = "lora"
    ADAPTER = "adapter"  # Redux: makes text tokens of a picture
    CONTROLNET = "controlnet"
    IP_ADAPTER = "ip_adapter"
    TEXT_ENCODER = "text_encoder"
    IMAGE_ENCODER = "image_encoder"
    AUTOENCODER = "autoencoder"
    PREVIEW_AUTOENCODER = "preview_autoencoder"
    VISION = "vision"  # looks at pictures instead of painting


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        path: In the repository.
        size_bytes: None where it is not known for certain; the hub says it before a download.
        sha256: "" where it is not known.
        place: Where it goes in the row's folder; "" means `path`.
        repository: "" means the row's.
    """

    path: str
    size_bytes: int | None = None
    sha256: str = ""
    place: str = ""
    repository: str = ""

    @property
    def name(self) -> str:
        """Where it lies in the row's folder."""
        return self.place or self.path


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where the parts lie, relative to the model's folder; absolute where `locate` found them elsewhere."""

    transformer: str = "transformer.safetensors"
    autoencoder: str = "ae.safetensors"
    t5: str = "text_encoder_2/model.safetensors"
    clip: str = "text_encoder/model.safetensors"
    t5_tokenizer: str = "tokenizer_2"
    clip_tokenizer: str = "tokenizer"

    @property
    def all(self) -> tuple[str, ...]:
        return (
            self.transformer,
            self.autoencoder,
            self.t5,
            self.clip,
            self.t5_tokenizer,
            self.clip_tokenizer,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What every row says.

    Attributes:
        model: Its id, which is also the name of its folder.
        repository: Where it is published, "" if nowhere.
        is_gated: Whether the repository asks for a login and for its terms to be accepted first. The
            state of today is not ours to know; the hub has the last word.
        downloads: Its files there.
        needs: Ids of the rows without which it cannot work.
    """

    model: str
    title: str
    licence: str
    kind: Kind
    repository: str = ""
    is_gated: bool = False
    downloads: tuple[RemoteFile, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def is_bundled(self) -> bool:
        """Whether it comes with Flowbrush, and is published nowhere else."""
        return not self.downloads


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec(Row):
    """A whole model.

    Attributes:
        tasks: What it can do.
        t5_tokens, clip_tokens: Padded length of each prompt, in tokens.
        is_guidance_distilled: Whether the transformer was taught to answer a guidance in one evaluation;
            else a step takes two, with and without the prompt (Ho & Salimans 2022).
        has_time_shift: Whether the schedule is shifted with the number of image tokens (all but schnell).
        lora: File in its folder that makes it of the transformer of a row it needs; "" where it has its own.
        lora_channels: What img_in reads with that file; 0 where it is as wide as the transformer says.
        control_kind: Which control map its own input channels are for, if it has any.
        redux: Row of the adapter that makes its words of pictures; "" if there is none.
        fast_decoder: Row of the small autoencoder that can decode for it; "" if there is none.
        working_side_px: Side of the square whose area the model paints best.
        max_side_px: Longest side it was trained for; the inpaint working size stays within it.
    """

    kind: Kind = Kind.MODEL
    tasks: tuple[Task, ...]
    num_steps: int
    guidance: float
    t5_tokens: int
    clip_tokens: int = 77
    is_guidance_distilled: bool = True
    has_time_shift: bool = True
    lora: str = ""
    lora_channels: int = 0
    control_kind: ControlKind | None = None
    redux: str = "flux1-redux-dev"
    fast_decoder: str = "taef1"
    working_side_px: int = 1024
    max_side_px: int = 2048
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    t5: T5Config = field(default_factory=T5Config)
    clip: ClipTextConfig = field(default_factory=ClipTextConfig)
    files: ModelFiles = field(default_factory=ModelFiles)

    @property
    def is_fill(self) -> bool:
        """Whether its own input channels are a masked picture and its mask."""
        channels = self.lora_channels or self.transformer.in_channels
        return channels == self.transformer.out_channels + FILL_CHANNELS


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSpec(Row):
    """Something that a model needs or can take.

    Attributes:
        works_with: Ids of the models it fits; empty for what every FLUX.1 model shares.
        meant_for: What its authors made it for.
        num_steps, guidance: Its authors' settings, None where they are the base model's.
        strength: Weight its authors use it with.
        kinds: Control maps it was made for; empty where that is not its affair.
        config: Its numbers, where the published file has them for certain; the file itself has the last word.
    """

    works_with: tuple[str, ...] = ()
    meant_for: tuple[str, ...] = ()
    num_steps: int | None = None
    guidance: float | None = None
    strength: float = 1.0
    kinds: tuple[ControlKind, ...] = ()
    config: PartConfig | None = None
