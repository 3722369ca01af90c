"""Headers that lie are recognised or refused like any other: never another error, never much memory."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flux_core.errors import RequestInvalid
from flux_core.weights.detect import describe, detect, num_parameters
from flux_core.weights.tensors import TensorInfo

EXAMPLES = int(os.environ.get("FLOWBRUSH_FUZZ_EXAMPLES", "200"))

FRAGMENTS = (
    "double_blocks.0.", "double_blocks.99999999.", "single_blocks.3.", "transformer_blocks.0.",
    "img_in.weight", "img_in.bias", "x_embedder.weight", "x_embedder.scales", "model.diffusion_model.",
    "vae.", "weight", "bias", "text_encoders.t5xxl.transformer.", "shared.weight",
    "encoder.block.0.layer.0.SelfAttention.q.", "t5_blocks.0.", "text_model.",
    "embeddings.token_embedding.weight", "encoder.layers.0.", "vision_model.", "enc.blk.0.",
    "embeddings.patch_embedding.weight", "embeddings.class_embedding", "decoder.conv_in.weight",
    ".conv2d.", "controlnet_x_embedder.", "input_hint_block.0.", "controlnet_mode_embedder.weight",
    "redux_up.weight", "redux_down.weight", "ip_adapter_proj_model.proj.weight",
    "ip_adapter_double_stream_k_proj.weight", ".lora_A.", "lora_unet_", "lora_te1_text_model_",
    ".lora_up.weight", ".absmax", ".quant_state.bitsandbytes__nf4", ".scales", ".biases",
    ".weight_scale_2", "scaled_fp8", ".comfy_quant", "decoder.layers.0.conv.0.", "token_embd.weight",
    ".", "", "\U0001f5bc", "guidance_in.",
)  # fmt: skip

NAMES = st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=4).map("".join)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 64, 128, 3072, 32128, 2**40]), max_size=4).map(tuple)
INFOS = st.builds(TensorInfo, st.sampled_from(["BF16", "U8", "U32", "F8_E4M3", "Q4_K", "?"]), SHAPES)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, INFOS, max_size=12), st.text(max_size=40))
def test_any_header_is_recognised_or_refused(names: dict[str, TensorInfo], what: str) -> None:
    assert num_parameters(names) >= 0
    try:
        said = list(describe(detect(names, what)))
    except RequestInvalid as err:
        said = [err.message]
    assert all(line.endswith(".") and len(line) < 1000 for line in said)
