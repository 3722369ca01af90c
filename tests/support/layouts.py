"""Every layout in which published files hold a part of FLUX.1, written by the formats' own libraries.

`SPEC` is a whole model small enough to be loaded a hundred times; `weights_of` draws its tensors under
the single files' names, exact in bfloat16, so that every layout can hold the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from backends.torch_cuda.bench.peer import autoencoder_numbers, transformer_numbers
from flux_core.catalog import (
    DEV,
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
from flux_core.weights.diffusers_keys import Recipes, autoencoder_recipes, transformer_recipes
from flux_core.weights.expected import expected_shapes
from tests.support.numerics import random_weights, to_bf16

Tensors = dict[str, np.ndarray]
Writer = Callable[[Path, Tensors], str]
"""(folder, one part's tensors) -> path in the folder."""

SPEC = replace(
    DEV,
    model="small",
    transformer=TransformerConfig(
        hidden_size=32, num_heads=2, depth=2, depth_single=2, mlp_hidden=128, context_in_dim=24,
        vec_in_dim=24, axes_dim=(4, 6, 6),
    ),
    autoencoder=AutoencoderConfig(channels=8, channel_multipliers=(1, 2), num_res_blocks=1, norm_groups=4),
    t5=T5Config(vocab_size=50, d_model=24, num_heads=3, d_kv=8, d_ff=40, num_layers=2),
    clip=ClipTextConfig(
        vocab_size=50, hidden_size=24, num_heads=3, mlp_hidden=48, num_layers=1, max_positions=9
    ),
)  # fmt: skip


def weights_of(part: str, spec: ModelSpec = SPEC) -> Tensors:
    """Random tensors of "transformer", "autoencoder", "t5" or "clip"."""
    builds: dict[str, tuple[Callable[[Any, Any], Any], ...]] = {
        "transformer": (lambda ops, make: Transformer(ops, make, spec.transformer),),
        "autoencoder": (
            lambda ops, make: Encoder(ops, make, spec.autoencoder),
            lambda ops, make: Decoder(ops, make, spec.autoencoder),
        ),
        "t5": (lambda ops, make: T5Encoder(ops, make, spec.t5),),
        "clip": (lambda ops, make: ClipText(ops, make, spec.clip),),
    }
    return {name: to_bf16(array) for name, array in random_weights(expected_shapes(*builds[part])).items()}


def single(folder: Path, weights: Tensors) -> str:
    save_file(weights, folder / "single.safetensors")
    return "single.safetensors"


def single_in_bf16(folder: Path, weights: Tensors) -> str:
    tensors = {name: torch.tensor(array).to(torch.bfloat16) for name, array in weights.items()}
    save_torch(tensors, folder / "half.safetensors")
    return "half.safetensors"


def renamed(rename: Callable[[str], str]) -> Writer:
    return lambda folder, weights: single(folder, {rename(name): a for name, a in weights.items()})


def with_prefix(prefix: str) -> Writer:
    return renamed(lambda name: prefix + name)


def beside(extra: Mapping[str, np.ndarray]) -> Writer:
    """With tensors that the model has no use for."""
    return lambda folder, weights: single(folder, {**extra, **weights})


def numbered_shards(folder: Path, weights: Tensors) -> str:
    """As mflux saves them: 0.safetensors, 1.safetensors, and an index."""
    import json

    names = sorted(weights)
    parts = [names[0::2], names[1::2]]
    for number, part in enumerate(parts):
        save_file({name: weights[name] for name in part}, folder / f"{number}.safetensors")
    where = {name: f"{number}.safetensors" for number, part in enumerate(parts) for name in part}
    index = {"metadata": {"quantization_level": "None", "mflux_version": "0.9"}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return "."


def numbered_shards_without_index(folder: Path, weights: Tensors) -> str:
    numbered_shards(folder, weights)
    (folder / "model.safetensors.index.json").unlink()
    return "."


def gguf_file(
    rename: Callable[[str], str] = lambda name: name, architecture: str = "flux", in_bf16: bool = False
) -> Writer:
    """By llama.cpp's writer; city96's converter gives the published names and no prefix."""

    def write(folder: Path, weights: Tensors) -> str:
        writer = gguf.GGUFWriter(folder / "part.gguf", architecture)
        writer.add_quantization_version(2)
        for name, array in weights.items():
            if in_bf16 and array.ndim > 1:
                words = (array.view(np.uint32) >> 16).astype(np.uint16)
                writer.add_tensor(
                    rename(name), words.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16
                )
            else:
                writer.add_tensor(rename(name), array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return "part.gguf"

    return write


def t5_name_in_gguf(name: str) -> str:
    """llama.cpp's own table of names."""
    blocks = SPEC.t5.num_layers
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, blocks)
    new = table.get_name(name, try_suffixes=(".weight",))
    assert new is not None, name
    return new


def as_diffusers(weights: Tensors, recipes: Recipes, widths: Mapping[int, list[int]]) -> Tensors:
    """A part's tensors cut and named as diffusers does.

    Args:
        weights: By the single file's names.
        recipes: Of the part.
        widths: Number of pieces -> their rows.
    """
    theirs: Tensors = {}
    for name, recipe in recipes.items():
        array = weights[name]
        if recipe.is_swapped:
            array = np.roll(array, len(array) // 2, axis=0)
        if recipe.is_pointwise:
            array = array[:, :, 0, 0]
        rows = widths.get(len(recipe.parts), [len(array)])
        pieces = np.split(array, np.cumsum(rows)[:-1])
        theirs |= dict(zip(recipe.parts, pieces, strict=True))
    return theirs


def transformer_as_diffusers(weights: Tensors, spec: ModelSpec = SPEC) -> Tensors:
    hidden = spec.transformer.hidden_size
    widths = {3: [hidden] * 3, 4: [hidden] * 3 + [spec.transformer.mlp_hidden]}
    return as_diffusers(weights, transformer_recipes(spec.transformer), widths)


def diffusers_transformer(spec: ModelSpec = SPEC, shard_size: str = "20KB") -> Writer:
    """The folder that diffusers saves, in shards."""

    def write(folder: Path, weights: Tensors) -> str:
        theirs = transformer_as_diffusers(weights, spec)
        return _saved(folder / "transformer", peer_transformer(spec), theirs, shard_size)

    return write


def peer_transformer(spec: ModelSpec) -> Any:
    """Diffusers' own, with other weights."""
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(**transformer_numbers(spec.transformer))


def diffusers_autoencoder(folder: Path, weights: Tensors) -> str:
    theirs = as_diffusers(weights, autoencoder_recipes(SPEC.autoencoder), {})
    return _saved(folder / "vae", peer_autoencoder(SPEC), theirs, "10GB")


def peer_autoencoder(spec: ModelSpec) -> Any:
    """Diffusers' own, with other weights."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**autoencoder_numbers(spec.autoencoder))


def transformers_t5(folder: Path, weights: Tensors) -> str:
    """The two-shard folder of the published model, in small."""
    from transformers import T5Config as PeerConfig
    from transformers import T5EncoderModel

    config = SPEC.t5
    model = T5EncoderModel(
        PeerConfig(
            vocab_size=config.vocab_size,
            d_model=config.d_model,
            d_kv=config.d_kv,
            d_ff=config.d_ff,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            feed_forward_proj="gated-gelu",
        )
    )
    copies = {**weights, "encoder.embed_tokens.weight": weights["shared.weight"]}
    _saved(folder / "text_encoder_2", model, copies, "20KB")
    return "text_encoder_2/model.safetensors"  # not there: its index is


def transformers_clip(folder: Path, weights: Tensors) -> str:
    from transformers import CLIPTextConfig as PeerConfig
    from transformers import CLIPTextModel

    config = SPEC.clip
    model = CLIPTextModel(
        PeerConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.mlp_hidden,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            max_position_embeddings=config.max_positions,
        )
    )
    bare = any(name.startswith("encoder.") for name in model.state_dict())
    theirs = {name.removeprefix("text_model.") if bare else name: a for name, a in weights.items()}
    return _saved(folder / "text_encoder", model, theirs, "10GB")


def _saved(folder: Path, model: Any, weights: Tensors, shard_size: str) -> str:
    state = {name: torch.tensor(array) for name, array in weights.items()}
    kept = {name: state[name] for name in model.state_dict() if name in state}
    model.load_state_dict(kept, strict=True)
    model.save_pretrained(folder, max_shard_size=shard_size)
    return folder.name


def all_in_one(mine: str) -> Writer:
    """One checkpoint for everything, as ComfyUI saves it; the other parts are drawn anew."""
    prefixes = {
        "transformer": "model.diffusion_model.",
        "autoencoder": "vae.",
        "clip": "text_encoders.clip_l.transformer.",
        "t5": "text_encoders.t5xxl.transformer.",
    }

    def write(folder: Path, weights: Tensors) -> str:
        whole: Tensors = {"text_encoders.clip_l.logit_scale": np.ones((), np.float32)}
        for part, prefix in prefixes.items():
            tensors = weights if part == mine else weights_of(part)
            whole |= {prefix + name: array for name, array in tensors.items()}
        return single(folder, whole)

    return write
