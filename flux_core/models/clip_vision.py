"""The CLIP vision tower with its projection (ViT-L/14), once for every backend: a picture as one vector.

The XLabs IP-Adapter reads that vector. A class token goes before the patches and only its state is used;
the first norm is called pre_layrnorm in every published file, and so it is here.

Source: Radford et al. 2021; transformers modeling_clip.py (key names).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flux_core.catalog import ClipVisionConfig
from flux_core.models.encoder_layer import EncoderLayer
from flux_core.ops import LeafFactory, Ops
from flux_core.weights.tensors import TensorInfo, count_blocks

LAYER_NORM_EPS = 1e-5


class ClipVision:
    """A picture to its projected state."""

    def __init__(self, ops: Ops, make: LeafFactory, config: ClipVisionConfig, name: str = "") -> None:
        width = config.hidden_size
        tower = f"{name}vision_model."
        self.ops = ops
        self.class_embedding = make.parameter(f"{tower}embeddings.class_embedding", (width,))
        self.patch_embedding = make.conv2d(
            f"{tower}embeddings.patch_embedding", 3, width, config.patch_px, config.patch_px, bias=False
        )
        self.position_embedding = make.parameter(
            f"{tower}embeddings.position_embedding.weight", (1 + config.num_patches, width)
        )
        self.pre_layernorm = make.layer_norm(f"{tower}pre_layrnorm", width, LAYER_NORM_EPS)
        self.layers = [
            EncoderLayer(
                ops,
                make,
                f"{tower}encoder.layers.{i}",
                config,
                activation=lambda x: ops.quick_gelu(x),
                eps=LAYER_NORM_EPS,
            )
            for i in range(config.num_layers)
        ]
        self.post_layernorm = make.layer_norm(f"{tower}post_layernorm", width, LAYER_NORM_EPS)
        self.visual_projection = make.linear(
            f"{name}visual_projection", width, config.projection_dim, bias=False
        )

    def __call__(self, image: Any) -> Any:
        """Image [B, image_px, image_px, 3], normalised by CLIP's constants -> vector [B, projection_dim]."""
        x = self.patch_embedding(image)  # [B, n, n, D]
        batch, rows, columns, width = x.shape
        first = self.ops.concat([self.class_embedding().reshape(1, 1, width)] * batch, axis=0)
        x = self.ops.concat([first, x.reshape(batch, rows * columns, width)], axis=1)  # [B, 1 + N, D]
        x = x + self.position_embedding()
        x = self.pre_layernorm(x)
        for layer in self.layers:
            x = layer(x)
        return self.visual_projection(self.post_layernorm(x[:, 0]))


def clip_vision_config(
    names: Mapping[str, TensorInfo], like: ClipVisionConfig | None = None
) -> ClipVisionConfig:
    """The configuration that a file's shapes tell.

    Args:
        names: By the model's names (flux_core.weights.synonyms.clip_vision_name).
        like: Gives the number of heads, which shapes do not tell.

    Raises:
        KeyError: A tensor that every CLIP vision tower has is missing.
    """
    width, _, patch_px, _ = names["vision_model.embeddings.patch_embedding.weight"].shape
    num_patches = names["vision_model.embeddings.position_embedding.weight"].shape[0] - 1
    return replace(
        like or ClipVisionConfig(),
        hidden_size=width,
        mlp_hidden=names["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_layers=count_blocks(names, "vision_model.encoder.layers."),
        image_px=math.isqrt(num_patches) * patch_px,
        patch_px=patch_px,
        projection_dim=names["visual_projection.weight"].shape[0],
    )
