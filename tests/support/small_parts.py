"""The components of a FLUX.1 that is small and still divides into every scheme's blocks.

Each part knows how to build itself and what to be called with, so that one test can hold every format
against every backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from flux_core.catalog import AutoencoderConfig, ClipTextConfig, T5Config, TransformerConfig
from flux_core.conditioning.packing import position_ids, rotary_table
from flux_core.models.autoencoder import Decoder, Encoder
from flux_core.models.clip import ClipText
from flux_core.models.t5 import T5Encoder, relative_buckets
from flux_core.models.transformer import Transformer
from flux_core.request import Precision
from flux_core.weights.diffusers_keys import autoencoder_recipes, transformer_recipes
from flux_core.weights.expected import Build, Shape, expected_shapes
from flux_core.weights.tensors import TensorSource
from tests.support.numerics import random_weights
from tests.support.quantised_files import Part

TRANSFORMER = TransformerConfig(
    hidden_size=256,
    num_heads=2,
    depth=1,
    depth_single=1,
    mlp_hidden=512,
    context_in_dim=256,
    vec_in_dim=256,
)
AUTOENCODER = AutoencoderConfig(channels=16, channel_multipliers=(1, 4), num_res_blocks=1, norm_groups=8)
T5 = T5Config(vocab_size=64, d_model=256, num_heads=4, d_kv=64, d_ff=512, num_layers=2)
CLIP = ClipTextConfig(
    vocab_size=64, hidden_size=256, num_heads=4, mlp_hidden=512, num_layers=1, max_positions=9
)
PREFIXES = {
    "transformer": "model.diffusion_model.",
    "autoencoder": "vae.",
    "t5": "text_encoders.t5xxl.transformer.",
    "clip": "text_encoders.clip_l.transformer.",
}


@dataclass(frozen=True)
class Model:
    """How a part is built and called.

    Attributes:
        builds: Every model that the part's file holds; the last is the one that is called.
        inputs: What it is called with.
    """

    builds: tuple[Build, ...]
    inputs: tuple[np.ndarray, ...]

    def run(self, backend: Any, source: TensorSource) -> np.ndarray:
        """The part's output in float32 (float64 from the oracle)."""
        with backend.session():
            model = self.builds[-1](backend.ops, backend.leaves(source, Precision.FP32))
            return backend.to_numpy(model(*map(backend.from_numpy, self.inputs)))

    def shapes(self) -> dict[str, Shape]:
        return expected_shapes(*self.builds)


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(list(shape)).standard_normal(shape, dtype=np.float32)


def _builds(*parts: tuple[Callable[..., Any], Any]) -> tuple[Build, ...]:
    return tuple(lambda ops, make, cls=cls, config=config: cls(ops, make, config) for cls, config in parts)


MODELS: dict[str, Model] = {
    "transformer": Model(
        _builds((Transformer, TRANSFORMER)),
        (
            _normal(1, 6, 64),
            _normal(1, 3, 256),
            _normal(1, 256),
            np.array([0.25], np.float32),
            np.array([0.5], np.float32),
            rotary_table(position_ids(3, 4, 6), TRANSFORMER.axes_dim, TRANSFORMER.theta),
        ),
    ),
    "autoencoder": Model(
        _builds((Encoder, AUTOENCODER), (Decoder, AUTOENCODER)), (0.3 * _normal(1, 4, 6, 16),)
    ),
    "t5": Model(_builds((T5Encoder, T5)), (np.array([[5, 7, 63, 0, 1]], np.int32), relative_buckets(5, T5))),
    "clip": Model(
        _builds((ClipText, CLIP)),
        (np.array([[62, 4, 9, 63]], np.int32), np.arange(4, dtype=np.int32), np.array([3], np.int32)),
    ),
}
RECIPES = {"transformer": transformer_recipes(TRANSFORMER), "autoencoder": autoencoder_recipes(AUTOENCODER)}


def make_part(name: str, seed: int = 0) -> Part:
    """Random weights of one part."""
    return Part(name, random_weights(MODELS[name].shapes(), seed), PREFIXES[name], RECIPES.get(name))
