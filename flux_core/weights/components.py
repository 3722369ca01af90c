"""From a model's folder to its parts, ready to be called: open, check strictly, build.

Each function loads one part and nothing else, because the caller decides what is in memory when.
Files are the ones the catalog names: single files, folders, shards or one checkpoint for everything, and
the names inside may be any published spelling.
"""

from __future__ import annotations

from pathlib import Path

from flux_core.catalog import ModelSpec
from flux_core.models.autoencoder import Decoder, Encoder
from flux_core.models.clip import ClipText
from flux_core.models.t5 import T5Encoder
from flux_core.models.transformer import Transformer
from flux_core.ops import Backend, LeafFactory, Ops
from flux_core.request import Precision
from flux_core.weights import all_in_one, synonyms
from flux_core.weights.diffusers_keys import Recipes, autoencoder_recipes, from_diffusers, transformer_recipes
from flux_core.weights.expected import Build, check_strict, expected_shapes
from flux_core.weights.open import open_source
from flux_core.weights.tensors import TensorSource, in_order


def load_transformer(spec: ModelSpec, folder: Path, backend: Backend, precision: Precision) -> Transformer:
    """Loads the transformer.

    Args:
        spec: Row of the catalog.
        folder: Where the model's files lie.
        backend: Where it will run.
        precision: AUTO lets the backend choose.

    Raises:
        ModelMissing: The file is not there.
        Corrupt: It is damaged, or does not hold exactly this model.
    """
    return Transformer(
        backend.ops, backend.leaves(transformer_source(spec, folder), precision), spec.transformer
    )


def transformer_source(spec: ModelSpec, folder: Path) -> TensorSource:
    """The transformer's tensors under its own names, checked and not loaded; raises as load_transformer."""
    return open_checked(
        folder / spec.files.transformer,
        synonyms.transformer_name,
        lambda ops, make: Transformer(ops, make, spec.transformer),
        part=all_in_one.TRANSFORMER,
        recipes=transformer_recipes(spec.transformer),
    )


def load_encoder(spec: ModelSpec, folder: Path, backend: Backend, precision: Precision) -> Encoder:
    """Loads the autoencoder's encoder; as load_transformer. The file must hold the decoder, too."""
    make = backend.leaves(_autoencoder(spec, folder), precision)
    return Encoder(backend.ops, make, spec.autoencoder)


def load_decoder(spec: ModelSpec, folder: Path, backend: Backend, precision: Precision) -> Decoder:
    """Loads the autoencoder's decoder; as load_transformer. The file must hold the encoder, too."""
    make = backend.leaves(_autoencoder(spec, folder), precision)
    return Decoder(backend.ops, make, spec.autoencoder)


def load_t5(spec: ModelSpec, folder: Path, backend: Backend, precision: Precision) -> T5Encoder:
    """Loads the T5 encoder; as load_transformer."""

    def build(ops: Ops, make: LeafFactory) -> T5Encoder:
        return T5Encoder(ops, make, spec.t5)

    source = open_checked(folder / spec.files.t5, synonyms.t5_name, build, part=all_in_one.T5)
    return build(backend.ops, backend.leaves(source, precision))


def load_clip(spec: ModelSpec, folder: Path, backend: Backend, precision: Precision) -> ClipText:
    """Loads the CLIP text encoder; as load_transformer."""

    def build(ops: Ops, make: LeafFactory) -> ClipText:
        return ClipText(ops, make, spec.clip)

    source = open_checked(folder / spec.files.clip, synonyms.clip_name, build, part=all_in_one.CLIP)
    return build(backend.ops, backend.leaves(source, precision))


def open_checked(
    path: Path,
    rename: synonyms.Rename,
    *builds: Build,
    part: str | None = None,
    recipes: Recipes | None = None,
) -> TensorSource:
    """A file's tensors under the models' names and in their order, after the strict check.

    Args:
        path: Anything that `open_source` opens.
        rename: How its names become the models' names.
        builds: The models that share the file.
        part: Which part of a checkpoint that holds several, by its name in all_in_one.
        recipes: How diffusers' names become the single file's, where diffusers has its own.
    """
    source = open_source(path)
    if part is not None:
        source = all_in_one.part_of(source, part, path)
    if recipes is not None:
        source = from_diffusers(source, recipes)
    source = synonyms.canonical(source, rename)
    expected = expected_shapes(*builds)
    check_strict(expected, source.names(), path)
    return in_order(source, expected)


def _autoencoder(spec: ModelSpec, folder: Path) -> TensorSource:
    return open_checked(
        folder / spec.files.autoencoder,
        synonyms.autoencoder_name,
        lambda ops, make: Encoder(ops, make, spec.autoencoder),
        lambda ops, make: Decoder(ops, make, spec.autoencoder),
        part=all_in_one.AUTOENCODER,
        recipes=autoencoder_recipes(spec.autoencoder),
    )
