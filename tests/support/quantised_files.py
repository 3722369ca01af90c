"""Quantised files in their true layouts, written by the formats' own libraries.

Each writer takes the weights of one component and gives back what its library says they have become, so
that a reader can be held to that to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from safetensors.torch import save_file

from flux_core.weights.diffusers_keys import Recipes

Arrays = dict[str, np.ndarray]
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
FP8_NAMES = {E4M3: "float8_e4m3fn", E5M2: "float8_e5m2"}


@dataclass(frozen=True)
class Part:
    """One component of a model, as a writer sees it.

    Attributes:
        weights: By the name in the published single file.
        prefix: What an all-in-one file puts before the names.
        recipes: How the names of the component's diffusers folder make the single file's; None where
            they are the same.
    """

    name: str
    weights: Arrays
    prefix: str
    recipes: Recipes | None = None


Writer = Callable[[Part, Path], Arrays]
"""(part, file) -> the values that the library reads from what was written, by the part's names."""


def is_linear(name: str, weight: np.ndarray) -> bool:
    is_table = "embed" in name or "shared" in name or "attention_bias" in name
    return weight.ndim == 2 and weight.shape[1] % 64 == 0 and not is_table


def plain_fp8(dtype: torch.dtype, part: Part, path: Path) -> Arrays:
    """Every tensor cast, biases and norms too, as `flux1-dev-fp8` and `t5xxl_fp8_e4m3fn` are."""
    cast = {name: torch.from_numpy(weight).to(dtype) for name, weight in part.weights.items()}
    save_file({part.prefix + name: tensor for name, tensor in cast.items()}, path)
    return {name: tensor.float().numpy() for name, tensor in cast.items()}


