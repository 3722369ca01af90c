"""Every model Flowbrush knows: shapes, files, licence, defaults, tasks. Sizes live here and nowhere else.

A row says what a model is; `locate` says where its files are on this machine. The architecture
numbers come from research on the published configurations (BFL util.py, diffusers config.json).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from flux_core.errors import ModelMissing, RequestInvalid
from flux_core.messages import ModelInfo
from flux_core.request import Task


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Numbers of the rectified-flow transformer.

    Raises:
        ValueError: The head dimension does not equal the sum of the rotary axes.
    """

    in_channels: int = 64
    out_channels: int = 64
    hidden_size: int = 3072
    num_heads: int = 24
    depth: int = 19
    depth_single: int = 38
    mlp_hidden: int = 12288
    context_in_dim: int = 4096
    vec_in_dim: int = 768
    axes_dim: tuple[int, int, int] = (16, 56, 56)
    theta: float = 10_000.0
    has_guidance: bool = True

    def __post_init__(self) -> None:
        if sum(self.axes_dim) * self.num_heads != self.hidden_size:
            raise ValueError(
                f"axes {self.axes_dim} x {self.num_heads} heads do not make hidden size {self.hidden_size}"
            )


@dataclass(frozen=True, slots=True)
class AutoencoderConfig:
    """Numbers of the image autoencoder. Latents handed on are (mean - shift) * scale."""

    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    latent_channels: int = 16
    norm_groups: int = 32
    shift: float = 0.1159
    scale: float = 0.3611


@dataclass(frozen=True, slots=True)
class T5Config:
    """Numbers of the T5 v1.1 encoder."""

    vocab_size: int = 32128
    d_model: int = 4096
    num_heads: int = 64
    d_kv: int = 64
    d_ff: int = 10240
    num_layers: int = 24
    num_buckets: int = 32
    max_distance: int = 128


@dataclass(frozen=True, slots=True)
class ClipTextConfig:
    """Numbers of the CLIP text encoder."""

    vocab_size: int = 49408
    hidden_size: int = 768
    num_heads: int = 12
    mlp_hidden: int = 3072
    num_layers: int = 12
    max_positions: int = 77


