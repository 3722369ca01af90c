"""Tiny random helpers as real folders: transformers' own classes, safetensors, processors, tokenizers.

Each function writes one folder as its published model lies on the hub and returns the model in it, for
comparison. Sizes are the smallest that run; the weights are drawn from a seed.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import torch
import transformers as tf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from tests.support.peers import randomised

CLIP_WORDS = Path(__file__).parents[2] / "resources" / "models" / "tiny" / "tokenizer"
FLORENCE_SIDE_PX = 64
LLAVA_SIDE_PX = 28
PHI_SIDE_PX = 28
SAM_SIDE_PX = 128
DEPTH_PRO_SIDE_PX = 64


def clip(folder: Path, seed: int = 0) -> Any:
    """A CLIP of 28 px with the bundled model's words."""
    tokenizer = tf.CLIPTokenizer.from_pretrained(CLIP_WORDS)
    end = tokenizer.eos_token_id
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = tf.CLIPConfig(
        text_config={
            **layers,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 20,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": end,
            "pad_token_id": end,
        },
        vision_config={**layers, "image_size": 28, "patch_size": 14},
        projection_dim=16,
    )
    model = randomised(tf.CLIPModel(config), gain=1.0, seed=seed)
    size = {"shortest_edge": 28}
    pictures = tf.CLIPImageProcessorPil(size=size, crop_size={"height": 28, "width": 28})
    return _write(folder, model, tokenizer, pictures)


