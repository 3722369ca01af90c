"""The tiny autoencoder of FLUX.1 (TAEF1), once for every backend: previews and quick decodes.

It works on the latents of the transformer as they are, shifted and scaled, so both halves stand in for
flux_core.models.autoencoder: pictures are in [-1, 1] here, too, although the net itself works in [0, 1].
Keys are the original files' positions in a Sequential, behind `encoder.` and `decoder.`.

Source: madebyollin/taesd taesd.py (architecture, positions); diffusers AutoencoderTiny.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flux_core.catalog import Taef1Config
from flux_core.ops import LeafFactory, Ops
from flux_core.weights.tensors import TensorInfo

LATENT_LIMIT = 3.0  # latents are squeezed into (-3, 3) before decoding
LEVELS = 3  # halvings, so 8 pixels a latent
Layer = Callable[[Any], Any]


class Taef1Encoder:
    """Pixels to latents."""

    def __init__(self, ops: Ops, make: LeafFactory, config: Taef1Config, name: str = "encoder") -> None:
        width = config.width
        self.layers: list[Layer] = [
            make.conv2d(f"{name}.0", 3, width, 3, padding=(1, 1)),
            TinyBlock(ops, make, f"{name}.1", width),
        ]
        for _ in range(LEVELS):
            down = f"{name}.{len(self.layers)}"
            self.layers.append(make.conv2d(down, width, width, 3, stride=2, padding=(1, 1), bias=False))
            for _ in range(config.num_blocks):
                self.layers.append(TinyBlock(ops, make, f"{name}.{len(self.layers)}", width))
        out = f"{name}.{len(self.layers)}"
        self.layers.append(make.conv2d(out, width, config.latent_channels, 3, padding=(1, 1)))

    def __call__(self, image: Any) -> Any:
        """Image [B, H, W, 3] in [-1, 1], sides multiples of 8 -> latents [B, H/8, W/8, 16]."""
        x = image * 0.5 + 0.5
        for layer in self.layers:
            x = layer(x)
        return x


class Taef1Decoder:
    """Latents to pixels."""

    def __init__(self, ops: Ops, make: LeafFactory, config: Taef1Config, name: str = "decoder") -> None:
        width = config.width
        self.layers: list[Layer] = [
            lambda x: ops.tanh(x / LATENT_LIMIT) * LATENT_LIMIT,
            make.conv2d(f"{name}.1", config.latent_channels, width, 3, padding=(1, 1)),
            lambda x: ops.relu(x),
        ]
        for _ in range(LEVELS):
            for _ in range(config.num_blocks):
                self.layers.append(TinyBlock(ops, make, f"{name}.{len(self.layers)}", width))
            self.layers.append(lambda x: ops.upsample_nearest(x))
            up = f"{name}.{len(self.layers)}"
            self.layers.append(make.conv2d(up, width, width, 3, padding=(1, 1), bias=False))
        self.layers.append(TinyBlock(ops, make, f"{name}.{len(self.layers)}", width))
        out = f"{name}.{len(self.layers)}"
        self.layers.append(make.conv2d(out, width, 3, 3, padding=(1, 1)))

    def __call__(self, latents: Any) -> Any:
        """Latents [B, h, w, 16] -> image [B, 8h, 8w, 3], about [-1, 1], not clamped."""
        x = latents
        for layer in self.layers:
            x = layer(x)
        return x * 2.0 - 1.0


class TinyBlock:
    """Three convolutions with ReLU, around a residual; positions in the file are 0, 2 and 4."""

    def __init__(self, ops: Ops, make: LeafFactory, name: str, width: int) -> None:
        self.ops = ops
        self.conv0, self.conv2, self.conv4 = (
            make.conv2d(f"{name}.conv.{i}", width, width, 3, padding=(1, 1)) for i in (0, 2, 4)
        )

    def __call__(self, x: Any) -> Any:
        """[B, H, W, C] -> the same."""
        h = self.ops.relu(self.conv0(x))
        h = self.ops.relu(self.conv2(h))
        return self.ops.relu(self.conv4(h) + x)


def taef1_config(names: Mapping[str, TensorInfo]) -> Taef1Config:
    """The configuration that the shapes of an encoder or a decoder tell.

    Args:
        names: By the models' names (flux_core.weights.synonyms.taef1_encoder_name, taef1_decoder_name).

    Raises:
        KeyError: The outermost convolution is missing.
    """
    side = "encoder" if "encoder.0.weight" in names else "decoder"
    own = [name for name in names if name.startswith(f"{side}.")]
    last = max(int(name.split(".")[1]) for name in own)
    latents = (
        names["decoder.1.weight"].shape[1] if side == "decoder" else names[f"encoder.{last}.weight"].shape[0]
    )
    width = names["decoder.1.weight" if side == "decoder" else "encoder.0.weight"].shape[0]
    num_blocks = sum(name.endswith(".conv.0.weight") for name in own) - 1  # one stands outside the levels
    return Taef1Config(width=width, latent_channels=latents, num_blocks=num_blocks // LEVELS)
