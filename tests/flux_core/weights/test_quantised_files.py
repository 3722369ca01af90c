"""Every quantised file gives the numbers of its own library, and every backend computes with them.

Rows are formats, written by their libraries; columns are torch, MLX and the NumPy oracle, the peer being
the oracle on the weights that the library itself reads.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flux_core.weights.diffusers_keys import ConvertedSource
from flux_core.weights.expected import check_strict
from flux_core.weights.formats.matrix import MATRIX_ROWS
from flux_core.weights.open import open_source
from flux_core.weights.quant.schemes import SCHEMES
from flux_core.weights.tensors import RawTensor, RenamedSource, TensorSource
from tests.support.numerics import BACKENDS, ArraySource, distance, make_backend
from tests.support.oracle import OracleBackend
from tests.support.quantised import GGUF_TYPES, OneSource, in_gguf_type
from tests.support.quantised_files import WRITERS, Part, is_linear
from tests.support.small_parts import MODELS, make_part

TOLERANCE = 1e-5
PARTS = tuple(MODELS)
WITH_KERNELS = ("fp8 e4m3", "mflux unquantised", "mflux 8 bits")
"""Formats in which the autoencoder, whose kernels no scheme quantises, is stored in a way of its own."""


def under_models_names(source: TensorSource, part: Part) -> TensorSource:
    """What components.py does: prefixes off, folders' names made the single file's."""
    source = RenamedSource(source, {name.removeprefix(part.prefix): name for name in source.names()})
    if part.recipes is not None and not any(name in source.names() for name in part.weights if "0" in name):
        return ConvertedSource(source, part.recipes)
    return source


@pytest.mark.parametrize(
    ("format_name", "part_name"),
    [(f, p) for f in WRITERS for p in PARTS if p != "autoencoder" or f in WITH_KERNELS],
)
def test_a_file_of_every_format_computes_what_its_library_says(
    format_name: str, part_name: str, tmp_path: Path
) -> None:
    part, model = make_part(part_name), MODELS[part_name]
    values = WRITERS[format_name](part, tmp_path / "part.safetensors")
    source = under_models_names(open_source(tmp_path / "part.safetensors"), part)
    check_strict(model.shapes(), source.names(), "part")
    for name, peer in values.items():
        ours = source.read(name).to_numpy()
        close = np.spacing(np.abs(peer).max()) if "mflux" in format_name else 0.0
        assert np.abs(ours - peer).max() <= close, name

    schemes = {info.dtype for info in source.names().values()} - {"F32", "BF16"}
    row = next(row for row in MATRIX_ROWS if row.format == format_name)
    assert schemes == set(row.schemes) or part_name == "autoencoder"
    expected = model.run(OracleBackend(), ArraySource(values))
    results = {name: model.run(make_backend(name), source) for name in BACKENDS}
    results["oracle"] = model.run(OracleBackend(), source)
    gaps = {name: distance(result, expected) for name, result in results.items()}
    assert max(gaps.values()) < TOLERANCE, gaps


@pytest.mark.parametrize("part_name", ["transformer", "t5", "clip"])
@pytest.mark.parametrize("scheme", GGUF_TYPES)
def test_a_part_in_every_gguf_type_computes_what_its_values_say(scheme: str, part_name: str) -> None:
    part, model = make_part(part_name), MODELS[part_name]
    tensors: list[RawTensor] = []
    for name, array in part.weights.items():
        plain = RawTensor(name, "F32", array.shape, array.reshape(-1).view(np.uint8))
        fits = is_linear(name, array) and array.shape[1] % 256 == 0
        tensors.append(in_gguf_type(scheme, plain) if fits else plain)
    source = OneSource(*tensors)
    expected = model.run(OracleBackend(), ArraySource({t.name: t.to_numpy() for t in tensors}))
    gaps = {name: distance(model.run(make_backend(name), source), expected) for name in BACKENDS}
    assert max(gaps.values()) < TOLERANCE, gaps


def test_the_matrix_claims_what_these_tests_run_and_no_more() -> None:
    ran = {name: {p for p in PARTS if p != "autoencoder" or name in WITH_KERNELS} for name in WRITERS}
    ran |= {f"GGUF {scheme}": {"transformer", "t5", "clip"} for scheme in GGUF_TYPES}
    assert {row.format: set(row.parts) for row in MATRIX_ROWS} == ran
    assert all(scheme in SCHEMES for row in MATRIX_ROWS for scheme in row.schemes)
