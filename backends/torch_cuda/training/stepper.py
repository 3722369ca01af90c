"""One training step, captured as a CUDA graph per input shape.

The tiny models launch many small kernels a step, and without a graph the processor sets the pace: on an
H200 graphs made 20 and 17 steps/s (128 and 256 px) into 49 and 37. Off CUDA the step runs eagerly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

_WARM_STEPS = 3

Key = tuple[int, ...]


class Stepper:
    """Loss, backward, clip and update.

    Args:
        loss: (key, *inputs) -> scalar loss; must do the same work every time for one key.
        parameters: What is trained; gradients are clipped to norm 1.
        optimiser: From network.adamw (capturable on CUDA).
        is_graphed: Whether to capture; False runs eagerly.
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        parameters: list[nn.Parameter],
        optimiser: torch.optim.Optimizer,
        is_graphed: bool,
    ) -> None:
        self._loss = loss
        self._parameters = parameters
        self._optimiser = optimiser
        self._is_graphed = is_graphed
        self._warm: dict[Key, int] = {}
        self._graphs: dict[Key, _Graph] = {}
        # Steps run one after another and only copies of their results leave them, so they share memory.
        self._pool = torch.cuda.graph_pool_handle() if is_graphed else None

    def __call__(self, key: Key, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Trains on one batch; inputs of one key always have the same shapes. Returns (loss, norm)."""
        if not self._is_graphed:
            return self._run(key, inputs)
        if key not in self._graphs:
            warm = self._warm.get(key, 0)
            if warm < _WARM_STEPS:
                self._warm[key] = warm + 1
                return self._on_side_stream(key, inputs)
            self._graphs[key] = self._capture(key, inputs)
        return self._graphs[key].replay(inputs)

    def _run(self, key: Key, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        self._optimiser.zero_grad(set_to_none=True)
        loss = self._loss(key, *inputs)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimiser.step()
        return loss.detach(), norm

    def _on_side_stream(self, key: Key, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = self._run(key, inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return result

    def _capture(self, key: Key, inputs: tuple[Tensor, ...]) -> _Graph:
        held = tuple(value.clone() for value in inputs)
        self._optimiser.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            results = self._run(key, held)
        return _Graph(graph, held, results)


class _Graph:
    """A captured step with its fixed inputs and outputs."""

    def __init__(
        self, graph: torch.cuda.CUDAGraph, inputs: tuple[Tensor, ...], results: tuple[Tensor, Tensor]
    ) -> None:
        self._graph = graph
        self._inputs = inputs
        self._results = results

    def replay(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        for held, value in zip(self._inputs, inputs, strict=True):
            held.copy_(value)
        self._graph.replay()
        loss, norm = self._results
        return loss.clone(), norm.clone()
