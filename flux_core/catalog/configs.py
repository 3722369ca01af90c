"""The sizes of every network that Flowbrush knows how to build: numbers, and nothing else.

A model definition in flux_core.models takes one of these; rows of the catalog carry them. The defaults
are the published FLUX.1 networks.

Source: the published configurations (BFL util.py, diffusers and transformers config.json).
"""

from __future__ import annotations

from dataclasses import dataclass


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
