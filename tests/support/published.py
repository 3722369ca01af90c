"""Headers of the published files at their true size, without a byte of weights.

Diffusers and transformers build the real networks on torch's meta device; the single files' names come
from our own definitions, whose equality with diffusers is proven elsewhere.
"""

from __future__ import annotations

import functools
import json
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import diffusers
import gguf
import numpy as np
import torch
import transformers

from flux_core import catalog
from flux_core.catalog import ModelSpec
from flux_core.models.autoencoder import Decoder, Encoder
from flux_core.models.clip import ClipText
from flux_core.models.t5 import T5Encoder
from flux_core.models.transformer import Transformer
from flux_core.weights.expected import expected_shapes
from flux_core.weights.tensors import BITS_OF_DTYPE, TensorInfo

Infos = dict[str, TensorInfo]


def infos(shapes: Mapping[str, tuple[int, ...]], dtype: str = "BF16") -> Infos:
    return {name: TensorInfo(dtype, tuple(shape)) for name, shape in shapes.items()}


def on_meta(make: Callable[[], torch.nn.Module]) -> Infos:
    """Names and shapes of a network that is never allocated."""
    with torch.device("meta"):
        module = make()
    return infos({name: tuple(tensor.shape) for name, tensor in module.state_dict().items()})


@functools.cache
def bfl_transformer(spec: ModelSpec) -> Infos:
    return infos(expected_shapes(lambda ops, make: Transformer(ops, make, spec.transformer)))


@functools.cache
def diffusers_transformer(spec: ModelSpec) -> Infos:
    config = spec.transformer
    return on_meta(
        lambda: diffusers.FluxTransformer2DModel(
            in_channels=config.in_channels, out_channels=64, guidance_embeds=config.has_guidance
        )
    )


@functools.cache
def bfl_autoencoder() -> Infos:
    config = catalog.DEV.autoencoder
    return infos(
        expected_shapes(
            lambda ops, make: Encoder(ops, make, config), lambda ops, make: Decoder(ops, make, config)
        ),
        "F32",
    )


@functools.cache
def diffusers_autoencoder() -> Infos:
    return on_meta(
        lambda: diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=16,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
    )


@functools.cache
def t5() -> Infos:
    return infos(expected_shapes(lambda ops, make: T5Encoder(ops, make, catalog.DEV.t5)))


@functools.cache
def clip() -> Infos:
    return infos(expected_shapes(lambda ops, make: ClipText(ops, make, catalog.DEV.clip)))


@functools.cache
def whole_clip() -> Infos:
    vision = {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    }
    config = transformers.CLIPConfig(vision_config={**vision, "patch_size": 14}, projection_dim=768)
    config.text_config.hidden_size, config.text_config.num_attention_heads = 768, 12
    config.text_config.intermediate_size = 3072
    return on_meta(lambda: transformers.CLIPModel(config))


@functools.cache
def siglip() -> Infos:
    config = transformers.SiglipVisionConfig(
        hidden_size=1152, num_hidden_layers=27, num_attention_heads=16, intermediate_size=4304,
        image_size=384, patch_size=14,
    )  # fmt: skip
    return on_meta(lambda: transformers.SiglipVisionModel(config))


@functools.cache
def redux() -> Infos:
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

    return on_meta(ReduxImageEncoder)


@functools.cache
def taef1() -> Infos:
    return on_meta(lambda: diffusers.AutoencoderTiny(latent_channels=16))


@functools.cache
def controlnet(num_double: int, num_single: int, num_modes: int | None) -> Infos:
    with warnings.catch_warnings():  # it warns about a class that it uses itself
        warnings.filterwarnings("ignore", "`FluxPosEmbed` is deprecated", FutureWarning)
        return on_meta(
            lambda: diffusers.FluxControlNetModel(
                num_layers=num_double, num_single_layers=num_single, num_mode=num_modes, guidance_embeds=True
            )
        )


