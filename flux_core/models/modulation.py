"""What noise level, guidance and pooled text do to every block of the transformer: adaLN-Zero.

It depends on nothing else, so a walk's modulations can be computed for all its steps at once, before the
first of them, and their weights (27 % of FLUX.1) need not be there while it walks.

Source: black-forest-labs/flux modules/layers.py (architecture and names); Peebles & Xie 2022 (adaLN-Zero).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, NamedTuple

from flux_core.catalog import TransformerConfig
from flux_core.ops import LeafFactory, Ops

TIME_EMBEDDING_DIM = 256
_ROWS_DOUBLE, _ROWS_SINGLE = 12, 3
_MODULATION = re.compile(r"double_blocks\.\d+\.(?:img|txt)_mod\.lin$|single_blocks\.\d+\.modulation\.lin$")
_FINAL = re.compile(r"final_layer\.adaLN_modulation\.1$")


class Modulation(NamedTuple):
    """What one adaLN gives a sub-layer; each [B, 1, D]."""

    shift: Any
    scale: Any
    gate: Any


class DoubleModulation(NamedTuple):
    """Of a double block: before attention and before the MLP, for each stream."""

    img1: Modulation
    img2: Modulation
    txt1: Modulation
    txt2: Modulation


class Modulations(NamedTuple):
    """Of a whole model."""

    double: list[DoubleModulation]
    single: list[Modulation]
    final: list[Any]  # shift and scale, [B, 1, D]; empty where there is no final layer


class Modulator:
    """Noise level, guidance and pooled text -> the modulations of all blocks, as one array.

    Args:
        ops: The backend's operations.
        make: Gives leaves by checkpoint name.
        name: Prefix of every key, with its dot.
        config: Sizes.
        has_final: Whether the model has a final layer; a ControlNet has none.
    """

    def __init__(
        self, ops: Ops, make: LeafFactory, name: str, config: TransformerConfig, has_final: bool = True
    ) -> None:
        dim = config.hidden_size
        self.ops = ops
        self.config = config
        self.condition = Condition(ops, make, name, config)
        self.linears = [
            make.linear(f"{name}double_blocks.{i}.{stream}_mod.lin", dim, 6 * dim)
            for i in range(config.depth)
            for stream in ("img", "txt")
        ]
        self.linears += [
            make.linear(f"{name}single_blocks.{i}.modulation.lin", dim, 3 * dim)
            for i in range(config.depth_single)
        ]
        if has_final:
            self.linears.append(make.linear(f"{name}final_layer.adaLN_modulation.1", dim, 2 * dim))

    def __call__(self, vec: Any, sigma: Any, guidance: Any | None) -> Any:
        """Of every entry of a batch; B may be the steps of a walk.

        Args:
            vec: [B or 1, vec_in_dim] CLIP pooled state.
            sigma: [B] noise level in [0, 1].
            guidance: [B or 1] distilled guidance, raw; None without guidance_in.

        Returns:
            [B, M, D], for `cut`.
        """
        ops, dim = self.ops, self.config.hidden_size
        vec = ops.silu(self.condition(vec, sigma, guidance))
        batch = int(vec.shape[0])
        return ops.concat([linear(vec).reshape(batch, -1, dim) for linear in self.linears], axis=1)


def cut(ops: Ops, rows: Any, config: TransformerConfig) -> Modulations:
    """The modulations [B, M, D] of one evaluation, block by block; views where the backend has them."""
    parts = ops.split(rows, [1] * int(rows.shape[1]), axis=1)  # each [B, 1, D]
    at = _ROWS_DOUBLE * config.depth
    end = at + _ROWS_SINGLE * config.depth_single
    mods = [Modulation(*parts[i : i + 3]) for i in range(0, end, 3)]
    return Modulations(
        [DoubleModulation(*mods[4 * i : 4 * i + 4]) for i in range(config.depth)],
        mods[4 * config.depth :],
        parts[end:],
    )


def once_a_walk(layers: Collection[str]) -> list[str]:
    """Of all layers of a model, those that only make modulations, where the model is one that walks.

    A transformer's are made for all steps at once; those of a ControlNet, which has no final layer, at each.
    """
    if not any(_FINAL.search(layer) for layer in layers):
        return []
    return [layer for layer in layers if _MODULATION.search(layer)]


class Condition:
    """Noise level, guidance and pooled text as one vector, which modulates every block."""

    def __init__(self, ops: Ops, make: LeafFactory, name: str, config: TransformerConfig) -> None:
        dim = config.hidden_size
        self.ops = ops
        self.time_in = MlpEmbedder(ops, make, f"{name}time_in", TIME_EMBEDDING_DIM, dim)
        self.vector_in = MlpEmbedder(ops, make, f"{name}vector_in", config.vec_in_dim, dim)
        self.guidance_in = (
            MlpEmbedder(ops, make, f"{name}guidance_in", TIME_EMBEDDING_DIM, dim)
            if config.has_guidance
            else None
        )

    def __call__(self, vec: Any, sigma: Any, guidance: Any | None) -> Any:
        """vec [B or 1, vec_in_dim], sigma [B], guidance [B or 1] or None -> [B, D]."""
        ops = self.ops
        out = self.time_in(ops.cast_like(ops.sinusoid(sigma, TIME_EMBEDDING_DIM), vec))
        if self.guidance_in is not None:
            if guidance is None:
                raise ValueError("this model was distilled with guidance and needs a guidance value")
            out = out + self.guidance_in(ops.cast_like(ops.sinusoid(guidance, TIME_EMBEDDING_DIM), vec))
        return out + self.vector_in(vec)  # last, as BFL adds it: the order decides how bfloat16 rounds


class MlpEmbedder:
    """Linear, SiLU, Linear on a vector."""

    def __init__(self, ops: Ops, make: LeafFactory, name: str, in_dim: int, dim: int) -> None:
        self.ops = ops
        self.in_layer = make.linear(f"{name}.in_layer", in_dim, dim)
        self.out_layer = make.linear(f"{name}.out_layer", dim, dim)

    def __call__(self, x: Any) -> Any:
        return self.out_layer(self.ops.silu(self.in_layer(x)))
