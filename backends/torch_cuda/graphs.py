"""CUDA graphs of functions that are called many times with arrays of the same shapes, as a walk's steps are.

The first call computes as always and is recorded right behind, while the device is still busy with it, so
a graph costs nobody a wait; later calls copy their arrays into the graph's own and replay it. What cannot be
recorded runs as it did before: other devices, or a failure.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor

from backends.torch_cuda.memory import free_and_total_bytes
from backends.torch_cuda.offload.stream import Stream

MAX_GRAPHS = 6
"""Of one owner: two shapes of a walk with a step cache, which takes three. They share one pool of memory, so
another costs little more than its arrays."""

MIN_FREE_SHARE = 0.1
"""Of a device's memory; a recording keeps what its step needed."""

_log = logging.getLogger(__name__)


class Graphs:
    """The graphs of one device.

    Args:
        device: Where they run; nothing is recorded unless it is a CUDA device.

    Attributes:
        streams: What brings weights that do not stay on the device; recordings bring them, too.
        era: Grows whenever everything is forgotten.
    """

    def __init__(self, device: torch.device) -> None:
        self.is_able = device.type == "cuda"
        self._device = device
        self._kept: WeakKeyDictionary[Any, OrderedDict[Hashable, Recording | None]] = WeakKeyDictionary()
        self._pool: Any = None
        self.streams: WeakSet[Stream] = WeakSet()
        self.era = 0

    def ready(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, replayed from the second call of a kind on.

        Args:
            method: Of an object; its graphs go with the object. It gives tensors and changes nothing.
        """
        if not self.is_able or not isinstance(method, MethodType):
            return method
        return lambda *args, **kwargs: self._call(method, args, kwargs)

    def forget(self) -> None:
        """Forgets all graphs: something that they recorded has changed, such as which LoRAs hang where."""
        self._kept.clear()
        self._pool = None
        self.era += 1

    def _call(self, method: MethodType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        arrays: list[Tensor] = []
        try:
            key = method.__name__, shape_of((args, kwargs), arrays)
        except TypeError:
            return method(*args, **kwargs)  # it is given more than arrays and plain values
        graphs = self._kept.setdefault(method.__self__, OrderedDict())
        if key in graphs:
            graphs.move_to_end(key)
            found = graphs[key]
            return method(*args, **kwargs) if found is None else found.replay(arrays)
        out = method(*args, **kwargs)
        graphs[key] = self._recorded(method, args, kwargs, arrays)
        if len(graphs) > MAX_GRAPHS:
            graphs.popitem(last=False)
        return out

    def _recorded(
        self, method: MethodType, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Tensor]
    ) -> Recording | None:
        free, total = free_and_total_bytes(self._device)
        if free < MIN_FREE_SHARE * total:
            return None
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        inputs = [array.clone() for array in arrays]
        args, kwargs = with_arrays((args, kwargs), iter(inputs))
        try:
            return Recording(
                lambda: method(*args, **kwargs), inputs, self._pool, self._device, [*self.streams]
            )
        except RuntimeError as err:
            _log.info("A step could not be recorded and runs without a graph: %s", str(err).splitlines()[0])
            return None


class Recording:
    """One recorded call.

    Args:
        call: Computes one tensor or a tuple of them from `inputs`; it is recorded, not run.
        inputs: The arrays that the recording reads.
        pool: Where its memory comes from.
        device: Where it runs.
        streams: That may bring weights while it runs.
    """

    def __init__(
        self,
        call: Callable[[], Any],
        inputs: list[Tensor],
        pool: Any,
        device: torch.device,
        streams: Sequence[Stream] = (),
    ) -> None:
        self._inputs = inputs
        self._graph = torch.cuda.CUDAGraph()
        for each in streams:
            each.forget()
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        # Not torch.cuda.graph: it waits for the device first, which is just what shall go on meanwhile.
        with torch.cuda.stream(stream):
            self._graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                with ExitStack() as stack:
                    for each in streams:
                        stack.enter_context(each.recorded())
                    self._out = call()
            finally:
                self._graph.capture_end()
        torch.cuda.current_stream(device).wait_stream(stream)
        self._streams = [each for each in streams if each.was_recorded]

    def replay(self, arrays: list[Tensor]) -> Any:
        """The result for other arrays of the same shapes, in memory of its own."""
        for stream in self._streams:
            stream.forget()
        torch._foreach_copy_(self._inputs, arrays)  # pyright: ignore[reportPrivateImportUsage]
        self.repeat()
        outputs: list[Tensor] = []
        shape_of(self._out, outputs)
        return with_arrays(self._out, (array.clone() for array in outputs))

    def repeat(self) -> None:
        """Once more, with what the arrays that it reads hold now."""
        self._graph.replay()


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
