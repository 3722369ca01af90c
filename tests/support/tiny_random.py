"""Complete model folders in the true layout, with weights drawn at random.

They paint nothing a person would want, but everything that handles files, memory, steps and pixels
behaves as with trained weights. MICRO is a model small enough to be run hundreds of times.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from flux_core.catalog import (
    TINY,
    AutoencoderConfig,
    ClipTextConfig,
    ModelSpec,
    T5Config,
    TransformerConfig,
)
from flux_core.models.autoencoder import Decoder, Encoder
from flux_core.models.clip import ClipText
from flux_core.models.t5 import T5Encoder
from flux_core.models.transformer import Transformer
from flux_core.sampling import preview
from flux_core.weights.expected import Build, Shape, expected_shapes

BUNDLED = Path(__file__).parents[2] / "resources" / "models" / "tiny"
Tensors = dict[str, np.ndarray]

MICRO = replace(
    TINY,
    model="micro",
    title="Micro FLUX",
    redux="",
    fast_decoder="",
    control_loras=(),
    max_side_px=256,
    transformer=TransformerConfig(
        hidden_size=32,
        num_heads=2,
        depth=1,
        depth_single=1,
        mlp_hidden=64,
        context_in_dim=32,
        vec_in_dim=32,
        axes_dim=(4, 6, 6),
    ),
    autoencoder=AutoencoderConfig(channels=8, norm_groups=4),
    t5=T5Config(vocab_size=2048, d_model=32, num_heads=2, d_kv=16, d_ff=64, num_layers=1),
    clip=ClipTextConfig(vocab_size=2048, hidden_size=32, num_heads=2, mlp_hidden=64, num_layers=1),
)
"""Not in the catalog: a test that wants it puts it there."""


def write_models_dir(base: Path, spec: ModelSpec, seed: int = 0) -> Path:
    """Writes `base`/<model>/... with the bundled tokenizers; returns `base`, for an engine's models_dirs."""
    folder = base / spec.model
    random = np.random.default_rng(seed)
    for name, builds in _files(spec).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: draw(key, shape, random) for key, shape in expected_shapes(*builds).items()}, path)
    for name in (spec.files.clip_tokenizer, spec.files.t5_tokenizer):
        shutil.copytree(BUNDLED / name, folder / name, dirs_exist_ok=True)
    preview.write(folder, random.normal(0, 0.1, (spec.autoencoder.latent_channels + 1, 3)).astype(np.float32))
    return base


def rewrite(path: Path, change: Callable[[Tensors], Tensors]) -> None:
    """Puts changed tensors into a safetensors file."""
    save_file(change(load_file(path)), path)


def draw(name: str, shape: Shape, random: np.random.Generator) -> np.ndarray:
    """Values that keep activations near one: matrices by their inputs, norms about one, biases small."""
    if len(shape) == 1:
        centre = 0.0 if name.endswith("bias") else 1.0
        return (centre + 0.02 * random.standard_normal(shape)).astype(np.float32)
    deviation = 0.1 if "embed" in name or "shared" in name else float(np.prod(shape[1:])) ** -0.5
    return (deviation * random.standard_normal(shape)).astype(np.float32)


def _files(spec: ModelSpec) -> dict[str, tuple[Build, ...]]:
    def part(cls: Any, config: Any) -> Build:
        return lambda ops, make: cls(ops, make, config)

    return {
        spec.files.transformer: (part(Transformer, spec.transformer),),
        spec.files.autoencoder: (part(Encoder, spec.autoencoder), part(Decoder, spec.autoencoder)),
        spec.files.t5: (part(T5Encoder, spec.t5),),
        spec.files.clip: (part(ClipText, spec.clip),),
    }