def florence2(folder: Path, seed: int = 0) -> Any:
    """A Florence-2 of 64 px; a thousand of its 1270 words are places, so it speaks of places."""
    places = [f"<loc_{step}>" for step in range(1000)]
    tokenizer = _words(
        ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], [*places, "<sep>", "<poly>", "</poly>", "<image>"]
    )
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = tf.Florence2Config(
        text_config={
            "model_type": "bart",
            "vocab_size": len(tokenizer),
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 64,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_bos_token_id": 0,
            "forced_eos_token_id": 2,
        },
        vision_config={
            "depths": (1, 1, 1, 1),
            "embed_dim": (8, 8, 16, 16),
            "num_heads": (2, 2, 2, 2),
            "num_groups": (2, 2, 2, 2),
            "window_size": 4,
            "projection_dim": 32,
        },
        image_token_id=image_token,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    model = randomised(tf.Florence2ForConditionalGeneration(config), gain=2.0, seed=seed)
    model.generation_config.no_repeat_ngram_size = 3
    model.generation_config.max_length = None
    side = {"height": FLORENCE_SIDE_PX, "width": FLORENCE_SIDE_PX}
    pictures = tf.CLIPImageProcessorPil(size=side, do_center_crop=False, image_seq_length=2 * 2 + 1)
    return _write(folder, model, tokenizer, pictures)


def llava(folder: Path, seed: int = 0) -> Any:
    """A LLaVA whose picture takes four tokens."""
    tokenizer = _words(["<unk>", "<s>", "</s>", "<pad>"], ["<image>"])
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = tf.LlavaConfig(
        vision_config={
            **layers,
            "model_type": "clip_vision_model",
            "image_size": LLAVA_SIDE_PX,
            "patch_size": 14,
            "projection_dim": 16,
        },
        text_config={
            **layers,
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 3,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    model = randomised(tf.LlavaForConditionalGeneration(config), gain=1.5, seed=seed)
    model.generation_config.bos_token_id, model.generation_config.eos_token_id = 1, 2
    model.generation_config.pad_token_id = 3
    crop = {"height": LLAVA_SIDE_PX, "width": LLAVA_SIDE_PX}
    pictures = tf.CLIPImageProcessorPil(size={"shortest_edge": LLAVA_SIDE_PX}, crop_size=crop)
    return _write(folder, model, tokenizer, pictures)


def phi4(folder: Path, seed: int = 0, has_adapter: bool = True) -> Any:
    """A Phi-4 multimodal of pieces of 28 px, with or without an adapter for pictures beside it."""
    image, audio = "<|endoftext10|>", "<|endoftext11|>"
    tokenizer = _words(
        ["<unk>", "<s>", "</s>", "<pad>"], [image, audio, "<|user|>", "<|end|>", "<|assistant|>"]
    )
    ids = tokenizer.convert_tokens_to_ids
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    config = tf.Phi4MultimodalConfig(
        **layers,
        num_hidden_layers=2,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        original_max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_id=[2, ids("<|end|>")],
        pad_token_id=3,
        vision_config={
            **layers,
            "num_hidden_layers": 2,
            "image_size": PHI_SIDE_PX,
            "crop_size": PHI_SIDE_PX,
            "patch_size": 7,
            "image_token_id": ids(image),
        },
        audio_config={
            **layers,
            "num_blocks": 2,
            "ext_pw_out_channel": 32,
            "depthwise_separable_out_channel": 32,
            "nemo_conv_channels": 16,
            "audio_token_id": ids(audio),
        },
    )
    model = randomised(tf.Phi4MultimodalForCausalLM(config), gain=1.5, seed=seed)
    model.generation_config.eos_token_id = [2, ids("<|end|>")]
    _write(folder, model, tokenizer)
    if not has_adapter:
        return model.eval()
    targets = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    names = "|".join(targets)
    plain = peft.LoraConfig(r=4, lora_alpha=8, target_modules=rf"model\.layers\..*\.({names})")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers in an older way
        peer = peft.get_peft_model(model, plain)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, weight in peer.named_parameters():
            if "lora_" in name:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    peer.save_pretrained(folder / "vision-lora")
    return peer.eval()


def sam2(folder: Path, seed: int = 0, model_type: str = "sam2", is_one_mask_fixed: bool = False) -> Any:
    """A Segment Anything 2 of 128 px; with "sam2_video", config.json says what the published one says.

    Asked for one mask, it gives the best of three if that one is unstable, unless `is_one_mask_fixed`.
    """
    grid = SAM_SIDE_PX // 4
    backbone = {
        "hidden_size": 8,
        "image_size": [SAM_SIDE_PX, SAM_SIDE_PX],
        "window_positional_embedding_background_size": [4, 4],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [8, 4, 4, 4],
        "global_attention_blocks": [3],
    }
    config = tf.Sam2Config(
        vision_config=tf.Sam2VisionConfig(
            backbone_config=tf.Sam2HieraDetConfig(**backbone),
            backbone_channel_list=[64, 32, 16, 8],
            backbone_feature_sizes=[[grid, grid], [grid // 2, grid // 2], [grid // 4, grid // 4]],
            fpn_hidden_size=32,
        ),
        prompt_encoder_config={"hidden_size": 32, "image_size": SAM_SIDE_PX, "mask_input_channels": 8},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 64,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
            "dynamic_multimask_via_stability": not is_one_mask_fixed,
        },
    )
    model = randomised(tf.Sam2Model(config), gain=1.0, seed=seed)
    _write(folder, model)
    settings = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    if model_type != "sam2":
        change_config(folder, model_type=model_type)
    return model


def depth_anything(folder: Path, seed: int = 0, **more: Any) -> Any:
    """A Depth Anything whose sides are multiples of 14 px, around 28."""
    backbone = tf.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = tf.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=8,
        **more,
    )
    model = randomised(tf.DepthAnythingForDepthEstimation(config), gain=1.0, seed=seed)
    pictures = tf.DPTImageProcessorPil(
        size={"height": 28, "width": 28}, ensure_multiple_of=14, keep_aspect_ratio=True
    )
    return _write(folder, model, pictures)


def depth_pro(folder: Path, seed: int = 0, use_fov_model: bool = True) -> Any:
    """A Depth Pro of 64 px, with or without the head for the field of view."""
    layers = {
        "model_type": "dinov2",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 4,
        "image_size": 16,
    }
    config = tf.DepthProConfig(
        patch_size=16,
        fusion_hidden_size=16,
        intermediate_hook_ids=[1, 0],
        intermediate_feature_dims=[16, 16],
        scaled_images_ratios=[0.25, 0.5, 1.0],
        scaled_images_overlap_ratios=[0.0, 0.5, 0.25],
        scaled_images_feature_dims=[16, 16, 16],
        merge_padding_value=1,
        use_fov_model=use_fov_model,
        image_model_config=dict(layers),
        patch_model_config=dict(layers),
        fov_model_config=dict(layers),
    )
    model = randomised(tf.DepthProForDepthEstimation(config), gain=1.0, seed=seed)
    _write(folder, model)
    side = {"height": DEPTH_PRO_SIDE_PX, "width": DEPTH_PRO_SIDE_PX}
    settings = {"size": side, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return model


def change_config(folder: Path, **values: Any) -> None:
    """Changes what config.json says."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _words(special: list[str], added: list[str]) -> Any:
    """A tokenizer of single bytes behind its special tokens, with more tokens added after them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: place for place, word in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in added if word != "<image>"])
    names = {"<s>": "bos_token", "</s>": "eos_token", "<pad>": "pad_token", "<unk>": "unk_token"}
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        extra_special_tokens={"image_token": "<image>"},
        **{names[word]: word for word in special if word in names},
    )


def _write(folder: Path, model: Any, *processors_: Any) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    for each in processors_:
        each.save_pretrained(folder)
    return model.eval()


def pixels(height: int, width: int, seed: int = 0) -> Any:
    """A picture [H, W, 4] uint8 of random blocks, opaque."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.randint(0, 256, (1, 3, 6, 6), generator=generator).float()
    smooth = torch.nn.functional.interpolate(rough, (height, width), mode="bilinear")[0]
    rgb = smooth.permute(1, 2, 0).round().to(torch.uint8)
    return torch.cat([rgb, torch.full((height, width, 1), 255, dtype=torch.uint8)], dim=-1).numpy()
