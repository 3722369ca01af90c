"""Compiled torch code and captured CUDA graphs see what is attached, weighed and detached."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from backends.torch_cuda.adapters import TorchAdapters
from backends.torch_cuda.leaves import TorchLeaves
from flux_core.plan import Component
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

RNG = np.random.default_rng(0)
DIM = 16


def array(*shape: int) -> np.ndarray:
    return (0.3 * RNG.standard_normal(shape)).astype(np.float32)


def patch(layer: str, delta: Delta, rows: tuple[int, int] = (0, DIM), **more) -> Patch:
    return Patch(Component.TRANSFORMER, layer, rows, DIM, delta, **more)


PATCHES = [
    patch("a", LowRank(array(DIM, 2), array(2, DIM), 1.0, array(DIM))),
    patch("a", LowRank(array(8, 2), array(2, DIM)), (4, 12)),
    patch("a", Hadamard(array(DIM, 2), array(2, DIM), array(DIM, 2), array(2, DIM))),
    patch("b", Kronecker(array(4, 4), array(4, 4))),
    patch("b", Difference(array(DIM, DIM), array(DIM))),
    patch("b", LowRank(array(DIM, 2), array(2, DIM)), magnitude=Magnitude(1 + array(DIM) ** 2, Axis.ROWS)),
    patch("b", LowRank(array(DIM, 2), array(2, DIM)), magnitude=Magnitude(1 + array(DIM) ** 2, Axis.COLUMNS)),
    patch("n", NormChange(array(DIM), None, False)),
]


class Model(nn.Module):
    """Two linear leaves and a norm."""

    def __init__(self, device: str) -> None:
        super().__init__()
        weights = {name: torch.tensor(array(DIM, DIM), device=device) for name in ("a.weight", "b.weight")}
        weights |= {
            name: torch.tensor(array(DIM), device=device) for name in ("a.bias", "b.bias", "n.weight")
        }
        leaves = TorchLeaves(weights.__getitem__, device)
        self.a, self.b = leaves.linear("a", DIM, DIM), leaves.linear("b", DIM, DIM)
        self.n = leaves.rms_norm("n", DIM, 1e-6)
        self.adapters = TorchAdapters(leaves.modules, torch.device(device), torch.float32)
        self.x = torch.tensor(array(3, DIM), device=device)

    def forward(self, x: Tensor) -> Tensor:
        return self.n(self.b(self.a(x)))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_compiled_code_follows_every_change_and_a_new_strength_compiles_nothing(mode) -> None:
    torch._dynamo.reset()
    model = Model("cpu")
    compiled_graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, example_inputs: list[Tensor]):
        compiled_graphs.append(1)
        return graph.forward

    with mode():
        compiled = torch.compile(model, backend=backend)

        def agrees() -> bool:
            return torch.allclose(compiled(model.x), model(model.x), rtol=1e-5, atol=1e-6)

        plain = model(model.x)
        assert agrees()
        model.adapters.attach("all", PATCHES, 1.0)
        assert agrees()
        so_far, seen = len(compiled_graphs), [compiled(model.x)]
        for strength in (0.0, -1.0, 2.5):
            model.adapters.weigh("all", strength)
            assert agrees()
            seen.append(compiled(model.x))
        assert len(compiled_graphs) == so_far
        assert all(not torch.equal(one, other) for i, one in enumerate(seen) for other in seen[:i])
        model.adapters.detach("all")
        assert agrees()
        assert torch.equal(model(model.x), plain)


def test_a_strength_may_be_written_in_any_mode() -> None:
    model = Model("cpu")
    with torch.inference_mode():
        model.adapters.attach("a", PATCHES[:1], 1.0)
    model.adapters.weigh("a", 0.5)
    with torch.no_grad():
        model.adapters.weigh("a", 0.25)
    assert float(model.a.adapters[0].strength) == 0.25


if torch.cuda.is_available():  # needs a CUDA device; elsewhere there is nothing to capture

    def test_a_captured_graph_sees_a_new_strength() -> None:
        with torch.inference_mode():
            model = Model("cuda")
            model.adapters.attach("all", PATCHES, 1.0)
            side = torch.cuda.Stream()
            with torch.cuda.stream(side):
                model(model.x)  # libraries choose their kernels before the capture
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                out = model(model.x)
            for strength in (0.0, -1.0, 2.5):
                model.adapters.weigh("all", strength)
                graph.replay()
                assert torch.allclose(out, model(model.x), rtol=1e-5, atol=1e-6)


def test_what_has_recorded_a_model_is_told_of_what_comes_and_goes_and_not_of_strengths() -> None:
    told: list[int] = []
    leaves = TorchLeaves(lambda name: torch.tensor(array(DIM, DIM)))
    leaves.linear("a", DIM, DIM, bias=False)
    adapters = TorchAdapters(
        leaves.modules, torch.device("cpu"), torch.float32, on_change=lambda: told.append(len(told))
    )
    adapters.attach("one", [PATCHES[1]], 1.0)
    assert told
    count = len(told)
    adapters.weigh("one", 0.5)
    assert len(told) == count
    adapters.detach("one")
    assert len(told) > count
