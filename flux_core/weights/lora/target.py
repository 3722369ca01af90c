"""Where a name of a LoRA file leads, and the spellings that several families share.

Each family is a function from a model to pairs (module name as its files spell it, target); a file is
read by looking its names up, so no name is ever taken apart by guessing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from flux_core.catalog import ModelSpec
from flux_core.plan import Component
from flux_core.weights.diffusers_keys import transformer_recipes
from flux_core.weights.lora.layers import Layer, layers_of


@dataclass(frozen=True, slots=True)
class Target:
    """Some rows of a layer.

    Attributes:
        layer: Which.
        rows: First and last-plus-one.
        is_swapped: The file has the halves of these rows the other way round.
    """

    layer: Layer
    rows: tuple[int, int]
    is_swapped: bool = False


Named = Iterator[tuple[str, Target]]
Names = Callable[[ModelSpec], Named]
"""Everything that a family can name in a model."""


def own_names(spec: ModelSpec, component: Component) -> Named:
    """Each layer by its checkpoint name (BFL's; transformers' for text); norms by their tensor's, too."""
    for layer in layers_of(spec)[component]:
        target = Target(layer, (0, layer.rows))
        yield layer.name, target
        if layer.key != "weight":
            yield f"{layer.name}.{layer.key}", target


def diffusers_names(spec: ModelSpec) -> Named:
    """Each layer of the transformer by diffusers' module name; parts of fused layers by their rows."""
    layers = {f"{layer.name}.{layer.key}": layer for layer in layers_of(spec)[Component.TRANSFORMER]}
    hidden = spec.transformer.hidden_size
    for name, recipe in transformer_recipes(spec.transformer).items():
        if name not in layers:
            continue  # a bias
        layer = layers[name]
        modules = [part.removesuffix(".weight") for part in recipe.parts]
        starts = [i * hidden for i in range(len(modules))]
        for module, start, stop in zip(modules, starts, [*starts[1:], layer.rows], strict=True):
            yield module, Target(layer, (start, stop), recipe.is_swapped)
        if len(modules) > 1:  # as diffusers names it after fuse_qkv_projections
            parent, _, last = modules[0].rpartition(".")
            fused = "to_qkv" if last == "to_q" else "to_added_qkv"
            yield f"{parent}.{fused}", Target(layer, (0, 3 * hidden))


def prefixed(prefixes: Iterable[str], names: Iterable[tuple[str, Target]]) -> Named:
    """Every name behind every prefix."""
    listed = tuple(prefixes)
    for name, target in names:
        for prefix in listed:
            yield prefix + name, target


def underscored(names: Iterable[tuple[str, Target]]) -> Named:
    """With underscores for dots, as sd-scripts writes them."""
    for name, target in names:
        yield name.replace(".", "_"), target
