"""The CLIP text encoder, once for every backend: the whole prompt as one vector.

FLUX.1 uses only the state at the first end-of-text token, after the final norm and without the text
projection. Attention is causal and padding needs no mask, because it comes after the end.

Source: Radford et al. 2021; transformers modeling_clip.py (key names).
"""

from __future__ import annotations

from typing import Any

from flux_core.catalog import ClipTextConfig
from flux_core.models.encoder_layer import EncoderLayer
from flux_core.ops import LeafFactory, Ops

LAYER_NORM_EPS = 1e-5


class ClipText:
    """Token ids to the pooled state."""

    def __init__(
        self, ops: Ops, make: LeafFactory, config: ClipTextConfig, name: str = "text_model."
    ) -> None:
        self.ops = ops
        width = config.hidden_size
        self.token_embedding = make.embedding(f"{name}embeddings.token_embedding", config.vocab_size, width)
        self.position_embedding = make.embedding(
            f"{name}embeddings.position_embedding", config.max_positions, width
        )
        self.layers = [
            EncoderLayer(
                ops,
                make,
                f"{name}encoder.layers.{i}",
                config,
                activation=lambda x: ops.quick_gelu(
                    x
                ),  # a lambda, as there are no ops while shapes are counted
                eps=LAYER_NORM_EPS,
                is_causal=True,
            )
            for i in range(config.num_layers)
        ]
        self.final_layer_norm = make.layer_norm(f"{name}final_layer_norm", width, LAYER_NORM_EPS)

    def __call__(self, ids: Any, positions: Any, end: Any) -> Any:
        """Encodes.

        Args:
            ids: [B, L] token ids, padded.
            positions: [L] integers 0, 1, ... L-1.
            end: [B] index of the first end-of-text token.

        Returns:
            [B, hidden_size] pooled state.
        """
        x = self.token_embedding(ids) + self.position_embedding(positions)  # [B, L, D]
        for layer in self.layers:
            x = layer(x)
        return self.ops.take_rows(self.final_layer_norm(x), end)
