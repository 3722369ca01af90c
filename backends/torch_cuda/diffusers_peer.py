"""diffusers' and transformers' own FLUX.1 of a row of the catalog: who we are measured against.

Built from the same sizes, and where wanted filled with the very weights that our engine reads. diffusers and
transformers are imported inside, because only measurements and tests have a use for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flux_core.catalog import AutoencoderConfig, ClipTextConfig, ModelSpec, T5Config, TransformerConfig
from flux_core.weights.diffusers_keys import (
    autoencoder_recipes,
    stacked_rows_of,
    to_diffusers,
    transformer_recipes,
)
from flux_core.weights.open import open_source

Weights = Mapping[str, NDArray[Any]]

_TOWERS = ("vision_model.", "text_model.")  # prefixes that newer transformers leave out


def transformer_settings(config: TransformerConfig) -> dict[str, Any]:
    """What a FluxTransformer2DModel of these sizes is made with, and its config.json says."""
    return {
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "patch_size": 1,
        "num_layers": config.depth,
        "num_single_layers": config.depth_single,
        "attention_head_dim": config.hidden_size // config.num_heads,
        "num_attention_heads": config.num_heads,
        "joint_attention_dim": config.context_in_dim,
        "pooled_projection_dim": config.vec_in_dim,
        "guidance_embeds": config.has_guidance,
        "axes_dims_rope": config.axes_dim,
    }


def transformer(config: TransformerConfig) -> Any:
    """A FluxTransformer2DModel with weights of its own."""
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    return FluxTransformer2DModel(**transformer_settings(config))


def autoencoder(config: AutoencoderConfig) -> Any:
    """An AutoencoderKL with weights of its own."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    levels = len(config.channel_multipliers)
    settings: dict[str, Any] = {
        "block_out_channels": tuple(config.channels * m for m in config.channel_multipliers),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.num_res_blocks,
        "norm_num_groups": config.norm_groups,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "shift_factor": config.shift,
        "scaling_factor": config.scale,
    }
    return AutoencoderKL(**settings)


def t5(config: T5Config) -> Any:
    """A T5EncoderModel with weights of its own."""
    from transformers import T5Config as PeerConfig
    from transformers import T5EncoderModel

    return T5EncoderModel(
        PeerConfig(
            vocab_size=config.vocab_size,
            d_model=config.d_model,
            d_kv=config.d_kv,
            d_ff=config.d_ff,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            relative_attention_num_buckets=config.num_buckets,
            relative_attention_max_distance=config.max_distance,
            feed_forward_proj="gated-gelu",
        )
    )


def clip(config: ClipTextConfig, end_id: int) -> Any:
    """A CLIPTextModel with weights of its own; its pooled state is that of the first `end_id`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.mlp_hidden,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            max_position_embeddings=config.max_positions,
            projection_dim=config.hidden_size,
            eos_token_id=end_id,
        )
    )


def filled(model: Any, weights: Weights) -> Any:
    """The peer with these weights, every one of its own, ready for inference."""
    if not set(model.state_dict()) & set(weights):
        prefix = next(tower for tower in _TOWERS if next(iter(weights)).startswith(tower))
        weights = {name.removeprefix(prefix): array for name, array in weights.items()}
    state = {name: torch.tensor(array) for name, array in weights.items()}
    model.load_state_dict(state, strict=True)
    return model.eval()


def filled_transformer(config: TransformerConfig, weights: Weights) -> Any:
    """A FluxTransformer2DModel with the weights of a single file."""
    theirs = to_diffusers(weights, transformer_recipes(config), stacked_rows_of(config))
    return filled(transformer(config), theirs)


def filled_autoencoder(config: AutoencoderConfig, weights: Weights) -> Any:
    """An AutoencoderKL with the weights of a single file."""
    return filled(autoencoder(config), to_diffusers(weights, autoencoder_recipes(config)))


def scheduler(spec: ModelSpec) -> Any:
    """The schedule that the model's row says."""
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(
        shift=1.0, use_dynamic_shifting=spec.has_time_shift, base_shift=0.5, max_shift=1.15
    )


def text_to_image(spec: ModelSpec, folder: Path) -> Any:
    """diffusers' FluxPipeline on the files that our engine reads, decoded to float32.

    Args:
        spec: With the files where flux_core.catalog.locate found them, each under the single file's names.
        folder: The model's own.
    """
    from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
    from transformers import AutoTokenizer, CLIPTokenizer

    files = spec.files
    words = CLIPTokenizer.from_pretrained(folder / files.clip_tokenizer, model_max_length=spec.clip_tokens)
    sentences = AutoTokenizer.from_pretrained(folder / files.t5_tokenizer)
    states = weights_of(folder / files.t5)
    states["encoder.embed_tokens.weight"] = states["shared.weight"]
    pipe: Any = FluxPipeline(
        scheduler=scheduler(spec),
        vae=filled_autoencoder(spec.autoencoder, weights_of(folder / files.autoencoder)),
        text_encoder=filled(clip(spec.clip, words.eos_token_id), weights_of(folder / files.clip)),
        tokenizer=words,
        text_encoder_2=filled(t5(spec.t5), states),
        tokenizer_2=sentences,
        transformer=filled_transformer(spec.transformer, weights_of(folder / files.transformer)),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def weights_of(path: Path) -> dict[str, NDArray[np.float32]]:
    """Everything in a file as float32, decoded where it is quantised."""
    source = open_source(path)
    return {name: source.read(name).to_numpy() for name in source.names()}
