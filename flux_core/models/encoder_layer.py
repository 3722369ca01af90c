"""The layer that CLIP's text and vision encoders and SigLIP share, once for every backend.

Attention and an MLP, each after a layer norm and around a residual; key names are transformers'. What
differs between the three is the activation, the eps and whether attention looks ahead.

Source: Vaswani et al. 2017 in the pre-norm form; transformers modeling_clip.py (key names).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from flux_core.ops import LeafFactory, Ops


class LayerSizes(Protocol):
    """What the layer reads of a configuration."""

    @property
    def hidden_size(self) -> int: ...

    @property
    def num_heads(self) -> int: ...

    @property
    def mlp_hidden(self) -> int: ...


class EncoderLayer:
    """Pre-norm attention and pre-norm MLP.

    Args:
        ops: The backend's operations.
        make: Gives leaves by checkpoint name.
        name: Prefix of its keys, without a dot.
        sizes: Its width, heads and hidden width.
        activation: Between the two linears of the MLP.
        eps: Of both layer norms.
        is_causal: Whether a token sees only those before it.
    """

    def __init__(
        self,
        ops: Ops,
        make: LeafFactory,
        name: str,
        sizes: LayerSizes,
        *,
        activation: Callable[[Any], Any],
        eps: float,
        is_causal: bool = False,
    ) -> None:
        width = sizes.hidden_size
        self.ops = ops
        self.activation = activation
        self.is_causal = is_causal
        self.num_heads = sizes.num_heads
        self.head_dim = width // sizes.num_heads
        self.layer_norm1 = make.layer_norm(f"{name}.layer_norm1", width, eps)
        self.q_proj = make.linear(f"{name}.self_attn.q_proj", width, width)
        self.k_proj = make.linear(f"{name}.self_attn.k_proj", width, width)
        self.v_proj = make.linear(f"{name}.self_attn.v_proj", width, width)
        self.out_proj = make.linear(f"{name}.self_attn.out_proj", width, width)
        self.layer_norm2 = make.layer_norm(f"{name}.layer_norm2", width, eps)
        self.fc1 = make.linear(f"{name}.mlp.fc1", width, sizes.mlp_hidden)
        self.fc2 = make.linear(f"{name}.mlp.fc2", sizes.mlp_hidden, width)

    def __call__(self, x: Any) -> Any:
        """x [B, L, D] -> x, updated."""
        ops = self.ops
        h = self.layer_norm1(x)
        batch, length, _ = h.shape
        q, k, v = (
            ops.transpose(f(h).reshape(batch, length, self.num_heads, self.head_dim), (0, 2, 1, 3))
            for f in (self.q_proj, self.k_proj, self.v_proj)
        )
        attn = ops.attention(q, k, v, scale=self.head_dim**-0.5, is_causal=self.is_causal)
        x = x + self.out_proj(attn)
        return x + self.fc2(self.activation(self.fc1(self.layer_norm2(x))))
