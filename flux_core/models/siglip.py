"""The SigLIP vision tower (so400m, patch 14, 384 px), once for every backend: a picture as tokens.

Redux reads the states after the last norm; the attention pooling at the end is only built where it is
asked for. Key names are transformers' SiglipVisionModel, with the prefix `vision_model.`.

Source: Zhai et al. 2023; transformers modeling_siglip.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flux_core.catalog import SiglipConfig
from flux_core.models.encoder_layer import EncoderLayer
from flux_core.ops import LeafFactory, Ops
from flux_core.weights.tensors import TensorInfo, count_blocks

LAYER_NORM_EPS = 1e-6


class SiglipVision:
    """A picture to one state for each of its patches."""

    def __init__(
        self, ops: Ops, make: LeafFactory, config: SiglipConfig, name: str = "vision_model."
    ) -> None:
        width = config.hidden_size
        self.config = config
        self.patch_embedding = make.conv2d(
            f"{name}embeddings.patch_embedding", 3, width, config.patch_px, stride=config.patch_px
        )
        self.position_embedding = make.parameter(
            f"{name}embeddings.position_embedding.weight", (config.num_patches, width)
        )
        self.layers = [
            EncoderLayer(
                ops,
                make,
                f"{name}encoder.layers.{i}",
                config,
                activation=lambda x: ops.gelu_tanh(x),
                eps=LAYER_NORM_EPS,
            )
            for i in range(config.num_layers)
        ]
        self.post_layernorm = make.layer_norm(f"{name}post_layernorm", width, LAYER_NORM_EPS)
        self.head = PoolingHead(ops, make, f"{name}head", config) if config.has_head else None

    def __call__(self, image: Any) -> Any:
        """Image [B, image_px, image_px, 3] in [-1, 1] -> states [B, N, D], rows of patches first."""
        x = self.patch_embedding(image)  # [B, n, n, D]
        batch, rows, columns, width = x.shape
        x = x.reshape(batch, rows * columns, width) + self.position_embedding()
        for layer in self.layers:
            x = layer(x)
        return self.post_layernorm(x)

    def pool(self, states: Any) -> Any:
        """States [B, N, D] of a call -> the picture as one vector [B, D].

        Raises:
            ValueError: The configuration has no head.
        """
        if self.head is None:
            raise ValueError("this SigLIP was built without its pooling head")
        return self.head(states)


class PoolingHead:
    """One learnt query attends to all states, then an MLP (torch's MultiheadAttention in the file)."""

    def __init__(self, ops: Ops, make: LeafFactory, name: str, config: SiglipConfig) -> None:
        width = config.hidden_size
        self.ops = ops
        self.num_heads = config.num_heads
        self.head_dim = width // config.num_heads
        self.probe = make.parameter(f"{name}.probe", (1, 1, width))
        self.in_proj = make.linear(f"{name}.attention.in_proj", width, 3 * width)
        self.out_proj = make.linear(f"{name}.attention.out_proj", width, width)
        self.layernorm = make.layer_norm(f"{name}.layernorm", width, LAYER_NORM_EPS)
        self.fc1 = make.linear(f"{name}.mlp.fc1", width, config.mlp_hidden)
        self.fc2 = make.linear(f"{name}.mlp.fc2", config.mlp_hidden, width)

    def __call__(self, states: Any) -> Any:
        """[B, N, D] -> [B, D]."""
        ops = self.ops
        batch, length, width = states.shape
        # One fused projection in the file, but queries come from the probe and keys from the states.
        probes = ops.concat([self.probe()] * batch, axis=0)  # [B, 1, D]
        both = ops.concat([probes, states], axis=1)  # [B, 1 + N, D]
        q, k, v = (
            ops.transpose(part.reshape(batch, 1 + length, self.num_heads, self.head_dim), (0, 2, 1, 3))
            for part in ops.split(self.in_proj(both), [width] * 3, axis=2)
        )
        attn = ops.attention(q[:, :, :1], k[:, :, 1:], v[:, :, 1:], scale=self.head_dim**-0.5)
        x = self.out_proj(attn)  # [B, 1, D]
        return (x + self.fc2(ops.gelu_tanh(self.fc1(self.layernorm(x)))))[:, 0]


def siglip_config(names: Mapping[str, TensorInfo], like: SiglipConfig | None = None) -> SiglipConfig:
    """The configuration that a file's shapes tell.

    Args:
        names: By the model's names (flux_core.weights.synonyms.siglip_name).
        like: Gives what shapes do not tell, the number of heads and whether the pooling head is wanted.

    Raises:
        KeyError: A tensor that every SigLIP has is missing.
    """
    like = like or SiglipConfig()
    width, _, patch_px, _ = names["vision_model.embeddings.patch_embedding.weight"].shape
    side = math.isqrt(names["vision_model.embeddings.position_embedding.weight"].shape[0])
    image_px = like.image_px if like.image_px // patch_px == side else side * patch_px
    return replace(
        like,
        hidden_size=width,
        mlp_hidden=names["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_layers=count_blocks(names, "vision_model.encoder.layers."),
        image_px=image_px,
        patch_px=patch_px,
    )
