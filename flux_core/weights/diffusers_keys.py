"""Diffusers folders name and cut the same weights differently; this puts them together again.

Each tensor of the published single file is a recipe over diffusers' tensors: pieces stacked along the
first axis, halves swapped in one place, two axes of length one added in another. All three are moves of
whole byte ranges, so a recipe never needs to know what a number is. `pieces_of` reads the recipes the other
way round, for whoever hands our weights to diffusers.

Source: diffusers convert_flux_to_diffusers.py and the autoencoder's attention; checked by equal outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flux_core.catalog import AutoencoderConfig, ControlNetConfig, TransformerConfig
from flux_core.errors import Corrupt
from flux_core.weights.json_cursor import shown
from flux_core.weights.tensors import (
    RawTensor,
    TensorInfo,
    TensorSource,
    stacked_dtype,
    stacked_rows,
    swapped_halves,
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make one tensor of the single file.

    Attributes:
        parts: Names in the diffusers file, stacked along the first axis in this order.
        is_swapped: Diffusers keeps (scale, shift) where the single file has (shift, scale).
        is_pointwise: A linear weight there, a 1x1 convolution here.
    """

    parts: tuple[str, ...]
    is_swapped: bool = False
    is_pointwise: bool = False


Recipes = dict[str, Recipe]


class Piece(NamedTuple):
    """How to make one tensor of a diffusers file: rows `start` to `stop` of one of the single file.

    Attributes:
        name: In the single file.
        is_swapped, is_pointwise: As of the recipe.
    """

    name: str
    start: int
    stop: int
    is_swapped: bool
    is_pointwise: bool


class ConvertedSource:
    """A diffusers file under the single file's names.

    A tensor whose parts are not all there is left out, and one that no recipe uses keeps its name, so
    that the strict check reports both.

    Args:
        source: Tensors by diffusers' names.
        recipes: From transformer_recipes, autoencoder_recipes or controlnet_recipes.

    Raises:
        Corrupt: Parts of one tensor do not fit together.
    """

    def __init__(self, source: TensorSource, recipes: Recipes) -> None:
        found = source.names()
        self.metadata = source.metadata
        self._source = source
        self._recipes = {new: r for new, r in recipes.items() if all(part in found for part in r.parts)}
        used = {part for recipe in self._recipes.values() for part in recipe.parts}
        self._recipes |= {name: Recipe((name,)) for name in found if name not in used}
        self._names = {name: _joined(name, r, found) for name, r in self._recipes.items()}

    def names(self) -> Mapping[str, TensorInfo]:
        return self._names

    def read(self, name: str) -> RawTensor:
        recipe, info = self._recipes[name], self._names[name]
        raw = stacked_rows(name, [self._source.read(part) for part in recipe.parts])
        if recipe.is_swapped:
            raw = swapped_halves(raw)
        return replace(raw, shape=info.shape)


def from_diffusers(source: TensorSource, recipes: Recipes) -> TensorSource:
    """The source under the single file's names, whichever of the two ways it is named.

    Some names are the same in both (the autoencoder's first layer), so those that only one has decide.
    """
    names = source.names()
    theirs = {part for recipe in recipes.values() for part in recipe.parts}
    num_theirs = sum(name in theirs and name not in recipes for name in names)
    num_ours = sum(name in recipes and name not in theirs for name in names)
    return ConvertedSource(source, recipes) if num_theirs > num_ours else source


def pieces_of(recipes: Recipes, lengths: Mapping[str, int], rows: Sequence[int] = ()) -> dict[str, Piece]:
    """Every tensor of the diffusers file by its name there.

    Args:
        recipes: Of the part.
        lengths: Of the first axis of every tensor of the single file.
        rows: Of the parts of a stacked tensor, in order; a recipe of fewer parts takes the first of them.
    """
    pieces: dict[str, Piece] = {}
    for name, recipe in recipes.items():
        start = 0
        for number, part in enumerate(recipe.parts):
            stop = start + rows[number] if len(recipe.parts) > 1 else lengths[name]
            pieces[part] = Piece(name, start, stop, recipe.is_swapped, recipe.is_pointwise)
            start = stop
    return pieces


def stacked_rows_of(config: TransformerConfig) -> list[int]:
    """Rows of the parts of a transformer's stacked tensors: query, key, value, MLP."""
    return [config.hidden_size] * 3 + [config.mlp_hidden]


