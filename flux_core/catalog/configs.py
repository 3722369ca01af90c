"""The sizes of every network that Flowbrush knows how to build: numbers, and nothing else.

A model definition in flux_core.models takes one of these; rows of the catalog carry them. The defaults
are the published FLUX.1 networks.

Source: the published configurations (BFL util.py, diffusers and transformers config.json).
"""

from __future__ import annotations

from dataclasses import dataclass, field


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
