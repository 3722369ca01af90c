"""One call as CUDA graphs: recorded in one piece, or in several while the device computes those before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from backends.torch_cuda.offload.stream import Stream
from backends.torch_cuda.ops import nothing

PAUSES_IN_A_PIECE = 8
"""Of a step that is computed while it is recorded: a block has one pause, a step of FLUX.1 has 57. The first
pieces have fewer, 1, 1, 2 and 4, so that the device soon has something to do."""


class Tape:
    """What the recordings of one device share: their memory, and the stream in which they are made.

    cuBLAS keeps 32 MB for every stream in which a thread multiplies, so they are made in one.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool: Any = None

    @cached_property
    def stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)

    @property
    def pool(self) -> Any:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        return self._pool

    def clear(self) -> None:
        """What is recorded next has memory of its own."""
        self._pool = None


class Recording:
    """One recorded call.

    Args:
        call: Computes one tensor or a tuple of them from `inputs`; it is recorded, not run.
        inputs: The arrays that the recording reads.
        tape: Of its device; nothing else is being recorded with it.
        streams: That may bring weights while it runs.
        pauses: Of the call. With them it is run, too: the device computes what was recorded between two of
            them, a graph of its own, while what follows is recorded.
    """

    def __init__(
        self,
        call: Callable[[], Any],
        inputs: list[Tensor],
        tape: Tape,
        streams: Sequence[Stream] = (),
        pauses: Pauses | None = None,
    ) -> None:
        self._inputs = inputs
        self._pool = tape.pool
        self._is_run = pauses is not None
        self._num_pauses = 0
        self._graphs = [torch.cuda.CUDAGraph()]
        for each in streams:
            each.forget()
        stream = tape.stream
        stream.wait_stream(torch.cuda.current_stream(tape.device))
        # Not torch.cuda.graph: it waits for the device first, which is just what shall go on meanwhile.
        with torch.cuda.stream(stream):
            self._begin()
            try:
                with ExitStack() as stack:
                    if pauses is not None:
                        stack.enter_context(pauses.used(self._pause))
                    for each in streams:
                        stack.enter_context(each.recorded())
                    self._out = call()
            finally:
                self._end()
        torch.cuda.current_stream(tape.device).wait_stream(stream)
        self._streams = [each for each in streams if each.was_recorded]

    def replay(self, arrays: list[Tensor]) -> Any:
        """The result for other arrays of the same shapes, in memory of its own."""
        for stream in self._streams:
            stream.forget()
        torch._foreach_copy_(self._inputs, arrays)  # pyright: ignore[reportPrivateImportUsage]
        self.repeat()
        return self.outputs()

    def repeat(self) -> None:
        """Once more, with what the arrays that it reads hold now."""
        for graph in self._graphs:
            graph.replay()

    def outputs(self) -> Any:
        """What was computed last, in memory of its own."""
        outputs: list[Tensor] = []
        shape_of(self._out, outputs)
        return with_arrays(self._out, (array.clone() for array in outputs))

    def _begin(self) -> None:
        # A kernel that comes with a new shape may be loaded on the way where it is run, too.
        mode = "relaxed" if self._is_run else "thread_local"
        self._graphs[-1].capture_begin(pool=self._pool, capture_error_mode=mode)

    def _pause(self) -> None:
        self._num_pauses += 1
        count = self._num_pauses
        is_early_end = count < PAUSES_IN_A_PIECE and count.bit_count() == 1
        if is_early_end or count % PAUSES_IN_A_PIECE == 0:
            self._end()
            self._graphs.append(torch.cuda.CUDAGraph())
            self._begin()

    def _end(self) -> None:
        self._graphs[-1].capture_end()
        if self._is_run:
            self._graphs[-1].replay()


class Pauses(threading.local):
    """Where in a step of this thread something else may be done for a moment, and what."""

    def __init__(self) -> None:
        self.use: Callable[[], None] = nothing

    @contextmanager
    def used(self, use: Callable[[], None]) -> Generator[None]:
        self.use = use
        try:
            yield
        finally:
            self.use = nothing


def shape_of(value: Any, arrays: list[Tensor]) -> Hashable:
    """What two calls must have in common to share a graph; collects the arrays on the way.

    Raises:
        TypeError: There is something in it whose state a graph could not follow.
    """
    match value:
        case Tensor():
            arrays.append(value)
            return value.shape, value.stride(), value.dtype
        case None | bool() | int() | float() | str():
            return value
        case tuple() | list():
            return type(value), *(shape_of(item, arrays) for item in value)
        case dict():
            return tuple((key, shape_of(item, arrays)) for key, item in value.items())
        case _:
            raise TypeError(f"{type(value).__name__} is not recorded")


def with_arrays(value: Any, arrays: Any) -> Any:
    """The same structure with other arrays, in the order in which `shape_of` met them."""
    match value:
        case Tensor():
            return next(arrays)
        case tuple() if hasattr(value, "_fields"):
            return type(value)(*(with_arrays(item, arrays) for item in value))
        case tuple() | list():
            return type(value)(with_arrays(item, arrays) for item in value)
        case dict():
            return {key: with_arrays(item, arrays) for key, item in value.items()}
        case _:
            return value