@dataclass(frozen=True, slots=True)
class SiglipConfig:
    """Numbers of the SigLIP so400m vision tower, whose states Redux reads.

    Attributes:
        image_px: Side of the square picture.
        patch_px: Side of a patch; what is left over at the right and the bottom is not seen.
        has_head: Whether the attention pooling is wanted; Redux has no use for it.

    Raises:
        ValueError: The heads do not divide the width, or a patch is empty or larger than the picture.
    """

    hidden_size: int = 1152
    num_heads: int = 16
    mlp_hidden: int = 4304
    num_layers: int = 27
    image_px: int = 384
    patch_px: int = 14
    has_head: bool = False

    def __post_init__(self) -> None:
        _check_heads(self.hidden_size, self.num_heads)
        _check_patches(self.image_px, self.patch_px)

    @property
    def num_patches(self) -> int:
        return (self.image_px // self.patch_px) ** 2


@dataclass(frozen=True, slots=True)
class ReduxConfig:
    """Numbers of the Redux adapter, from image states to text states."""

    image_dim: int = 1152
    context_in_dim: int = 4096


@dataclass(frozen=True, slots=True)
class ClipVisionConfig:
    """Numbers of the CLIP ViT-L/14 vision tower, whose projection the XLabs IP-Adapter reads.

    Raises:
        ValueError: The heads do not divide the width, or a patch is empty or larger than the picture.
    """

    hidden_size: int = 1024
    num_heads: int = 16
    mlp_hidden: int = 4096
    num_layers: int = 24
    image_px: int = 224
    patch_px: int = 14
    projection_dim: int = 768

    def __post_init__(self) -> None:
        _check_heads(self.hidden_size, self.num_heads)
        _check_patches(self.image_px, self.patch_px)

    @property
    def num_patches(self) -> int:
        return (self.image_px // self.patch_px) ** 2


@dataclass(frozen=True, slots=True)
class IpAdapterConfig:
    """Numbers of the XLabs IP-Adapter, which attends to a picture in every double block.

    Attributes:
        num_tokens: Tokens made of one picture; 4 or 16 in what XLabs published.
        depth: Double blocks of the transformer it was made for.

    Raises:
        ValueError: The heads do not divide the width, or there is no token.
    """

    num_tokens: int = 4
    image_dim: int = 768
    context_in_dim: int = 4096
    hidden_size: int = 3072
    num_heads: int = 24
    depth: int = 19

    def __post_init__(self) -> None:
        _check_heads(self.hidden_size, self.num_heads)
        if self.num_tokens < 1:
            raise ValueError("an IP-Adapter makes at least one token")


@dataclass(frozen=True, slots=True)
class ControlNetConfig:
    """Numbers of a ControlNet, a shortened transformer that sees a control picture, too.

    Attributes:
        transformer: Its blocks and inputs; out_channels says nothing here.
        condition_channels: Channels of a control token: 64, or 68 with a mask (inpainting); a pixel hint
            makes 64.
        num_modes: Rows of the table of modes of a union; 0 without a table.
        is_pixel_hint: XLabs: the control picture enters as pixels through a small convolution net, and
            the few residuals are repeated in turn instead of being stretched.
    """

    transformer: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(depth=5, depth_single=10)
    )
    condition_channels: int = 64
    num_modes: int = 0
    is_pixel_hint: bool = False


@dataclass(frozen=True, slots=True)
class Taef1Config:
    """Numbers of the tiny autoencoder, which makes previews and quick decodes."""

    width: int = 64
    latent_channels: int = 16
    num_blocks: int = 3


def _check_heads(hidden_size: int, num_heads: int) -> None:
    if hidden_size < 1 or hidden_size % num_heads:
        raise ValueError(f"{num_heads} heads do not divide width {hidden_size}")


def _check_patches(image_px: int, patch_px: int) -> None:
    if not 0 < patch_px <= image_px:
        raise ValueError(f"a picture of {image_px} px has no patch of {patch_px} px")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where the parts lie, relative to the model's folder."""

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


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A row of the catalog.

    Attributes:
        t5_tokens, clip_tokens: Padded length of each prompt, in tokens.
        is_guidance_distilled: Whether the transformer was taught to answer a guidance in one evaluation;
            else a step takes two, with and without the prompt (Ho & Salimans 2022).
        has_time_shift: Whether the schedule is shifted with the number of image tokens (all but schnell).
        working_side_px: Side of the square whose area the model paints best.
        max_side_px: Longest side it was trained for; the inpaint working size stays within it.
    """

    model: str
    title: str
    licence: str
    tasks: tuple[Task, ...]
    num_steps: int
    guidance: float
    t5_tokens: int
    clip_tokens: int = 77
    is_guidance_distilled: bool = True
    has_time_shift: bool = True
    working_side_px: int = 1024
    max_side_px: int = 2048
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    t5: T5Config = field(default_factory=T5Config)
    clip: ClipTextConfig = field(default_factory=ClipTextConfig)
    files: ModelFiles = field(default_factory=ModelFiles)


_BASIC = (Task.GENERATE, Task.TRANSFORM, Task.FILL)
_DEV_LICENCE = "FLUX.1 [dev] Non-Commercial License"

TINY = ModelSpec(
    model="tiny",
    title="Tiny FLUX (bundled)",
    licence="Apache-2.0",
    tasks=_BASIC,
    num_steps=20,
    guidance=3.5,
    t5_tokens=32,
    clip_tokens=32,
    is_guidance_distilled=False,
    has_time_shift=False,
    working_side_px=256,
    max_side_px=256,
    transformer=TransformerConfig(
        hidden_size=256,
        num_heads=4,
        depth=3,
        depth_single=6,
        mlp_hidden=1024,
        context_in_dim=256,
        vec_in_dim=256,
        axes_dim=(8, 28, 28),
    ),
    autoencoder=AutoencoderConfig(channels=32, shift=-0.2631, scale=0.4672),
    t5=T5Config(vocab_size=2048, d_model=256, num_heads=4, d_kv=64, d_ff=512, num_layers=4),
    clip=ClipTextConfig(vocab_size=2048, hidden_size=256, num_heads=4, mlp_hidden=1024, num_layers=2),
)

DEV = ModelSpec(
    model="flux1-dev",
    title="FLUX.1 [dev]",
    licence=_DEV_LICENCE,
    tasks=_BASIC,
    num_steps=28,
    guidance=3.5,
    t5_tokens=512,
    files=ModelFiles(transformer="flux1-dev.safetensors"),
)

SCHNELL = ModelSpec(
    model="flux1-schnell",
    title="FLUX.1 [schnell]",
    licence="Apache-2.0",
    tasks=_BASIC,
    num_steps=4,
    guidance=0.0,
    t5_tokens=256,
    has_time_shift=False,
    transformer=TransformerConfig(has_guidance=False),
    files=ModelFiles(transformer="flux1-schnell.safetensors"),
)

MODELS: dict[str, ModelSpec] = {spec.model: spec for spec in (TINY, DEV, SCHNELL)}


def find(model: str) -> ModelSpec:
    """The row of a model id.

    Raises:
        RequestInvalid: No such model; the hint lists those there are.
    """
    try:
        return MODELS[model]
    except KeyError:
        known = ", ".join(MODELS)
        raise RequestInvalid(f"There is no model called {model!r}.", f"Choose one of: {known}.") from None


def folder_of(spec: ModelSpec, models_dirs: tuple[Path, ...]) -> Path:
    """The first folder that holds all of the model's files.

    Raises:
        ModelMissing: Names the files that are missing where most of the model is, and what to do.
    """
    folders = [base / spec.model for base in models_dirs]
    missing = {folder: _missing(spec, folder) for folder in folders}
    for folder in folders:
        if not missing[folder]:
            return folder
    nearest = min(folders, key=lambda folder: len(missing[folder]))
    raise ModelMissing(
        f"{spec.title} is not on this machine: {nearest} has no {', '.join(missing[nearest])}.",
        "Put the files there; `flowbrush models list` shows which models are here.",
    )


def model_infos(models_dirs: tuple[Path, ...]) -> tuple[ModelInfo, ...]:
    """Every model of the catalog, with whether it is installed and its size on disk in bytes."""
    return tuple(_info(spec, models_dirs) for spec in MODELS.values())


def _info(spec: ModelSpec, models_dirs: tuple[Path, ...]) -> ModelInfo:
    try:
        folder = folder_of(spec, models_dirs)
    except ModelMissing:
        folder = None
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) if folder else 0
    return ModelInfo(
        model=spec.model,
        title=spec.title,
        licence=spec.licence,
        tasks=tuple(task.value for task in spec.tasks),
        is_installed=folder is not None,
        bytes_on_disk=size,
    )


def _missing(spec: ModelSpec, folder: Path) -> list[str]:
    return [name for name in spec.files.all if not (folder / name).exists()]
