"""A whole model on disk with random weights, so that the engine runs as it does for a person.

Values come from one pool, because drawing twelve billion numbers takes longer than everything that is
measured; tokenizers are as large as the model's, so that reading them takes
as long. A folder that was written before is used again.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from itertools import chain, count, islice, product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from flux_core.catalog import ModelSpec
from flux_core.conditioning.tokenize import CLIP_BEGIN, CLIP_END, T5_END, T5_PAD
from flux_core.models.autoencoder import Decoder, Encoder
from flux_core.models.clip import ClipText
from flux_core.models.t5 import T5Encoder
from flux_core.models.transformer import BLOCK_MATRIX, Transformer
from flux_core.sampling import preview
from flux_core.weights.expected import Build, expected_shapes
from flux_core.weights.tensors import RawTensor, TensorInfo

_POOL_VALUES = 2**24
_SPREAD = 2**20  # values among which a tensor's first is
_ONE = 0x3F80  # in bfloat16
_DEVIATION = 0.02  # about one over the root of a row of the transformer's matrices
_DONE = "whole"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
Shapes = Mapping[str, tuple[int, ...]]


def write_model(base: Path, spec: ModelSpec, seed: int = 0) -> Path:
    """Writes `base`/<model> in bfloat16 unless it is there; returns `base`, for an engine's models_dirs."""
    folder = base / spec.model
    if (folder / _DONE).is_file():
        return base
    pool = _pool(seed)
    for name, shapes in model_shapes(spec).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, shapes, pool)
    _write_tokenizers(folder, spec)
    colours = np.random.default_rng(seed).normal(0, 0.1, (spec.autoencoder.latent_channels + 1, 3))
    preview.write(folder, colours.astype(np.float32))
    (folder / _DONE).touch()
    return base


def model_shapes(spec: ModelSpec) -> dict[str, Shapes]:
    """Every file of a model by its name, and the tensors in it."""

    def part(cls: Any, config: Any) -> Build:
        return lambda ops, make: cls(ops, make, config)

    return {
        spec.files.transformer: expected_shapes(part(Transformer, spec.transformer)),
        spec.files.autoencoder: expected_shapes(
            part(Encoder, spec.autoencoder), part(Decoder, spec.autoencoder)
        ),
        spec.files.t5: expected_shapes(part(T5Encoder, spec.t5)),
        spec.files.clip: expected_shapes(part(ClipText, spec.clip)),
    }


def write_lora(path: Path, spec: ModelSpec, rank: int, is_whole: bool = False, seed: int = 1) -> Path:
    """A LoRA for every matrix of every block, unless it is there.

    Args:
        path: Of the file.
        spec: The model.
        rank: Of each low-rank matrix.
        is_whole: One for each of the model's matrices, as in BFL's files; else one each for queries, keys,
            values and the MLP of a single block, as in diffusers', so that leaves carry up to four.
        seed: Of the values.
    """
    if path.is_file():
        return path
    sides = _whole_matrices(spec) if is_whole else _split_matrices(spec)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (out_dim, in_dim) in sides.items():
        shapes[f"{name}.lora_A.weight"] = rank, in_dim
        shapes[f"{name}.lora_B.weight"] = out_dim, rank
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, shapes, _pool(seed))
    return path


