"""The model that a LoRA is trained on: found by its name or path, and judged before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from flux_core import catalog
from flux_core.catalog import MODELS, ModelSpec
from flux_core.errors import RequestInvalid
from flux_core.models.transformer import BLOCK_MATRIX
from flux_core.plan import Component
from flux_core.weights.components import transformer_source
from flux_core.weights.detect import detect
from flux_core.weights.lora.layers import layers_of
from flux_core.weights.open import open_source
from flux_core.weights.quant.schemes import SCHEMES
from flux_core.weights.which import FileKind

_TRAINED_BYTES = 16  # of a trained value: float32 of itself, of its gradient and of AdamW's two means
_REMEMBERED = 22  # values that a block remembers of a token, in widths of the model; measured: 21.5 and 21.2
_LARGE_WIDTH = 1024


@dataclass(frozen=True, slots=True)
class Base:
    """A model on this machine.

    Attributes:
        spec: Its row, with where its files are.
        folder: Its own folder.
        notes: What a person should know before training on it.
    """

    spec: ModelSpec
    folder: Path
    notes: tuple[str, ...] = ()


def find_base(model: str, models_dirs: tuple[Path, ...]) -> Base:
    """Finds a model.

    Args:
        model: A row of the catalog, a FLUX.1 transformer in any form that is read, or a diffusers folder;
            what a path does not have is shared with the rows that its model needs.
        models_dirs: Where models are looked for.

    Raises:
        RequestInvalid: There is no such model, or it cannot be trained on.
        ModelMissing: A part of it is not here.
        Corrupt: Its file is damaged.
    """
    path = Path(model)
    if model in MODELS or not path.exists():
        spec = catalog.find(model)
        _check_trainable(spec)
        spec, folder = catalog.locate(spec, models_dirs)
        return Base(spec, folder, _notes(spec))
    place = path / "transformer" if (path / "transformer").is_dir() else path
    source = open_source(place)
    found = detect(source.names(), str(path), source.metadata)
    if found.kind not in (FileKind.TRANSFORMER, FileKind.ALL_IN_ONE) or not found.allowed:
        notes = f" {found.notes[0]}" if found.notes else ""
        raise RequestInvalid(
            f"{path} cannot be trained on: it is a {found.title}.{notes}", "Name a FLUX.1 transformer."
        )
    spec = catalog.find(found.row or found.allowed[0])
    _check_trainable(spec)
    if place != path:  # a diffusers folder brings its own encoders
        spec = replace(spec, model=path.absolute().name)
        models_dirs = (path.absolute().parent, *models_dirs)
    else:
        spec = replace(spec, files=replace(spec.files, transformer=str(path.absolute())))
    spec, folder = catalog.locate(spec, models_dirs)
    return Base(spec, folder, _notes(spec))


def _check_trainable(spec: ModelSpec) -> None:
    if spec.transformer.in_channels != spec.transformer.out_channels:
        raise RequestInvalid(
            f"{spec.title} sees more than noise, so it cannot learn from pictures with captions alone.",
            "Train on flux1-dev: its LoRAs work on that model, too.",
        )
    if spec.lora:
        base = next((need for need in spec.needs if need in MODELS), "its base")
        raise RequestInvalid(
            f"{spec.title} is a LoRA on {base} itself.", f"Train on {base}: its LoRAs work there, too."
        )


def _notes(spec: ModelSpec) -> tuple[str, ...]:
    if spec.transformer.has_guidance or spec.has_time_shift:
        return ()
    return (
        f"{spec.title} was distilled to a few steps, which training undoes little by little; LoRAs trained "
        "on flux1-dev work on it, too.",
    )


@dataclass(frozen=True, slots=True)
class Memory:
    """What training takes, in bytes.

    Attributes:
        weights: The transformer as it lies in memory.
        trained: The LoRA, its gradient and the optimiser's state.
        activations: What a step remembers for the way back.
    """

    weights: int
    trained: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.trained + self.activations


def memory_of(base: Base, rank: int, tokens: int, value_bytes: int, is_checkpointed: bool) -> Memory:
    """Estimates training from headers alone.

    Args:
        base: What is trained on.
        rank: Of the LoRA.
        tokens: Of text and pictures, all that are learned from in one step.
        value_bytes: Of a weight that is not quantised, and of an activation.
        is_checkpointed: Whether only what passes between blocks is remembered, and one block.
    """
    weights, is_packed = 0, False
    for info in transformer_source(base.spec, base.folder).names().values():
        scheme = SCHEMES.get(info.dtype)
        bytes_each = value_bytes if scheme is None else scheme.block_bytes / scheme.block
        weights += int(prod(info.shape) * bytes_each)
        is_packed |= scheme is not None
    layers = [
        each for each in layers_of(base.spec)[Component.TRANSFORMER] if BLOCK_MATRIX.fullmatch(each.name)
    ]
    trained = sum(rank * (each.rows + each.columns) for each in layers)
    config = base.spec.transformer
    blocks = config.depth + config.depth_single
    # A block that is computed again has gradients of its own size beside it.
    remembered = blocks + 2 * _REMEMBERED if is_checkpointed else (blocks + 1) * _REMEMBERED
    activations = remembered * config.hidden_size * value_bytes * tokens
    if is_packed:  # every weight of the block that is on its way back, decoded
        values = sum(each.rows * each.columns for each in layers if each.name.startswith("double_blocks.0."))
        activations += values * value_bytes
    return Memory(weights, trained * _TRAINED_BYTES, activations)


def is_large(spec: ModelSpec) -> bool:
    """Whether blocks are computed again on the way back: memory counts more than a third of the time."""
    return spec.transformer.hidden_size >= _LARGE_WIDTH
