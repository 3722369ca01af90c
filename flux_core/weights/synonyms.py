"""Published files name the same tensor in a few ways; this gives each the name the model asks for.

One small function a component: prefixes of all-in-one files, renamed norms, tensors that are copies of
others or that FLUX.1 never reads. A name that no rule knows passes unchanged, for the strict check to name.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from flux_core.weights.tensors import RenamedSource, TensorSource

Rename = Callable[[str], str | None]
"""A file's name -> the model's name, or None for a tensor that the model has no use for."""

_NORM_WEIGHT = re.compile(r"((?:query|key)_norm)\.weight$")
_CLIP_UNUSED = re.compile(
    r"(?:text_model\.)?embeddings\.position_ids|text_projection(?:\.weight)?|logit_scale"
    r"|vision_model\..*|visual_projection\.weight"
)
_CLIP_BARE = re.compile(r"(?:embeddings|encoder|final_layer_norm)\.")
_VISION_UNUSED = re.compile(
    r"text_model\..*|(?:vision_model\.)?embeddings\.position_ids|text_projection(?:\.weight)?|logit_(?:scale|bias)"
)
_VISION_BARE = re.compile(r"(?:embeddings|encoder|pre_layrnorm|post_layernorm|head)\.")
_TAEF1 = re.compile(r"(?:(?:taesd_)?(encoder|decoder)\.)?(layers\.)?(\d+)\.(.+)")
_IP_PROCESSOR = re.compile(r"ip_adapter\.(\d+)\.to_([kv])_ip\.")
_T5_UNUSED = re.compile(r"decoder\..*|lm_head\..*|dec\..*|output\.weight")
_T5_GGUF_BLOCK = re.compile(r"enc\.blk\.(\d+)\.(\w+)\.weight")
_T5_GGUF = {
    "token_embd.weight": "shared.weight",
    "enc.output_norm.weight": "encoder.final_layer_norm.weight",
}
_T5_GGUF_LAYERS = {
    **{f"attn_{letter}": f"layer.0.SelfAttention.{letter}" for letter in "qkvo"},
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
    "attn_norm": "layer.0.layer_norm",
    "ffn_gate": "layer.1.DenseReluDense.wi_0",
    "ffn_up": "layer.1.DenseReluDense.wi_1",
    "ffn_down": "layer.1.DenseReluDense.wo",
    "ffn_norm": "layer.1.layer_norm",
}


def transformer_name(name: str) -> str | None:
    """Without the all-in-one prefix; norms called scale."""
    return _NORM_WEIGHT.sub(r"\1.scale", name.removeprefix("model.diffusion_model."))


def autoencoder_name(name: str) -> str | None:
    """Unchanged: one spelling is known."""
    return name


def t5_name(name: str) -> str | None:
    """The input embedding by its shared name; llama.cpp's names in full; without a decoder.

    Source: llama.cpp gguf-py tensor_mapping.py.
    """
    if _T5_UNUSED.fullmatch(name):
        return None
    block = _T5_GGUF_BLOCK.fullmatch(name)
    if block is not None and block[2] in _T5_GGUF_LAYERS:
        return f"encoder.block.{block[1]}.{_T5_GGUF_LAYERS[block[2]]}.weight"
    return "shared.weight" if name == "encoder.embed_tokens.weight" else _T5_GGUF.get(name, name)


def clip_name(name: str) -> str | None:
    """With the prefix that transformers 5 leaves out; without what only whole CLIP needs."""
    if _CLIP_UNUSED.fullmatch(name):
        return None
    return f"text_model.{name}" if _CLIP_BARE.match(name) else name


def siglip_name(name: str) -> str | None:
    """With the prefix that transformers 5 leaves out; without the text tower of whole SigLIP."""
    if _VISION_UNUSED.fullmatch(name):
        return None
    name = f"vision_model.{name}" if _VISION_BARE.match(name) else name
    return name.replace("attention.in_proj_", "attention.in_proj.")


def siglip_states_name(name: str) -> str | None:
    """As siglip_name, but without the pooling head."""
    new = siglip_name(name)
    return None if new is None or new.startswith("vision_model.head.") else new


def clip_vision_name(name: str) -> str | None:
    """With the prefix that transformers 5 leaves out; without the text tower of whole CLIP."""
    if _VISION_UNUSED.fullmatch(name):
        return None
    return f"vision_model.{name}" if _VISION_BARE.match(name) else name


def redux_name(name: str) -> str | None:
    """Unchanged: one spelling is known."""
    return name


def taef1_encoder_name(name: str) -> str | None:
    """By position in the original Sequential, behind `encoder.`; without the decoder."""
    return _taef1_name(name, "encoder", shift=0)


def taef1_decoder_name(name: str) -> str | None:
    """By position in the original Sequential, behind `decoder.`; without the encoder.

    Diffusers leaves the clamp at position 0 out and counts from the first convolution.
    """
    return _taef1_name(name, "decoder", shift=1)


def controlnet_name(name: str) -> str | None:
    """Of a file with BFL's names, as XLabs publishes them: norms called scale."""
    return transformer_name(name)


def ip_adapter_name(name: str) -> str | None:
    """By XLabs' names; diffusers' pipelines write shorter ones."""
    name = re.sub(r"^image_proj\.", "ip_adapter_proj_model.", name)
    return _IP_PROCESSOR.sub(r"double_blocks.\1.processor.ip_adapter_double_stream_\2_proj.", name)


def _taef1_name(name: str, side: str, shift: int) -> str | None:
    match = _TAEF1.fullmatch(name)
    if match is None:
        return name
    found_side, layers, position, rest = match.groups()
    if found_side not in (None, side):
        return None
    return f"{side}.{int(position) + (shift if layers else 0)}.{rest}"


def canonical(source: TensorSource, rename: Rename) -> TensorSource:
    """The source under the model's names.

    Where several tensors come to the same name (T5's embedding is stored twice by some), the one that
    already had it wins, else the first.
    """
    original: dict[str, str] = {}
    for name in source.names():
        new = rename(name)
        if new is not None and (new not in original or new == name):
            original[new] = name
    return RenamedSource(source, original)
