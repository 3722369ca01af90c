"""The CLIP text encoder, once for every backend: the whole prompt as one vector.

FLUX.1 uses only the state at the first end-of-text token, after the final norm and without the text
projection. Attention is causal and padding needs no mask, because it comes after the end.

Source: Radford et al. 2021; transformers modeling_clip.py (key names).
"""

from __future__ import annotations

from typing import Any

from flux_core.catalog import ClipTextConfig
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
            ClipLayer(ops, make, f"{name}encoder.layers.{i}", config) for i in range(config.num_layers)
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


class ClipLayer:
    """Pre-norm causal attention and pre-norm MLP with quick GELU."""

    def __init__(self, ops: Ops, make: LeafFactory, name: str, config: ClipTextConfig) -> None:
        width = config.hidden_size
        self.ops = ops
        self.num_heads = config.num_heads
        self.head_dim = width // config.num_heads
        self.layer_norm1 = make.layer_norm(f"{name}.layer_norm1", width, LAYER_NORM_EPS)
        self.q_proj = make.linear(f"{name}.self_attn.q_proj", width, width)
        self.k_proj = make.linear(f"{name}.self_attn.k_proj", width, width)
        self.v_proj = make.linear(f"{name}.self_attn.v_proj", width, width)
        self.out_proj = make.linear(f"{name}.self_attn.out_proj", width, width)
        self.layer_norm2 = make.layer_norm(f"{name}.layer_norm2", width, LAYER_NORM_EPS)
        self.fc1 = make.linear(f"{name}.mlp.fc1", width, config.mlp_hidden)
        self.fc2 = make.linear(f"{name}.mlp.fc2", config.mlp_hidden, width)

    def __call__(self, x: Any) -> Any:
        """x [B, L, D] -> x, updated."""
        ops = self.ops
        h = self.layer_norm1(x)
        batch, length, _ = h.shape
        q, k, v = (
            ops.transpose(f(h).reshape(batch, length, self.num_heads, self.head_dim), (0, 2, 1, 3))
            for f in (self.q_proj, self.k_proj, self.v_proj)
        )
        attn = ops.attention(q, k, v, scale=self.head_dim**-0.5, is_causal=True)
        x = x + self.out_proj(attn)
        return x + self.fc2(ops.quick_gelu(self.fc1(self.layer_norm2(x))))
