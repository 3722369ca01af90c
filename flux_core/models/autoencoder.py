"""The FLUX.1 image autoencoder (AutoencoderKL, 16 channels, factor 8), once for every backend.

Images are [B, H, W, 3] in [-1, 1]; latents are [B, H/8, W/8, 16], already shifted and scaled, which
is what the transformer works on. Key names are the published file's (ae.safetensors).

Source: black-forest-labs/flux modules/autoencoder.py; Rombach et al. 2022.
"""

from __future__ import annotations

from typing import Any

from flux_core.catalog import AutoencoderConfig
from flux_core.ops import LeafFactory, Ops

GROUP_NORM_EPS = 1e-6
SCALE_FACTOR = 8  # pixels per latent


class Encoder:
    """Pixels to latents."""

    def __init__(self, ops: Ops, make: LeafFactory, config: AutoencoderConfig, name: str = "encoder") -> None:
        self.config = config
        widths = [config.channels * m for m in config.channel_multipliers]
        self.ops = ops
        self.conv_in = make.conv2d(f"{name}.conv_in", 3, config.channels, 3, padding=(1, 1))
        self.down: list[tuple[list[ResBlock], Any]] = []
        width = config.channels
        for i, out in enumerate(widths):
            blocks: list[ResBlock] = []
            for j in range(config.num_res_blocks):
                blocks.append(ResBlock(ops, make, f"{name}.down.{i}.block.{j}", width, out, config))
                width = out
            is_last = i == len(widths) - 1
            downsample = (
                None
                if is_last
                else make.conv2d(
                    f"{name}.down.{i}.downsample.conv", width, width, 3, stride=2, padding=(0, 1)
                )
            )
            self.down.append((blocks, downsample))
        self.mid = Middle(ops, make, f"{name}.mid", width, config)
        self.norm_out = make.group_norm(f"{name}.norm_out", config.norm_groups, width, GROUP_NORM_EPS)
        self.conv_out = make.conv2d(f"{name}.conv_out", width, 2 * config.latent_channels, 3, padding=(1, 1))

    def __call__(self, image: Any) -> Any:
        """Image [B, H, W, 3] in [-1, 1], sides multiples of 8 -> latents [B, H/8, W/8, 16] (the mean)."""
        mean = self.moments(image)[..., : self.config.latent_channels]
        return (mean - self.config.shift) * self.config.scale

    def moments(self, image: Any) -> Any:
        """[B, H, W, 3] -> [B, H/8, W/8, 32]: 16 means, then 16 log-variances, not normalised."""
        h = self.conv_in(image)
        for blocks, downsample in self.down:
            for block in blocks:
                h = block(h)
            if downsample is not None:
                h = downsample(h)
        h = self.mid(h)
        return self.conv_out(self.ops.norm_silu(h, self.norm_out))


class Decoder:
    """Latents to pixels; one more block a level than the encoder."""

    def __init__(self, ops: Ops, make: LeafFactory, config: AutoencoderConfig, name: str = "decoder") -> None:
        self.config = config
        widths = [config.channels * m for m in config.channel_multipliers]
        width = widths[-1]
        self.ops = ops
        self.conv_in = make.conv2d(f"{name}.conv_in", config.latent_channels, width, 3, padding=(1, 1))
        self.mid = Middle(ops, make, f"{name}.mid", width, config)
        self.up: list[tuple[list[ResBlock], Any]] = []
        for i in reversed(range(len(widths))):
            blocks: list[ResBlock] = []
            for j in range(config.num_res_blocks + 1):
                blocks.append(ResBlock(ops, make, f"{name}.up.{i}.block.{j}", width, widths[i], config))
                width = widths[i]
            upsample = (
                make.conv2d(f"{name}.up.{i}.upsample.conv", width, width, 3, padding=(1, 1)) if i else None
            )
            self.up.append((blocks, upsample))
        self.norm_out = make.group_norm(f"{name}.norm_out", config.norm_groups, width, GROUP_NORM_EPS)
        self.conv_out = make.conv2d(f"{name}.conv_out", width, 3, 3, padding=(1, 1))

    def __call__(self, latents: Any) -> Any:
        """Latents [B, h, w, 16] -> image [B, 8h, 8w, 3], about [-1, 1], not clamped."""
        return self.raw(latents * (1.0 / self.config.scale) + self.config.shift)

    def raw(self, z: Any) -> Any:
        """As a call, from latents that are not normalised."""
        h = self.mid(self.conv_in(z))
        for blocks, upsample in self.up:
            for block in blocks:
                h = block(h)
            if upsample is not None:
                h = self.ops.upsampled(h, upsample)
        return self.conv_out(self.ops.norm_silu(h, self.norm_out))


class Middle:
    """Block, attention, block at the lowest resolution."""

    def __init__(self, ops: Ops, make: LeafFactory, name: str, width: int, config: AutoencoderConfig) -> None:
        self.block_1 = ResBlock(ops, make, f"{name}.block_1", width, width, config)
        self.attn_1 = ImageAttention(ops, make, f"{name}.attn_1", width, config)
        self.block_2 = ResBlock(ops, make, f"{name}.block_2", width, width, config)

    def __call__(self, h: Any) -> Any:
        return self.block_2(self.attn_1(self.block_1(h)))


class ResBlock:
    """GroupNorm, SiLU, conv, twice, around a shortcut (1x1 where the width changes)."""

    def __init__(
        self, ops: Ops, make: LeafFactory, name: str, in_dim: int, out_dim: int, config: AutoencoderConfig
    ) -> None:
        self.ops = ops
        self.norm1 = make.group_norm(f"{name}.norm1", config.norm_groups, in_dim, GROUP_NORM_EPS)
        self.conv1 = make.conv2d(f"{name}.conv1", in_dim, out_dim, 3, padding=(1, 1))
        self.norm2 = make.group_norm(f"{name}.norm2", config.norm_groups, out_dim, GROUP_NORM_EPS)
        self.conv2 = make.conv2d(f"{name}.conv2", out_dim, out_dim, 3, padding=(1, 1))
        self.shortcut = make.conv2d(f"{name}.nin_shortcut", in_dim, out_dim, 1) if in_dim != out_dim else None

    def __call__(self, x: Any) -> Any:
        """[B, H, W, in] -> [B, H, W, out]."""
        h = self.conv1(self.ops.norm_silu(x, self.norm1))
        h = self.conv2(self.ops.norm_silu(h, self.norm2))
        return h + (x if self.shortcut is None else self.shortcut(x))


class ImageAttention:
    """Single-head attention over all positions; q, k, v and the projection are 1x1 convolutions."""

    def __init__(self, ops: Ops, make: LeafFactory, name: str, width: int, config: AutoencoderConfig) -> None:
        self.ops = ops
        self.width = width
        self.norm = make.group_norm(f"{name}.norm", config.norm_groups, width, GROUP_NORM_EPS)
        self.q = make.conv2d(f"{name}.q", width, width, 1)
        self.k = make.conv2d(f"{name}.k", width, width, 1)
        self.v = make.conv2d(f"{name}.v", width, width, 1)
        self.proj_out = make.conv2d(f"{name}.proj_out", width, width, 1)

    def __call__(self, x: Any) -> Any:
        """[B, H, W, C] -> the same."""
        batch, height, width, channels = x.shape
        h = self.norm(x)
        q, k, v = (f(h).reshape(batch, 1, height * width, channels) for f in (self.q, self.k, self.v))
        out = self.ops.attention(q, k, v, scale=self.width**-0.5)  # [B, H*W, C]
        return x + self.proj_out(out.reshape(batch, height, width, channels))
