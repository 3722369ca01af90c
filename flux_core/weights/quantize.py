"""Makes a smaller copy of a weights file: codes instead of numbers, and a report of what that costs.

Matrices are read, coded and written a few rows at a time, so a file of 24 GB needs some hundred
megabytes of memory. Every form that is written is one that is read: the copy gives back the very codes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import Corrupt, RequestInvalid
from flux_core.weights.detect_lora import is_lora
from flux_core.weights.header import shown
from flux_core.weights.quant.encode import ENCODERS, to_bf16
from flux_core.weights.quant.forms import Form
from flux_core.weights.quant.schemes import SCHEMES, decode
from flux_core.weights.safetensors_writer import Planned, write_safetensors
from flux_core.weights.tensors import RawTensor, TensorInfo, TensorSource, cut_rows

METADATA = "flowbrush_quantization"
"""Header key: a JSON object with the scheme and the version of this form."""
_CHUNK_VALUES = 2**17
_MOST_THREADS = 8
_FLOATS = ("F32", "F16", "BF16", "F64")
_OTHERS_METADATA = ("_quantization_metadata", "quantization_level", "bits", "mflux_version", METADATA)
"""What the copy must not say of itself any more."""

KEPT = re.compile(
    r"(?:^|\.)(?:img_in|txt_in|time_in|vector_in|guidance_in|final_layer|x_embedder|context_embedder"
    r"|controlnet_x_embedder|time_text_embed|norm_out|shared|embed_tokens|token_embedding"
    r"|position_embedding|relative_attention_bias)\."
    r"|(?<!\d\.)\bproj_out\."
)
"""Matrices that stay as they are: the few at the model's ends, through which every value passes, and tables
of embeddings. Norms, biases and kernels stay because only matrices are quantised."""


@dataclass(frozen=True, slots=True)
class LayerError:
    """What coding one matrix cost.

    Attributes:
        relative_rms: Root mean square of the differences, relative to that of the numbers.
        largest: Largest difference.
    """

    name: str
    shape: tuple[int, ...]
    relative_rms: float
    largest: float


@dataclass(slots=True)
class Report:
    """What was done.

    Attributes:
        kept: Tensors that stayed as they were.
        bytes_written: Size of the new file.
    """

    scheme: str
    layers: list[LayerError] = field(default_factory=list[LayerError])
    kept: list[str] = field(default_factory=list[str])
    bytes_written: int = 0


def quantize(
    source: TensorSource,
    form: Form,
    output: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    which: Callable[[str, TensorInfo], bool] | None = None,
) -> Report:
    """Writes the quantised copy.

    Args:
        source: Tensors under any published names; may be quantised in another way already.
        form: One of FORMS.
        output: A new safetensors file.
        progress: Called with (tensors done, tensors in all) after each tensor.
        which: Says of each tensor whether it is coded, for those who know the file: also a LoRA then, and in
            fp8 also kernels. By default the matrices that `is_quantised_by` finds.

    Raises:
        RequestInvalid: The source is a LoRA or has no matrix to quantise, or `output` cannot be written.
        Corrupt: A matrix holds values that are not numbers, or cannot be read.
        StorageFull: The disk is full; nothing is left behind.
    """
    found = source.names()
    if which is None and is_lora(found):
        raise RequestInvalid(
            "The file is a LoRA, which is small already and which few programs read in fewer bits.",
            "Quantise the model that it changes; the LoRA works on that as it is.",
        )
    is_chosen = which or partial(is_quantised_by, form.scheme)
    chosen = {name for name, info in found.items() if is_chosen(name, info)}
    if not chosen:
        raise RequestInvalid(
            f"The file has no matrix that could be stored as {form.title}.",
            "Choose the file of a transformer or a text encoder.",
        )
    report = Report(form.scheme, kept=[name for name in found if name not in chosen])
    planned = [p for name, info in found.items() for p in _plan(form, name, info, name in chosen)]

    def data(pool: ThreadPoolExecutor) -> Iterator[NDArray[Any]]:
        for done, (name, info) in enumerate(found.items(), 1):
            if name in chosen:
                yield from _coded(form, source.read(name), report, pool)
            else:
                yield _kept(source.read(name), info)
            progress(done, len(found))

    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        report.bytes_written = write_safetensors(output, planned, data(pool), _metadata(source, form))
    return report


def is_quantised_by(scheme: str, name: str, info: TensorInfo) -> bool:
    """Whether a tensor is a matrix that a scheme's blocks divide and that does not have to stay exact."""
    is_matrix = len(info.shape) == 2 and (info.dtype in _FLOATS or info.dtype in SCHEMES)
    if not is_matrix or not name.endswith(".weight") or KEPT.search(name):
        return False
    return min(info.shape) > 1 and info.shape[1] % SCHEMES[scheme].block == 0


def _plan(form: Form, name: str, info: TensorInfo, is_chosen: bool) -> list[Planned]:
    if is_chosen:
        return form.plan(name, info.shape)
    return [Planned(name, "BF16" if info.dtype in SCHEMES else info.dtype, info.shape)]


def _kept(raw: RawTensor, info: TensorInfo) -> NDArray[Any]:
    return to_bf16(raw.to_numpy()) if info.dtype in SCHEMES else raw.data


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some rows of a matrix, coded; squares are the sums over the differences and over the numbers."""

    codes: NDArray[np.uint8]
    companions: dict[str, NDArray[Any]]
    squares: tuple[float, float]
    largest: float


def _coded(form: Form, raw: RawTensor, report: Report, pool: ThreadPoolExecutor) -> list[NDArray[Any]]:
    rows, columns = raw.shape[0], prod(raw.shape[1:])
    step = max(1, _CHUNK_VALUES // columns)
    pieces = [cut_rows(raw, start, min(start + step, rows)) for start in range(0, rows, step)]
    codes = np.empty((rows, SCHEMES[form.scheme].row_bytes(columns)), np.uint8)
    companions: list[dict[str, NDArray[Any]]] = []
    squares = np.zeros(2)
    largest = at = 0
    for chunk in pool.map(partial(_chunk, form.scheme), pieces):
        codes[at : at + len(chunk.codes)] = chunk.codes
        at += len(chunk.codes)
        companions.append(chunk.companions)
        squares += chunk.squares
        largest = max(largest, chunk.largest)
    relative = float(np.sqrt(squares[0] / squares[1])) if squares[1] else 0.0
    report.layers.append(LayerError(raw.name, raw.shape, relative, largest))
    joined = {key: np.concatenate([part[key] for part in companions]) for key in companions[0]}
    return form.arrays(raw.shape, codes, joined)


def _chunk(scheme: str, piece: RawTensor) -> _Chunk:
    values = piece.to_numpy().reshape(piece.shape[0], -1)
    if not np.isfinite(values).all():
        raise Corrupt(
            f"{shown(piece.name)} holds values that are not finite numbers.", "Get a sound copy of the file."
        )
    codes, companions = ENCODERS[scheme](values)
    difference = decode(scheme, codes, companions) - values
    lost, all_of_it = (float(np.square(x, dtype=np.float64).sum()) for x in (difference, values))
    return _Chunk(codes, companions, (lost, all_of_it), float(np.abs(difference).max()))


def _metadata(source: TensorSource, form: Form) -> dict[str, str]:
    own = {METADATA: json.dumps({"scheme": form.scheme, "version": 1})}
    kept = {key: text for key, text in source.metadata.items() if key not in _OTHERS_METADATA}
    return kept | own | dict(form.metadata)
