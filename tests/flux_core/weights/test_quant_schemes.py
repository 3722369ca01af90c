"""Every scheme decodes to the same numbers on NumPy, torch and MLX, and leaves compute from its codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from flux_core.request import Precision
from flux_core.weights.quant import fp8
from flux_core.weights.quant.schemes import SCHEMES
from flux_core.weights.tensors import RawTensor, TensorInfo, cut_rows, stacked_rows, swapped_halves
from tests.support.numerics import BACKENDS, make_backend

ROWS, COLUMNS = 8, 512


def random_tensor(scheme: str, name: str = "layer.weight", seed: int = 0) -> RawTensor:
    """Random codes with scales near 1/20; NaN codes of the eight-bit floats left out."""
    rng = np.random.default_rng(seed)
    size = (ROWS, SCHEMES[scheme].row_bytes(COLUMNS))
    codes = rng.integers(0, 256, size, dtype=np.uint8)
    if scheme.startswith("F8"):
        codes = codes & 0xBB
    return RawTensor(name, scheme, (ROWS, COLUMNS), codes.reshape(-1), random_companions(scheme, rng))


def random_companions(scheme: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    widths = {"scale": 1}
    return {
        name: rng.uniform(0.02, 0.08, (ROWS, widths[name])).astype(np.float32)
        for name in SCHEMES[scheme].companions
    }


class OneSource:
    """A TensorSource of given tensors."""

    metadata: Mapping[str, str] = {}

    def __init__(self, *tensors: RawTensor) -> None:
        self.tensors = {tensor.name: tensor for tensor in tensors}

    def names(self) -> Mapping[str, TensorInfo]:
        return {name: TensorInfo(t.dtype, t.shape) for name, t in self.tensors.items()}

    def read(self, name: str) -> RawTensor:
        return self.tensors[name]


@pytest.mark.parametrize(
    ("table", "dtype"), [(fp8.E4M3_VALUES, torch.float8_e4m3fn), (fp8.E5M2_VALUES, torch.float8_e5m2)]
)
def test_the_table_of_an_eight_bit_float_is_torchs(table: np.ndarray, dtype: torch.dtype) -> None:
    peer = torch.arange(256, dtype=torch.uint8).view(dtype).float().numpy()
    assert np.array_equal(table, peer, equal_nan=True)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_linear_leaf_computes_from_codes_what_it_computes_from_their_values(
    scheme: str, backend: str
) -> None:
    raw = random_tensor(scheme)
    plain = RawTensor(raw.name, "F32", raw.shape, raw.to_numpy().reshape(-1).view(np.uint8))
    x = np.random.default_rng(1).standard_normal((3, COLUMNS)).astype(np.float32)
    results = []
    for tensor in (raw, plain):
        device: Any = make_backend(backend)
        with device.session():
            leaf = device.leaves(OneSource(tensor), Precision.FP32).linear("layer", COLUMNS, ROWS, bias=False)
            results.append(device.to_numpy(leaf(device.from_numpy(x))))
    assert np.array_equal(*results)
    assert np.isfinite(results[0]).all()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_embedding_leaf_gives_rows_of_the_decoded_table(scheme: str, backend: str) -> None:
    raw = random_tensor(scheme, "table.weight")
    index = np.array([[3, 0], [7, 3]], np.int32)
    device: Any = make_backend(backend)
    with device.session():
        leaf = device.leaves(OneSource(raw), Precision.FP32).embedding("table", ROWS, COLUMNS)
        found = device.to_numpy(leaf(device.from_numpy(index)))
    assert np.array_equal(found, raw.to_numpy()[index])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rows_are_cut_stacked_and_swapped_without_decoding(scheme: str) -> None:
    one, two = random_tensor(scheme, seed=1), random_tensor(scheme, seed=2)
    both = stacked_rows("both", [one, two])
    assert both.shape == (2 * ROWS, COLUMNS)
    assert np.array_equal(both.to_numpy(), np.concatenate([one.to_numpy(), two.to_numpy()]))
    assert np.array_equal(cut_rows(both, 3, 11).to_numpy(), both.to_numpy()[3:11])
    assert np.array_equal(swapped_halves(both).to_numpy(), np.roll(both.to_numpy(), ROWS, axis=0))
