"""Compiled MLX functions see what is attached, weighed and detached, at once."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from backends.mlx_metal.adapters import MlxAdapters
from backends.mlx_metal.leaves import MlxLeaves
from flux_core.plan import Component
from flux_core.weights.lora.patches import Axis, Delta, Difference, LowRank, Magnitude, NormChange, Patch

RNG = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def patch(layer: str, delta: Delta, **more) -> Patch:
    return Patch(Component.TRANSFORMER, layer, (0, 8), 8, delta, **more)


class Compiled:
    """Two linear leaves and a norm, compiled with their registry as inputs, beside themselves."""

    def __init__(self) -> None:
        weights = {name: mx.array(array(8, 8)) for name in ("a.weight", "b.weight")}
        weights |= {
            "n.weight": mx.array(array(8)),
            "a.bias": mx.array(array(8)),
            "b.bias": mx.array(array(8)),
        }
        leaves = MlxLeaves(weights.__getitem__)
        a, b = leaves.linear("a", 8, 8), leaves.linear("b", 8, 8)
        norm = leaves.rms_norm("n", 8, 1e-6)
        self.adapters = MlxAdapters(leaves.leaves, mx.float32)
        self.traces = 0

        def run(x: mx.array) -> mx.array:
            self.traces += 1
            return norm(b(a(x)))

        self.eager = run
        self.compiled = mx.compile(run, inputs=leaves.leaves)
        self.x = mx.array(array(3, 8))

    def agrees(self) -> bool:
        """Whether the compiled function gives what the leaves give now."""
        return np.allclose(self.compiled(self.x), self.eager(self.x), rtol=1e-5, atol=1e-6)

    def traced(self) -> int:
        """How often the compiled function is traced by one call."""
        before = self.traces
        mx.eval(self.compiled(self.x))
        return self.traces - before


def test_a_compiled_function_follows_every_change_and_is_traced_again_only_for_a_new_structure() -> None:
    model = Compiled()
    first = patch("a", LowRank(array(8, 2), array(2, 8)))
    dora = patch("b", LowRank(array(8, 2), array(2, 8)), magnitude=Magnitude(1 + array(8) ** 2, Axis.ROWS))
    norm = patch("n", NormChange(array(8), None, False))
    assert model.agrees()
    model.adapters.attach("one", [first, norm], 1.0)
    assert model.agrees()
    model.adapters.attach("two", [dora], 0.5)
    assert model.agrees()
    plain = np.array(model.compiled(model.x))
    for strength in (0.0, -1.0, 2.5):
        for name in ("one", "two"):
            model.adapters.weigh(name, strength)
            assert model.traced() == 0
            assert model.agrees()
        assert not np.array_equal(model.compiled(model.x), plain)
    model.adapters.detach("one")
    assert model.agrees()
    model.adapters.detach("two")
    assert model.agrees()


def test_moving_an_equal_adapter_to_another_layer_is_seen() -> None:
    model = Compiled()
    difference = Difference(array(8, 8))
    for layer in ("a", "b", "a"):
        model.adapters.attach("moved", [patch(layer, difference)], 1.0)
        assert model.agrees()
        model.adapters.detach("moved")
        assert model.agrees()