def scaled_fp8(part: Part, path: Path) -> Arrays:
    """ComfyUI's first scaled form, with its marker and an input scale that must not matter."""

    def names(layer: str, codes: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        return {f"{layer}.scale_weight": scale, f"{layer}.scale_input": torch.tensor(0.7)}

    tensors, values = _with_scales(part, E4M3, names)
    save_file(tensors | {f"{part.prefix}scaled_fp8": torch.zeros(2, dtype=E4M3)}, path)
    return values


def comfy_quant_fp8(dtype: torch.dtype, part: Part, path: Path) -> Arrays:
    """ComfyUI's newer form with a note beside every layer."""
    note = _bytes(json.dumps({"format": FP8_NAMES[dtype], "full_precision_matrix_mult": True}).encode())

    def names(layer: str, codes: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        return {f"{layer}.weight_scale": scale, f"{layer}.comfy_quant": note.clone()}

    tensors, values = _with_scales(part, dtype, names)
    save_file(tensors, path)
    return values


def comfy_quant_header(part: Part, path: Path) -> Arrays:
    """ComfyUI's newer form with the notes in the header, where layers have no prefix."""

    def names(layer: str, codes: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        return {f"{layer}.weight_scale": scale, f"{layer}.input_scale": torch.tensor(0.7)}

    tensors, values = _with_scales(part, E4M3, names)
    layers = [
        name.removesuffix(".weight") for name, weight in part.weights.items() if is_linear(name, weight)
    ]
    note = {"layers": {layer: {"format": FP8_NAMES[E4M3]} for layer in layers}}
    save_file(tensors, path, {"_quantization_metadata": json.dumps(note)})
    return values


def nvfp4(part: Part, path: Path) -> Arrays:
    """Quantised by comfy-kitchen, tiled scales and all."""
    import comfy_kitchen as kitchen

    tensors: dict[str, torch.Tensor] = {}
    values: Arrays = {}
    for name, array in part.weights.items():
        weight = torch.from_numpy(array)
        layer = part.prefix + name.removesuffix(".weight")
        if not is_linear(name, array):
            tensors[part.prefix + name], values[name] = weight, array
            continue
        total = weight.abs().max() / (448 * 6)
        codes, scales = kitchen.quantize_nvfp4(weight, total)
        tensors[f"{layer}.weight"] = codes
        tensors[f"{layer}.weight_scale"] = scales
        tensors[f"{layer}.weight_scale_2"] = total
        tensors[f"{layer}.comfy_quant"] = _bytes(b'{"format": "nvfp4"}')
        values[name] = kitchen.dequantize_nvfp4(codes, total, scales, output_type=torch.float32).numpy()
    save_file(tensors, path)
    return values


def bitsandbytes(kind: str, is_nested: bool, part: Part, path: Path) -> Arrays:
    """The state dict of bitsandbytes' own layers."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    tensors: dict[str, torch.Tensor] = {}
    values: Arrays = {}
    for name, array in part.weights.items():
        if not is_linear(name, array):
            tensors[part.prefix + name], values[name] = torch.from_numpy(array), array
            continue
        rows, columns = array.shape
        layer = Linear4bit(columns, rows, bias=False, quant_type=kind, compress_statistics=is_nested)
        layer.load_state_dict({"weight": torch.from_numpy(array)})
        layer = layer.to("cpu")
        stem = part.prefix + name.removesuffix("weight")
        tensors |= {f"{stem}{key}": tensor for key, tensor in layer.state_dict().items()}
        state = layer.weight.quant_state
        values[name] = dequantize_4bit(layer.weight.data, state).float().numpy().reshape(array.shape)
    save_file(tensors, path)
    return values


def in_folder(writer: Writer, part: Part, path: Path) -> Arrays:
    """The same under the names of a diffusers or Hugging Face folder, where q, k and v are apart."""
    return joined(part, writer(Part(part.name, folder_tensors(part), ""), path))


def mflux(bits: int | None, part: Part, path: Path) -> Arrays:
    """As mflux saves: MLX's quantisation of every linear layer and table, and mflux's names."""
    arrays: dict[str, mx.array] = {}
    values: Arrays = {}
    for name, array in folder_tensors(part).items():
        weight = mx.array(array).astype(mx.bfloat16)
        if array.ndim == 4:
            weight = weight.transpose(0, 2, 3, 1)
        layer = mflux_name(name).removesuffix(".weight")
        if bits is None or array.ndim != 2 or array.shape[1] % 64:
            stored, back = {mflux_name(name): weight}, weight
        else:
            triplet = mx.quantize(weight, group_size=64, bits=bits)
            stored = {
                f"{layer}.{key}": x for key, x in zip(("weight", "scales", "biases"), triplet, strict=True)
            }
            exact = [triplet[0], *(x.astype(mx.float32) for x in triplet[1:])]
            back = mx.dequantize(*exact, group_size=64, bits=bits)
        if "relative_attention_bias" in name:
            stored |= {key.replace("t5_blocks.0", "t5_blocks.1"): value for key, value in stored.items()}
        arrays |= stored
        back = back.transpose(0, 3, 1, 2) if array.ndim == 4 else back
        values[name] = np.array(back.astype(mx.float32))
    mx.save_safetensors(str(path), arrays, {"quantization_level": str(bits), "mflux_version": "0.11.0"})
    return joined(part, values)


def folder_tensors(part: Part) -> Arrays:
    """The part's weights as its diffusers or Hugging Face folder has them."""
    if part.recipes is None:
        return dict(part.weights)
    found: Arrays = {}
    for name, recipe in part.recipes.items():
        weight = part.weights[name]
        if recipe.is_swapped:
            weight = np.concatenate([weight[len(weight) // 2 :], weight[: len(weight) // 2]])
        if recipe.is_pointwise:
            weight = weight[:, :, 0, 0]
        for i, piece in enumerate(recipe.parts):
            found[piece] = _piece(weight, i, len(recipe.parts))
    return found


def _piece(weight: np.ndarray, i: int, count: int) -> np.ndarray:
    """q, k, v are as long as the width of the model; the rest, if any, is the MLP."""
    if count == 1:
        return weight
    step = len(weight) // 3 if count == 3 else len(weight) // 5  # linear1: q, k, v and twice as much
    return weight[i * step : (i + 1) * step if i < 3 else None]


def joined(part: Part, values: Mapping[str, np.ndarray]) -> Arrays:
    """The inverse of `folder_tensors`."""
    if part.recipes is None:
        return dict(values)
    found: Arrays = {}
    for name, recipe in part.recipes.items():
        weight = np.concatenate([values[piece] for piece in recipe.parts])
        if recipe.is_swapped:
            weight = np.concatenate([weight[len(weight) // 2 :], weight[: len(weight) // 2]])
        found[name] = weight.reshape(part.weights[name].shape)
    return found


def mflux_name(name: str) -> str:
    """What mflux calls a tensor of a folder, spelled out from its module tree."""
    for block in ("ff", "ff_context"):
        name = name.replace(f".{block}.net.0.proj.", f".{block}.linear1.")
        name = name.replace(f".{block}.net.2.", f".{block}.linear2.")
    for side in ("encoder", "decoder"):
        for conv in ("conv_in", "conv_out"):
            name = name.replace(f"{side}.{conv}.", f"{side}.{conv}.conv2d.")
        name = name.replace(f"{side}.conv_norm_out.", f"{side}.conv_norm_out.norm.")
    if name.startswith("encoder.block."):
        name = name.removeprefix("encoder.block.").replace(".layer.0.", ".attention.")
        name = "t5_blocks." + name.replace(".layer.1.", ".ff.")
    return "final_layer_norm.weight" if name == "encoder.final_layer_norm.weight" else name


def _with_scales(
    part: Part,
    dtype: torch.dtype,
    extra: Callable[[str, torch.Tensor, torch.Tensor], dict[str, torch.Tensor]],
) -> tuple[dict[str, torch.Tensor], Arrays]:
    tensors: dict[str, torch.Tensor] = {}
    values: Arrays = {}
    for name, array in part.weights.items():
        weight = torch.from_numpy(array)
        if not is_linear(name, array):
            tensors[part.prefix + name], values[name] = weight, array
            continue
        scale = weight.abs().max() / torch.finfo(dtype).max
        codes = (weight / scale).to(dtype)
        tensors[part.prefix + name] = codes
        tensors |= extra(part.prefix + name.removesuffix(".weight"), codes, scale)
        values[name] = (codes.float() * scale).numpy()
    return tensors, values


def _bytes(text: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


WRITERS: dict[str, Writer] = {
    "fp8 e4m3": partial(plain_fp8, E4M3),
    "fp8 e5m2": partial(plain_fp8, E5M2),
    "ComfyUI fp8_scaled": scaled_fp8,
    "ComfyUI comfy_quant e4m3": partial(comfy_quant_fp8, E4M3),
    "ComfyUI comfy_quant e5m2": partial(comfy_quant_fp8, E5M2),
    "ComfyUI comfy_quant in the header": comfy_quant_header,
    "ComfyUI nvfp4": nvfp4,
    "bitsandbytes NF4": partial(bitsandbytes, "nf4", False),
    "bitsandbytes NF4, nested": partial(bitsandbytes, "nf4", True),
    "bitsandbytes FP4": partial(bitsandbytes, "fp4", False),
    "bitsandbytes FP4, nested": partial(bitsandbytes, "fp4", True),
    "bitsandbytes NF4 in a folder": partial(in_folder, partial(bitsandbytes, "nf4", True)),
    "ComfyUI comfy_quant under diffusers' names": partial(in_folder, partial(comfy_quant_fp8, E4M3)),
    "mflux unquantised": partial(mflux, None),
    **{f"mflux {bits} bits": partial(mflux, bits) for bits in (2, 3, 4, 5, 6, 8)},
}
