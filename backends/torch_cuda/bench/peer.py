"""The peer: diffusers' and transformers' own modules of the same sizes, with random weights on the device."""

from __future__ import annotations

from typing import Any

import torch

from backends.torch_cuda.bench.context import Bench
from flux_core.catalog import AutoencoderConfig, ModelSpec, TransformerConfig

NAME = "diffusers"


def transformer_numbers(config: TransformerConfig) -> dict[str, Any]:
    """What FluxTransformer2DModel calls them."""
    return {
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "num_layers": config.depth,
        "num_single_layers": config.depth_single,
        "attention_head_dim": config.hidden_size // config.num_heads,
        "num_attention_heads": config.num_heads,
        "joint_attention_dim": config.context_in_dim,
        "pooled_projection_dim": config.vec_in_dim,
        "guidance_embeds": config.has_guidance,
        "axes_dims_rope": config.axes_dim,
    }


def autoencoder_numbers(config: AutoencoderConfig) -> dict[str, Any]:
    """What AutoencoderKL calls them."""
    levels = len(config.channel_multipliers)
    return {
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


def transformer(bench: Bench, is_compiled: bool = False) -> Any:
    """FluxTransformer2DModel, on the device; its repeated blocks compiled if asked for."""
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    with _made_on(bench):
        model = FluxTransformer2DModel(**transformer_numbers(bench.sizes.spec.transformer))
    model.eval()
    if is_compiled:
        model.compile_repeated_blocks(fullgraph=True)
    return model


def transformer_inputs(bench: Bench) -> dict[str, Any]:
    """What one step of it is given."""
    sizes, config = bench.sizes, bench.sizes.spec.transformer
    side = sizes.side_px // 16

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=bench.device, dtype=bench.dtype)

    img_ids = torch.zeros(side, side, 3, device=bench.device, dtype=bench.dtype)
    img_ids[..., 1] = torch.arange(side)[:, None]
    img_ids[..., 2] = torch.arange(side)[None]
    return {
        "hidden_states": random(1, sizes.img_tokens, config.in_channels),
        "encoder_hidden_states": random(1, sizes.txt_tokens, config.context_in_dim),
        "pooled_projections": random(1, config.vec_in_dim),
        "timestep": torch.full((1,), 0.5, device=bench.device, dtype=bench.dtype),
        "img_ids": img_ids.reshape(-1, 3),
        "txt_ids": torch.zeros(sizes.txt_tokens, 3, device=bench.device, dtype=bench.dtype),
        "guidance": torch.full((1,), 3.5, device=bench.device) if config.has_guidance else None,
        "return_dict": False,
    }


def autoencoder(bench: Bench) -> Any:
    """AutoencoderKL."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    with _made_on(bench):
        return AutoencoderKL(**autoencoder_numbers(bench.sizes.spec.autoencoder)).eval()


def t5(bench: Bench) -> Any:
    """transformers' T5EncoderModel."""
    from transformers import T5Config, T5EncoderModel

    config = bench.sizes.spec.t5
    with _made_on(bench):
        return T5EncoderModel(
            T5Config(
                vocab_size=config.vocab_size,
                d_model=config.d_model,
                d_kv=config.d_kv,
                d_ff=config.d_ff,
                num_layers=config.num_layers,
                num_heads=config.num_heads,
                relative_attention_num_buckets=config.num_buckets,
                relative_attention_max_distance=config.max_distance,
                feed_forward_proj="gated-gelu",
                layer_norm_epsilon=1e-6,
                dropout_rate=0.0,
            )
        ).eval()


def clip(bench: Bench) -> Any:
    """transformers' CLIPTextModel."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = bench.sizes.spec.clip
    with _made_on(bench):
        return CLIPTextModel(
            CLIPTextConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.hidden_size,
                intermediate_size=config.mlp_hidden,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                max_position_embeddings=config.max_positions,
                projection_dim=config.hidden_size,
                bos_token_id=config.vocab_size - 2,
                eos_token_id=config.vocab_size - 1,
            )
        ).eval()


class Pictures:
    """diffusers' FluxPipeline with all its parts: token ids to a picture.

    Args:
        bench: The run.
        is_compiled: Whether the transformer's blocks are compiled.
    """

    def __init__(self, bench: Bench, is_compiled: bool) -> None:
        from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
        from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

        self._bench = bench
        self._t5 = t5(bench)
        self._clip = clip(bench)
        self._pipe: Any = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=autoencoder(bench),
            text_encoder=None,  # pyright: ignore[reportArgumentType]
            tokenizer=None,  # pyright: ignore[reportArgumentType]
            text_encoder_2=None,  # pyright: ignore[reportArgumentType]
            tokenizer_2=None,  # pyright: ignore[reportArgumentType]
            transformer=transformer(bench, is_compiled),
        )
        self._pipe.set_progress_bar_config(disable=True)

    def paint(self, num_steps: int, txt_tokens: int) -> Any:
        """One picture: both text encoders, the walk, the decoder, pixels on the host."""
        sizes, spec = self._bench.sizes, self._bench.sizes.spec
        with torch.inference_mode():
            states = self._t5(_ids(self._bench, spec.t5.vocab_size, txt_tokens))[0]
            pooled = self._clip(_ids(self._bench, spec.clip.vocab_size, spec.clip_tokens)).pooler_output
            return self._pipe(
                prompt_embeds=states,
                pooled_prompt_embeds=pooled,
                width=sizes.side_px,
                height=sizes.side_px,
                num_inference_steps=num_steps,
                guidance_scale=3.5,
                output_type="pil",
            ).images[0]


def random_ids(bench: Bench, spec: ModelSpec, length: int) -> torch.Tensor:
    """[1, length] ids that T5 knows."""
    return _ids(bench, spec.t5.vocab_size, length)


def _ids(bench: Bench, vocab_size: int, length: int) -> torch.Tensor:
    return torch.randint(3, vocab_size - 2, (1, length), device=bench.device)


class _made_on:  # noqa: N801 # a context manager, called like a function
    """Modules made inside are on the device and in its half precision from the start."""

    def __init__(self, bench: Bench) -> None:
        self._device = bench.device
        self._dtype = bench.dtype

    def __enter__(self) -> None:
        self._before = torch.get_default_dtype()
        torch.set_default_dtype(self._dtype)
        self._device.__enter__()

    def __exit__(self, *error: object) -> None:
        self._device.__exit__(*error)
        torch.set_default_dtype(self._before)