@functools.cache
def xlabs_controlnet() -> Infos:
    """Two double blocks under BFL's names, and the convolutions that read the picture."""
    kept = {n: i for n, i in bfl_transformer(catalog.DEV).items() if not n.startswith(("single_", "final_"))}
    kept = {n: i for n, i in kept.items() if not n.startswith("double_") or n.split(".")[1] in "01"}
    hints = {f"input_hint_block.{i}.weight": (16, 3 if i == 0 else 16, 3, 3) for i in range(0, 16, 2)}
    shapes = {**hints, "pos_embed_input.weight": (3072, 64)}
    shapes |= {f"controlnet_blocks.{i}.weight": (3072, 3072) for i in range(2)}
    return kept | infos(shapes)


@functools.cache
def xlabs_ip_adapter(num_tokens: int) -> Infos:
    shapes: dict[str, tuple[int, ...]] = {
        "ip_adapter_proj_model.proj.weight": (4096 * num_tokens, 768),
        "ip_adapter_proj_model.norm.weight": (4096,),
    }
    for i in range(19):
        for which in "kv":
            shapes[f"double_blocks.{i}.processor.ip_adapter_double_stream_{which}_proj.weight"] = (3072, 4096)
    return infos(shapes)


@functools.cache
def control_lora() -> Infos:
    """BFL's: pairs and a bias for every linear, and every norm's scale."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, info in bfl_transformer(catalog.CANNY).items():
        layer = name.removesuffix(".weight")
        if name.endswith("_norm.scale"):
            shapes[name] = info.shape
        elif name.endswith(".weight") and len(info.shape) == 2:
            rank = min(128, *info.shape)
            shapes[f"{layer}.lora_A.weight"] = (rank, info.shape[1])
            shapes[f"{layer}.lora_B.weight"] = (info.shape[0], rank)
            shapes[f"{layer}.lora_B.bias"] = (info.shape[0],)
    return infos(shapes)


def with_prefix(names: Infos, prefix: str) -> Infos:
    return {prefix + name: info for name, info in names.items()}


def all_in_one(spec: ModelSpec) -> Infos:
    """A ComfyUI checkpoint with everything."""
    return (
        with_prefix(bfl_transformer(spec), "model.diffusion_model.")
        | with_prefix(bfl_autoencoder(), "vae.")
        | with_prefix(clip(), "text_encoders.clip_l.transformer.")
        | with_prefix(t5(), "text_encoders.t5xxl.transformer.")
    )


def write_sparse(path: Path, names: Infos, metadata: dict[str, str] | None = None) -> Path:
    """A safetensors file of the true size whose weights are a hole that takes no space on the disk."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, info in names.items():
        end = at + math.prod(info.shape) * BITS_OF_DTYPE[info.dtype] // 8
        header[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    return path


def write_shards(folder: Path, stem: str, names: Infos, count: int) -> Path:
    """The same in several files with an index; returns the index."""
    groups = [dict(list(names.items())[i::count]) for i in range(count)]
    where: dict[str, str] = {}
    for i, group in enumerate(groups):
        shard = f"{stem}-{i + 1:05}-of-{count:05}.safetensors"
        write_sparse(folder / shard, group)
        where |= dict.fromkeys(group, shard)
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index


def write_sparse_gguf(path: Path, names: Infos) -> Path:
    """A GGUF file of the true size in Q4_K, by the format's own library; the weights are a hole."""
    writer = gguf.GGUFWriter(path, "flux")
    for name, info in names.items():
        is_packed = len(info.shape) == 2 and not name.startswith(_KEPT_BY_GGUF)
        kind = gguf.GGMLQuantizationType.Q4_K if is_packed else gguf.GGMLQuantizationType.F32
        shape = gguf.quant_shape_to_byte_shape(info.shape, kind) if is_packed else info.shape
        dtype = np.dtype(np.uint8 if is_packed else np.float32)
        size = math.prod(shape) * dtype.itemsize
        writer.add_tensor_info(name, shape, dtype, size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    file = writer.fout[0]
    start = -(-file.tell() // 32) * 32
    file.truncate(start + sum(-(-info.nbytes // 32) * 32 for info in writer.tensors[0].values()))
    writer.close()
    return path


_KEPT_BY_GGUF = ("img_in.", "txt_in.", "time_in.", "vector_in.", "guidance_in.", "final_layer.")
