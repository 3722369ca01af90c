"""Files of other families, known by a name that only they have, so that the refusal can say what it is.

Each rule is a test and a sentence's end; the first that holds refuses. Text encoders that look like
FLUX.1's but are not (T5 v1.0, other vocabularies, CLIP-G and CLIP-H) stand here, too.

Source: key conventions of the published files of each family.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

from flux_core.errors import RequestInvalid
from flux_core.weights.layout import Names

Rule = tuple[Callable[[Names], bool], str]

_T5_WORDS = 32128
_UNCHAINED_WORDS = 69328


def refuse_foreign(tensors: Names, what: str) -> None:
    """Refuses a file that is known and of no use.

    Raises:
        RequestInvalid: It belongs to another family; the sentence names it.
    """
    for holds, name in _RULES:
        if holds(tensors):
            raise RequestInvalid(
                f"{PurePath(what).name} is {name}.", "Flowbrush runs FLUX.1 and its parts only."
            )


def _part(*parts: str) -> Callable[[Names], bool]:
    return lambda tensors: any(tensors.has_part(part) for part in parts)


def _all_parts(*parts: str) -> Callable[[Names], bool]:
    return lambda tensors: all(tensors.has_part(part) for part in parts)


def _is_sd3_diffusers(tensors: Names) -> bool:
    return (
        tensors.has_part("transformer_blocks.0.attn.add_k_proj")
        and tensors.has_part("pos_embed.proj")
        and not tensors.has_part("controlnet_")
    )


def _latent_channels(tensors: Names) -> int:
    """Channels that an autoencoder's decoder takes; 0 if it is none."""
    for prefix in ("", "vae.", "first_stage_model."):
        if info := tensors.get(f"{prefix}decoder.conv_in.weight"):
            return info.shape[1] if len(info.shape) == 4 else 0
    return 0


def _taesd_channels(tensors: Names) -> int:
    """Latent channels of a small autoencoder's decoder; 0 if it is none."""
    for name in ("decoder.layers.0.weight", "decoder.1.weight", "taesd_decoder.1.weight"):
        if info := tensors.get(name):
            return info.shape[1] if len(info.shape) == 4 else 0
    return 0


def _embedding(tensors: Names, *ends: str) -> tuple[int, ...]:
    """Shape of the embedding whose name ends so; () if there is none."""
    for name in tensors:
        if name.endswith(ends):
            return tensors.logical_shape(name) or ()
    return ()


def _t5_words(tensors: Names) -> int:
    if not tensors.has_part("SelfAttention."):
        return 0
    shape = _embedding(tensors, "shared.weight", "encoder.embed_tokens.weight")
    return shape[0] if len(shape) == 2 else 0


def _clip_width(tensors: Names) -> int:
    shape = _embedding(tensors, "embeddings.token_embedding.weight")
    return shape[1] if len(shape) == 2 else 0


def _vision_width(tensors: Names) -> int:
    if not tensors.has_part("embeddings.class_embedding"):
        return 0
    shape = _embedding(tensors, "embeddings.patch_embedding.weight")
    return shape[0] if shape else 0


_RULES: tuple[Rule, ...] = (
    (_part("single_stream_modulation.", "double_stream_modulation_img."), "a FLUX.2 model"),
    (_part("distilled_guidance_layer."), "a Chroma model"),
    (_part("individual_token_refiner"), "a HunyuanVideo model"),
    (_part("transformer_blocks.0.img_mlp.", "transformer_blocks.0.img_mod."), "a Qwen-Image model"),
    (_all_parts("blocks.0.self_attn.", "blocks.0.cross_attn."), "a Wan model"),
    (_part("cap_embedder."), "a Lumina or Z-Image model"),
    (_part("conditioner.embedders."), "a Stable Diffusion XL checkpoint"),
    (_part("cond_stage_model.model."), "a Stable Diffusion 2 checkpoint"),
    (_part("cond_stage_model.transformer."), "a Stable Diffusion 1 checkpoint"),
    (_part("joint_blocks.0.", "lora_unet_joint_blocks_"), "a Stable Diffusion 3 model"),
    (_part("pos_embed_input.proj."), "a ControlNet for Stable Diffusion 3"),
    (_is_sd3_diffusers, "a Stable Diffusion 3 model"),
    (_all_parts("input_blocks.", "label_emb."), "a Stable Diffusion XL model"),
    (_all_parts("down_blocks.", "add_embedding.linear_1."), "a Stable Diffusion XL model"),
    (_part("input_blocks.0."), "a Stable Diffusion 1 or 2 model"),
    (_all_parts("down_blocks.", "time_embedding.linear_1."), "a Stable Diffusion 1 or 2 model"),
    (
        _part("lora_unet_down_blocks_", "lora_unet_input_blocks_", "unet.down_blocks."),
        "a LoRA for Stable Diffusion",
    ),
    (lambda tensors: _latent_channels(tensors) == 4, "an autoencoder of Stable Diffusion 1, 2 or XL"),
    (lambda tensors: _taesd_channels(tensors) == 4, "the small autoencoder of Stable Diffusion (TAESD)"),
    (lambda tensors: _latent_channels(tensors) == 32, "an autoencoder of FLUX.2"),
    (_part("DenseReluDense.wi.weight"), "a T5 of version 1.0, where FLUX.1 needs T5 v1.1 XXL"),
    (
        lambda tensors: _t5_words(tensors) == _UNCHAINED_WORDS,
        'an "unchained" T5 with 69,328 words, where FLUX.1\'s tokenizer knows 32,128',
    ),
    (
        lambda tensors: _t5_words(tensors) > _T5_WORDS,
        "a T5 with another vocabulary (UMT5 or a multilingual one), where FLUX.1 needs T5 v1.1 XXL",
    ),
    (lambda tensors: _clip_width(tensors) == 1280, "the text encoder CLIP-G, where FLUX.1 needs CLIP-L"),
    (lambda tensors: _clip_width(tensors) == 1024, "the text encoder CLIP-H, where FLUX.1 needs CLIP-L"),
    (_part("transformer.resblocks.31."), "CLIP-G in OpenCLIP's names, where FLUX.1 needs CLIP-L"),
    (_part("transformer.resblocks.23."), "CLIP-H in OpenCLIP's names, where FLUX.1 needs CLIP-L"),
    (lambda tensors: _vision_width(tensors) == 1280, "the picture encoder CLIP-H, which FLUX.1 does not use"),
    (lambda tensors: _vision_width(tensors) == 1664, "the picture encoder CLIP-G, which FLUX.1 does not use"),
)