def _whole_matrices(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The matrices of the blocks [out, in] by BFL's names."""
    shapes = model_shapes(spec)[spec.files.transformer]
    return {
        name.removesuffix(".weight"): shape
        for name, shape in shapes.items()
        if BLOCK_MATRIX.search(name) and name.endswith(".weight")
    }


def _split_matrices(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The same by diffusers' names, where queries, keys, values and MLPs are apart."""
    dim, mlp = spec.transformer.hidden_size, spec.transformer.mlp_hidden
    heads, added = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")
    double = {f"attn.{name}": (dim, dim) for name in (*heads, *added, "to_out.0", "to_add_out")}
    double |= {f"{name}.net.0.proj": (mlp, dim) for name in ("ff", "ff_context")}
    double |= {f"{name}.net.2": (dim, mlp) for name in ("ff", "ff_context")}
    single = {f"attn.{name}": (dim, dim) for name in heads}
    single |= {"proj_mlp": (mlp, dim), "proj_out": (dim, dim + mlp)}
    blocks = [("transformer_blocks", spec.transformer.depth, double)]
    blocks += [("single_transformer_blocks", spec.transformer.depth_single, single)]
    return {
        f"transformer.{name}.{i}.{layer}": shape
        for name, depth, layers in blocks
        for i, (layer, shape) in product(range(depth), layers.items())
    }


def write_file(path: Path, shapes: Shapes, pool: NDArray[np.uint16]) -> None:
    """A safetensors file in bfloat16; never holds more than one tensor."""
    entries: dict[str, Any] = {}
    at = 0
    for name, shape in shapes.items():
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + 2 * prod(shape)]}
        at += 2 * prod(shape)
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name, shape in shapes.items():
            for piece in _values(name, shape, pool):
                file.write(piece.data)


class RandomSource:
    """A part's tensors without a file, for measurements of one part alone (a TensorSource).

    Args:
        shapes: Of every tensor.
        seed: Of the values, of which each tensor begins elsewhere.
    """

    def __init__(self, shapes: Shapes, seed: int = 0) -> None:
        self.metadata: Mapping[str, str] = {}
        self._shapes = shapes
        self._values = np.resize(_pool(seed), max(map(prod, shapes.values()), default=0) + _SPREAD)

    def names(self) -> Mapping[str, TensorInfo]:
        return {name: TensorInfo("BF16", shape) for name, shape in self._shapes.items()}

    def read(self, name: str) -> RawTensor:
        shape = self._shapes[name]
        start = zlib.crc32(name.encode()) % _SPREAD & ~63  # aligned as allocators align
        values = self._values[start : start + prod(shape)]
        if _is_gain(name, shape):
            values = np.full(prod(shape), _ONE, np.uint16)
        return RawTensor(name, "BF16", shape, values.view(np.uint8))


def _is_gain(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 1 and name.rsplit(".", 1)[-1] in ("weight", "scale")


def _values(name: str, shape: tuple[int, ...], pool: NDArray[np.uint16]) -> Iterator[NDArray[np.uint16]]:
    """Gains of norms are 1, everything else is random."""
    left = prod(shape)
    if _is_gain(name, shape):
        yield np.full(left, _ONE, np.uint16)
        return
    while left > 0:
        yield pool[:left]
        left -= pool.size


def _pool(seed: int) -> NDArray[np.uint16]:
    values = np.random.default_rng(seed).standard_normal(_POOL_VALUES, np.float32) * np.float32(_DEVIATION)
    return (values.view(np.uint32) >> 16).astype(np.uint16)  # bfloat16, rounded towards zero


def _write_tokenizers(folder: Path, spec: ModelSpec) -> None:
    special = T5_PAD, T5_END, "<unk>"
    unigrams = [*special, *_strings(spec.t5.vocab_size - len(special))]
    words = Tokenizer(models.Unigram([(token, 0.0) for token in unigrams], 2))
    strings = _strings(spec.clip.vocab_size - 2)
    vocab = {token: number for number, token in enumerate((*strings, CLIP_BEGIN, CLIP_END))}
    merges = [(token[:-1], token[-1]) for token in strings if len(token) > 1]
    pieces = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="a"))
    for tokenizer, name in ((words, spec.files.t5_tokenizer), (pieces, spec.files.clip_tokenizer)):
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        (folder / name).mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(folder / name / "tokenizer.json"))


def _strings(number: int) -> list[str]:
    """All letters, and longer strings up to a number of them, each after what it begins with."""
    found = (product(_LETTERS, repeat=length) for length in count(1))
    found = islice(chain.from_iterable(found), max(number, len(_LETTERS)))
    return ["".join(letters) for letters in found]