def to_diffusers(
    weights: Mapping[str, NDArray[Any]], recipes: Recipes, rows: Sequence[int] = ()
) -> dict[str, NDArray[Any]]:
    """Weights of the single file, cut and named as diffusers does; `rows` as of pieces_of."""
    theirs: dict[str, NDArray[Any]] = {}
    for name, piece in pieces_of(recipes, {name: len(weights[name]) for name in recipes}, rows).items():
        array = weights[piece.name][piece.start : piece.stop]
        if piece.is_swapped:
            array = np.roll(array, len(array) // 2, axis=0)
        theirs[name] = array[:, :, 0, 0] if piece.is_pointwise else array
    return theirs


def transformer_recipes(config: TransformerConfig) -> Recipes:
    """One recipe for each tensor of the transformer."""
    recipes: Recipes = {}
    _inputs_and_blocks(recipes, config)
    _layers(recipes, {"final_layer.linear": "proj_out"})
    for suffix in ("weight", "bias"):
        recipes[f"final_layer.adaLN_modulation.1.{suffix}"] = Recipe(
            (f"norm_out.linear.{suffix}",), is_swapped=True
        )
    return recipes


def controlnet_recipes(config: ControlNetConfig) -> Recipes:
    """One recipe for each tensor of a ControlNet that diffusers calls otherwise; the rest keeps its name."""
    recipes: Recipes = {}
    _inputs_and_blocks(recipes, config.transformer)
    if config.is_pixel_hint:
        ours, theirs = "input_hint_block", "input_hint_block"
        inner = {f"{ours}.{2 * i + 2}": f"{theirs}.blocks.{i}" for i in range(6)}
        _layers(recipes, {f"{ours}.0": f"{theirs}.conv_in", **inner, f"{ours}.14": f"{theirs}.conv_out"})
        _layers(recipes, {"pos_embed_input": "controlnet_x_embedder"})
    return recipes


def autoencoder_recipes(config: AutoencoderConfig) -> Recipes:
    """One recipe for each tensor of the autoencoder; diffusers counts the decoder's levels from the top."""
    recipes: Recipes = {}
    levels = len(config.channel_multipliers)
    for side in ("encoder", "decoder"):
        _layers(recipes, {f"{side}.{name}": f"{side}.{name}" for name in ("conv_in", "conv_out")})
        _layers(recipes, {f"{side}.norm_out": f"{side}.conv_norm_out"})
        _middle(recipes, f"{side}.mid", f"{side}.mid_block")
    width = config.channels
    for i in range(levels):
        ours, theirs = f"encoder.down.{i}", f"encoder.down_blocks.{i}"
        out = config.channels * config.channel_multipliers[i]
        _level(recipes, ours, theirs, config.num_res_blocks, has_shortcut=width != out)
        if i < levels - 1:
            _layers(recipes, {f"{ours}.downsample.conv": f"{theirs}.downsamplers.0.conv"})
        width = out
    for i in reversed(range(levels)):
        ours, theirs = f"decoder.up.{i}", f"decoder.up_blocks.{levels - 1 - i}"
        out = config.channels * config.channel_multipliers[i]
        _level(recipes, ours, theirs, config.num_res_blocks + 1, has_shortcut=width != out)
        if i:
            _layers(recipes, {f"{ours}.upsample.conv": f"{theirs}.upsamplers.0.conv"})
        width = out
    return recipes


def _inputs_and_blocks(recipes: Recipes, config: TransformerConfig) -> None:
    _layers(recipes, {"img_in": "x_embedder", "txt_in": "context_embedder"})
    embedders = {"time_in": "timestep_embedder", "vector_in": "text_embedder"}
    if config.has_guidance:
        embedders["guidance_in"] = "guidance_embedder"
    for ours, theirs in embedders.items():
        for layer, number in (("in_layer", 1), ("out_layer", 2)):
            _layers(recipes, {f"{ours}.{layer}": f"time_text_embed.{theirs}.linear_{number}"})
    for i in range(config.depth):
        _double_block(recipes, f"double_blocks.{i}", f"transformer_blocks.{i}")
    for i in range(config.depth_single):
        _single_block(recipes, f"single_blocks.{i}", f"single_transformer_blocks.{i}")


def _double_block(recipes: Recipes, ours: str, theirs: str) -> None:
    streams = (
        ("img", "norm1", "to_{}", "norm_{}", "to_out.0", "ff"),
        ("txt", "norm1_context", "add_{}_proj", "norm_added_{}", "to_add_out", "ff_context"),
    )
    for stream, modulation, project, norm, out, mlp in streams:
        _layers(
            recipes,
            {
                f"{ours}.{stream}_mod.lin": f"{theirs}.{modulation}.linear",
                f"{ours}.{stream}_attn.proj": f"{theirs}.attn.{out}",
                f"{ours}.{stream}_mlp.0": f"{theirs}.{mlp}.net.0.proj",
                f"{ours}.{stream}_mlp.2": f"{theirs}.{mlp}.net.2",
            },
        )
        parts = [f"{theirs}.attn.{project.format(letter)}" for letter in "qkv"]
        _stacked(recipes, f"{ours}.{stream}_attn.qkv", parts)
        for letter, name in (("q", "query_norm"), ("k", "key_norm")):
            recipes[f"{ours}.{stream}_attn.norm.{name}.scale"] = Recipe(
                (f"{theirs}.attn.{norm.format(letter)}.weight",)
            )


def _single_block(recipes: Recipes, ours: str, theirs: str) -> None:
    _layers(
        recipes, {f"{ours}.modulation.lin": f"{theirs}.norm.linear", f"{ours}.linear2": f"{theirs}.proj_out"}
    )
    parts = [f"{theirs}.attn.to_{letter}" for letter in "qkv"]
    _stacked(recipes, f"{ours}.linear1", [*parts, f"{theirs}.proj_mlp"])
    recipes[f"{ours}.norm.query_norm.scale"] = Recipe((f"{theirs}.attn.norm_q.weight",))
    recipes[f"{ours}.norm.key_norm.scale"] = Recipe((f"{theirs}.attn.norm_k.weight",))


def _middle(recipes: Recipes, ours: str, theirs: str) -> None:
    _residual(recipes, f"{ours}.block_1", f"{theirs}.resnets.0", has_shortcut=False)
    _residual(recipes, f"{ours}.block_2", f"{theirs}.resnets.1", has_shortcut=False)
    attention = f"{theirs}.attentions.0"
    _layers(recipes, {f"{ours}.attn_1.norm": f"{attention}.group_norm"})
    for name, linear in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
        key = f"{ours}.attn_1.{name}"
        recipes[f"{key}.weight"] = Recipe((f"{attention}.{linear}.weight",), is_pointwise=True)
        recipes[f"{key}.bias"] = Recipe((f"{attention}.{linear}.bias",))


def _level(recipes: Recipes, ours: str, theirs: str, count: int, has_shortcut: bool) -> None:
    for j in range(count):
        _residual(recipes, f"{ours}.block.{j}", f"{theirs}.resnets.{j}", has_shortcut and j == 0)


def _residual(recipes: Recipes, ours: str, theirs: str, has_shortcut: bool) -> None:
    names = {name: name for name in ("norm1", "conv1", "norm2", "conv2")}
    if has_shortcut:
        names["nin_shortcut"] = "conv_shortcut"
    _layers(recipes, {f"{ours}.{a}": f"{theirs}.{b}" for a, b in names.items()})


def _layers(recipes: Recipes, names: Mapping[str, str]) -> None:
    for ours, theirs in names.items():
        _stacked(recipes, ours, [theirs])


def _stacked(recipes: Recipes, ours: str, theirs: list[str]) -> None:
    for suffix in ("weight", "bias"):
        recipes[f"{ours}.{suffix}"] = Recipe(tuple(f"{name}.{suffix}" for name in theirs))


def _joined(name: str, recipe: Recipe, found: Mapping[str, TensorInfo]) -> TensorInfo:
    parts = [found[part] for part in recipe.parts]
    first = parts[0]
    if len(parts) > 1 and not all(part.shape and part.shape[1:] == first.shape[1:] for part in parts):
        listed = ", ".join(shown(part) for part in recipe.parts)
        raise Corrupt(
            f"The tensors {listed} differ in width and cannot form {shown(name)}.",
            "Download or export the file again.",
        )
    shape = first.shape if len(parts) == 1 else (sum(p.shape[0] for p in parts), *first.shape[1:])
    dtype = stacked_dtype([part.dtype for part in parts])
    return TensorInfo(dtype, (*shape, 1, 1) if recipe.is_pointwise else shape)
