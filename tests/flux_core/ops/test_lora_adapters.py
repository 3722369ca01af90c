"""What LoRAs do to leaves: torch and MLX against NumPy in float64, plain and quantised, and back again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flux_core.plan import Component
from flux_core.request import Precision
from flux_core.weights.lora.patches import (
    Axis,
    Delta,
    Difference,
    Hadamard,
    Kronecker,
    LowRank,
    Magnitude,
    NormChange,
    Patch,
)
from flux_core.weights.quant.schemes import SCHEMES
from tests.flux_core.weights.test_quant_schemes import OneSource, random_tensor
from tests.support.lora_files import Draw, ExactSource, merged
from tests.support.numerics import BACKENDS, ArraySource, distance, make_backend, to_bf16
from tests.support.oracle import OracleBackend

IN, OUT = 24, 20
draw = Draw(5)


def patch(delta: Delta, rows: tuple[int, int] = (0, OUT), columns: int = IN, **more: Any) -> Patch:
    return Patch(Component.TRANSFORMER, "leaf", rows, columns, delta, **more)


def low_rank(rows: int = OUT, columns: int = IN, rank: int = 3, scale: float = 0.7) -> LowRank:
    return LowRank(draw.array(rows, rank), draw.array(rank, columns), scale)


def lengths(count: int, axis: Axis) -> Magnitude:
    return Magnitude(1 + np.abs(draw.array(count)), axis)


HADA = Hadamard(draw.array(OUT, 2), draw.array(2, IN), draw.array(OUT, 3), draw.array(3, IN), 1.5)
FULL_KRON = Kronecker(draw.array(4, 6), draw.array(5, 4))
KRON = Kronecker(draw.array(5, 3), draw.array(4, 2), draw.array(2, 8), 0.5)
KINDS: dict[str, Patch] = {
    "LoRA": patch(low_rank()),
    "LoRA with bias": patch(LowRank(draw.array(OUT, 3), draw.array(3, IN), 1.0, draw.array(OUT))),
    "LoRA on rows": patch(low_rank(8), (4, 12)),
    "LoRA on the first columns": patch(low_rank(columns=16), columns=16),
    "LoHa": patch(HADA),
    "LoKr in full": patch(FULL_KRON),
    "LoKr": patch(KRON),
    "difference": patch(Difference(draw.array(OUT, IN), draw.array(OUT))),
    "bias": patch(Difference(None, draw.array(8)), (12, 20)),
    "DoRA by rows": patch(low_rank(), magnitude=lengths(OUT, Axis.ROWS)),
    "DoRA by columns": patch(low_rank(), magnitude=lengths(IN, Axis.COLUMNS)),
    "DoRA on rows": patch(low_rank(8), (4, 12), magnitude=lengths(8, Axis.ROWS)),
    "DoRA by columns of rows": patch(low_rank(8), (4, 12), magnitude=lengths(IN, Axis.COLUMNS)),
    "DoRA of LoHa": patch(HADA, magnitude=lengths(OUT, Axis.ROWS)),
    "DoRA of LoKr": patch(KRON, magnitude=lengths(IN, Axis.COLUMNS)),
}
WEIGHTS = {"leaf.weight": draw.array(OUT, IN), "leaf.bias": draw.array(OUT)}
X = np.random.default_rng(0).standard_normal((2, 5, IN)).astype(np.float32)


class Bench:
    """A linear leaf on a backend, with adapters."""

    def __init__(self, backend_name: str, precision: Precision = Precision.FP32, source: Any = None) -> None:
        self.backend, self.precision = make_backend(backend_name), precision
        with self.backend.session():
            leaves = self.backend.leaves(source or ArraySource(WEIGHTS), precision)
            self.leaf = leaves.linear("leaf", IN, OUT)
            self.adapters = self.backend.adapters(leaves, precision)

    def __call__(self, x: np.ndarray = X) -> np.ndarray:
        with self.backend.session():
            given = self.backend.cast(self.backend.from_numpy(x), self.precision)
            return self.backend.to_numpy(self.leaf(given))

    def attach(self, name: str, *patches: Patch, strength: float = 1.0) -> None:
        with self.backend.session():
            self.adapters.attach(name, patches, strength)


def oracle(*uses: tuple[list[Patch], float], x: np.ndarray = X, weights: Any = None) -> np.ndarray:
    source = ExactSource(merged(weights or WEIGHTS, uses))
    return OracleBackend().leaves(source, None).linear("leaf", x.shape[-1], OUT)(x.astype(np.float64))


@pytest.mark.parametrize("strength", [1.0, 0.6, -1.5])
@pytest.mark.parametrize("backend_name", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_stays_near_the_oracle(kind: str, backend_name: str, strength: float) -> None:
    bench = Bench(backend_name)
    bench.attach("a", KINDS[kind], strength=strength)
    error = distance(bench(), oracle(([KINDS[kind]], strength)))
    assert error < 5e-7, f"{error:.1e}"


@pytest.mark.parametrize("backend_name", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_works_in_bfloat16(kind: str, backend_name: str) -> None:
    rounded = {name: to_bf16(array) for name, array in WEIGHTS.items()}
    bench = Bench(backend_name, Precision.BF16, ArraySource(rounded))
    bench.attach("a", KINDS[kind], strength=0.6)
    true = oracle(([KINDS[kind]], 0.6), x=to_bf16(X), weights=rounded)
    assert distance(bench(to_bf16(X)), true) < 2e-2


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_any_number_add_up_and_each_can_be_weighed_and_taken_away(backend_name: str) -> None:
    bench = Bench(backend_name)
    plain = bench()
    for kind, one in KINDS.items():
        bench.attach(kind, one, strength=0.5)
    assert distance(bench(), oracle(*(([one], 0.5) for one in KINDS.values()))) < 1e-6
    strengths = {kind: 0.1 * i - 0.4 for i, kind in enumerate(KINDS)}
    for kind, strength in strengths.items():
        bench.adapters.weigh(kind, strength)
    assert bench.adapters.strengths == strengths
    assert distance(bench(), oracle(*(([KINDS[k]], s) for k, s in strengths.items()))) < 1e-6
    for kind in list(KINDS)[::2]:
        bench.adapters.detach(kind)
    left = {kind: strengths[kind] for kind in list(KINDS)[1::2]}
    assert distance(bench(), oracle(*(([KINDS[k]], s) for k, s in left.items()))) < 1e-6
    for kind in left:
        bench.adapters.detach(kind)
    assert np.array_equal(bench(), plain)


@pytest.mark.parametrize("backend_name", BACKENDS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_quantised_base_takes_every_kind_and_is_untouched_afterwards(
    scheme: str, backend_name: str
) -> None:
    raw = random_tensor(scheme, "leaf.weight")
    rows, columns = raw.shape
    base = {"leaf.weight": raw.to_numpy()}
    x = np.random.default_rng(1).standard_normal((3, columns)).astype(np.float32)
    half = rows // 2
    patches = [
        patch(low_rank(rows, columns), (0, rows), columns),
        patch(low_rank(half, columns), (half, rows), columns, magnitude=lengths(half, Axis.ROWS)),
        patch(Kronecker(draw.array(2, columns // 16), draw.array(half, 16)), (0, rows), columns),
    ]
    backend = make_backend(backend_name)
    with backend.session():
        leaves = backend.leaves(OneSource(raw), Precision.FP32)
        leaf = leaves.linear("leaf", columns, rows, bias=False)
        adapters = backend.adapters(leaves, Precision.FP32)
        given = backend.from_numpy(x)
        plain = backend.to_numpy(leaf(given))
        adapters.attach("a", patches, 0.8)
        found = backend.to_numpy(leaf(given))
        adapters.detach("a")
        again = backend.to_numpy(leaf(given))
    true = x.astype(np.float64) @ merged(base, [(patches, 0.8)])["leaf.weight"].T
    assert distance(found, true) < 2e-6
    assert np.array_equal(again, plain)


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_a_wider_adapter_widens_the_base_with_zeros_as_long_as_it_hangs_there(backend_name: str) -> None:
    wide, wider = (patch(low_rank(columns=n), columns=n) for n in (40, 64))
    bench = Bench(backend_name)
    plain = bench()
    bench.attach("wide", wide)
    bench.attach("wider", wider, strength=0.5)
    bench.attach("narrow", KINDS["LoRA"])
    x = np.random.default_rng(3).standard_normal((4, 64)).astype(np.float32)
    true = oracle(([wide], 1.0), ([wider], 0.5), ([KINDS["LoRA"]], 1.0), x=x)
    assert distance(bench(x), true) < 5e-7
    bench.adapters.detach("wider")
    assert distance(bench(x[:, :40]), oracle(([wide], 1.0), ([KINDS["LoRA"]], 1.0), x=x[:, :40])) < 5e-7
    bench.adapters.detach("wide")
    bench.adapters.detach("narrow")
    assert np.array_equal(bench(), plain)


NORMS: dict[str, Callable[[Any], Any]] = {
    "rms": lambda leaves: leaves.rms_norm("leaf", IN, 1e-6, key="scale"),
    "layer": lambda leaves: leaves.layer_norm("leaf", IN, 1e-5),
}


@pytest.mark.parametrize("backend_name", BACKENDS)
@pytest.mark.parametrize("norm", NORMS)
def test_norms_are_replaced_whatever_the_strength_and_added_to_with_it(norm: str, backend_name: str) -> None:
    key = "scale" if norm == "rms" else "weight"
    weights = {f"leaf.{key}": 1 + draw.array(IN), "leaf.bias": draw.array(IN)}
    bias = None if norm == "rms" else draw.array(IN)
    first, second = (patch(NormChange(1 + draw.array(IN), None, True), columns=0) for _ in range(2))
    more = patch(NormChange(draw.array(IN), bias, False), columns=0)
    backend = make_backend(backend_name)
    with backend.session():
        leaves = backend.leaves(ArraySource(weights), Precision.FP32)
        leaf, x = NORMS[norm](leaves), backend.from_numpy(X)
        adapters = backend.adapters(leaves, Precision.FP32)

        def gap(*uses: tuple[list[Patch], float]) -> float:
            true = NORMS[norm](OracleBackend().leaves(ExactSource(merged(weights, uses)), None))(X)
            return distance(backend.to_numpy(leaf(x)), true)

        plain = backend.to_numpy(leaf(x))
        adapters.attach("first", [first], 0.3)
        assert gap(([first], 0.3)) < 5e-7
        adapters.attach("second", [second], 0.3)
        adapters.attach("more", [more], 0.4)
        assert gap(([first, second], 1), ([more], 0.4)) < 5e-7
        adapters.weigh("more", -1.0)
        adapters.detach("second")
        assert gap(([first], 1), ([more], -1.0)) < 5e-7
        adapters.detach("first")
        assert gap(([more], -1.0)) < 5e-7
        adapters.detach("more")
        assert np.array_equal(backend.to_numpy(leaf(x)), plain)


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_only_attaching_and_detaching_changes_the_structure(backend_name: str) -> None:
    bench = Bench(backend_name)
    seen = [bench.adapters.structure]
    bench.attach("a", KINDS["LoRA"])
    seen.append(bench.adapters.structure)
    bench.adapters.weigh("a", 2.0)
    assert bench.adapters.structure == seen[-1]
    bench.adapters.detach("a")
    seen.append(bench.adapters.structure)
    assert seen == sorted(set(seen))


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_a_lora_that_cannot_be_read_to_its_end_leaves_nothing_behind(backend_name: str) -> None:
    bench = Bench(backend_name)
    plain = bench()

    def breaks():
        yield KINDS["LoRA"]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        bench.adapters.attach("a", breaks(), 1.0)
    assert np.array_equal(bench(), plain)
    assert bench.adapters.strengths == {}
