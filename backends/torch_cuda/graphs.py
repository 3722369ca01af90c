"""CUDA graphs of functions that are called many times with arrays of the same shapes, as a walk's steps are.

The first call of a kind is recorded in pieces, and while the device computes one, the next is recorded; later
calls copy their arrays into the graph's own and replay it. In a process that has computed nothing yet, the
first call computes as always, because it loads its kernels on the way, and is recorded right behind. So a
graph costs nobody much of a wait. What is called now and then is recorded at its second call. What cannot be
recorded runs as it did before: other devices, or a failure.

One thread records, and computes what is recorded right behind, because libraries keep handles and plans of
attention for the thread that made them: what it has planned beforehand is there when it records.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from functools import partial
from types import MethodType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor

from backends.torch_cuda.memory import free_and_total_bytes
from backends.torch_cuda.offload.stream import Stream
from backends.torch_cuda.ops import TorchOps
from flux_core.ops import HeadStream

MAX_GRAPHS = 8
"""Of one owner: two shapes of a walk with a step cache, which takes three and one for its modulations. They
share one pool of memory, so another costs little more than its arrays."""

MIN_FREE_SHARE = 0.1
"""Of a device's memory; a recording keeps what its step needed."""

PAUSES_IN_A_PIECE = 8
"""Of a step that is computed while it is recorded: a block has one pause, a step of FLUX.1 has 57. The first
pieces have fewer, 1, 1, 2 and 4, so that the device soon has something to do."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_NOTHING_LEFT = object()


class _Known(Enum):
    """What is known of a kind of call that was not recorded yet."""

    NEW = "there was none that mattered"
    MET = "the next one is recorded"


_NEW, _MET = _Known.NEW, _Known.MET
_Kept = OrderedDict[Hashable, "Recording | _Known | None"]
"""By kind of call; None of one that cannot be recorded."""


class _Here(threading.local):
    """Whether this is the thread that records."""

    is_recorder = False


class Graphs:
    """The graphs of one device.

    Args:
        device: Where they run; nothing is recorded unless it is a CUDA device.

    Attributes:
        streams: What brings weights that do not stay on the device; recordings bring them, too.
        era: Grows whenever everything is forgotten.
        is_warm: Whether a step was computed in this process, or what is in it, so that kernels are there.
        meanwhile: What the thread that replays is to do, piece by piece, while the device is busy.
    """

    def __init__(self, device: torch.device) -> None:
        self.is_able = device.type == "cuda"
        self._device = device
        self._kept: WeakKeyDictionary[Any, _Kept] = WeakKeyDictionary()
        self._pool: Any = None
        self.streams: WeakSet[Stream] = WeakSet()
        self.era = 0
        self.is_warm = False
        self.meanwhile: Iterator[object] | None = None
        self._queued: torch.cuda.Event | None = None  # the end of the last replay
        self._pauses = Pauses()
        self._here = _Here()
        self._recorder = ThreadPoolExecutor(1, "recorder", partial(_begin_recorder, device, self._here))

    def ready(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, recorded at the first call of a kind and replayed from the second on.

        Args:
            method: Of an object; its graphs go with the object. It gives tensors and changes nothing.
        """
        return self._made_ready(method, is_urgent=True)

    def ready_in_time(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """As `ready` for what is called now and then: only the second call of a kind is recorded.

        A first picture waits for nothing that only later ones gain from.
        """
        return self._made_ready(method, is_urgent=False)

    def aside(self, work: Callable[[], _T]) -> Future[_T]:
        """Does something in the thread that records, in the mode and stream of this one.

        What that thread was given before is done before.
        """
        stream = torch.cuda.current_stream(self._device) if self.is_able else None
        is_inference, has_grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

        def run() -> _T:
            with (
                torch.cuda.stream(stream),
                torch.inference_mode(is_inference),
                torch.set_grad_enabled(has_grad),
            ):
                return work()

        return self._recorder.submit(run)

    def forget(self) -> None:
        """Forgets all graphs: something that they recorded has changed, such as which LoRAs hang where."""
        self._kept.clear()
        self._pool = None
        self.era += 1

    def _made_ready(self, method: Callable[..., Any], is_urgent: bool) -> Callable[..., Any]:
        if not self.is_able or not isinstance(method, MethodType):
            return method
        return lambda *args, **kwargs: self._call(method, args, kwargs, is_urgent)

    def _call(
        self, method: MethodType, args: tuple[Any, ...], kwargs: dict[str, Any], is_urgent: bool
    ) -> Any:
        if self._here.is_recorder:
            return method(*args, **kwargs)  # a part of what is computed or recorded there
        arrays: list[Tensor] = []
        try:
            key = method.__name__, shape_of((args, kwargs), arrays)
        except TypeError:
            return method(*args, **kwargs)  # it is given more than arrays and plain values
        graphs = self._kept.setdefault(method.__self__, OrderedDict())
        found = graphs.get(key, _MET if is_urgent else _NEW)
        if found is _NEW:
            out, found = method(*args, **kwargs), _MET
        elif found is _MET:
            out, found = self._first(method, args, kwargs, arrays, is_urgent)
        elif found is None:
            out = method(*args, **kwargs)
        else:
            out = found.replay(arrays)
            if is_urgent:
                self._use_the_wait()
        graphs[key] = found
        graphs.move_to_end(key)
        if len(graphs) > MAX_GRAPHS:
            graphs.popitem(last=False)
        return out

    def _first(
        self,
        method: MethodType,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        arrays: list[Tensor],
        is_urgent: bool,
    ) -> tuple[Any, Recording | None]:
        """What a call gives that is recorded, if that can be, and its recording."""
        found = self._recorded(method, args, kwargs, arrays, self._pauses) if self._runs_at_once else None
        if found is not None:
            return found.outputs(), found
        out = self.aside(partial(method, *args, **kwargs)).result()  # so that plans and handles are there
        found = self._recorded(method, args, kwargs, arrays)
        self.is_warm |= is_urgent
        return out, found

    def _use_the_wait(self) -> None:
        """The device is busy with this replay or the one before, and this thread would only wait for that."""
        before, self._queued = self._queued, torch.cuda.Event()
        self._queued.record(torch.cuda.current_stream(self._device))
        if self.meanwhile is None:
            return
        done = self._queued if before is None or before.query() else before
        try:
            while not done.query():
                if next(self.meanwhile, _NOTHING_LEFT) is _NOTHING_LEFT:
                    self.meanwhile = None
                    return
        except Exception as err:  # noqa: BLE001 # nobody needs it, and the job itself will say what is wrong
            self.meanwhile = None
            _log.info("What was to be done beside a step went wrong: %s", err)

    @property
    def _runs_at_once(self) -> bool:
        """Whether what is recorded for the first time need not be computed before."""
        return self.is_warm and not self.streams

    def pausing(self, ops: TorchOps) -> TorchOps:
        """The same operations, which tell of a pause in every block of a step."""
        if not self.is_able:
            return ops
        kind = type(ops)
        made = type(kind.__name__, (_Pausing, kind), {})()
        made.pauses = self._pauses
        return made

    def _recorded(
        self,
        method: MethodType,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        arrays: list[Tensor],
        pauses: Pauses | None = None,
    ) -> Recording | None:
        free, total = free_and_total_bytes(self._device)
        if free < MIN_FREE_SHARE * total:
            return None
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        inputs = [array.clone() for array in arrays]
        args, kwargs = with_arrays((args, kwargs), iter(inputs))
        call = partial(method, *args, **kwargs)
        make = partial(Recording, call, inputs, self._pool, self._device, [*self.streams], pauses)
        try:
            return self.aside(make).result()
        except RuntimeError as err:
            _log.info("What could not be recorded runs without a graph: %s", err)
            return None


class Pauses(threading.local):
    """Where in a step of this thread something else may be done for a moment, and what."""

    def __init__(self) -> None:
        self.use: Callable[[], None] = _nothing

    @contextmanager
    def used(self, use: Callable[[], None]) -> Generator[None]:
        self.use = use
        try:
            yield
        finally:
            self.use = _nothing


class _Pausing(TorchOps):
    """Operations with a pause in every block: before it attends."""

    pauses: Pauses

    def joint_attention(
        self,
        streams: Sequence[HeadStream],
        num_heads: int,
        pe: Tensor,
        *,
        scale: float,
        bias: Tensor | None = None,
    ) -> Tensor:
        self.pauses.use()
        return super().joint_attention(streams, num_heads, pe, scale=scale, bias=bias)


class Recording:
    """One recorded call.

    Args:
        call: Computes one tensor or a tuple of them from `inputs`; it is recorded, not run.
        inputs: The arrays that the recording reads.
        pool: Where its memory comes from.
        device: Where it runs.
        streams: That may bring weights while it runs.
        pauses: Of the call. With them it is run, too: the device computes what was recorded between two of
            them, a graph of its own, while what follows is recorded.
    """

    def __init__(
        self,
        call: Callable[[], Any],
        inputs: list[Tensor],
        pool: Any,
        device: torch.device,
        streams: Sequence[Stream] = (),
        pauses: Pauses | None = None,
    ) -> None:
        self._inputs = inputs
        self._pool = pool
        self._is_run = pauses is not None
        self._num_pauses = 0
        self._graphs = [torch.cuda.CUDAGraph()]
        for each in streams:
            each.forget()
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
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
        torch.cuda.current_stream(device).wait_stream(stream)
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


def _begin_recorder(device: torch.device, here: _Here) -> None:
    """Begins the thread that records; no method of Graphs, which the thread would keep alive."""
    here.is_recorder = True
    if device.type == "cuda":
        with suppress(RuntimeError):
            free_and_total_bytes(device)  # cuBLAS warns of a thread that has asked nothing of a device


def _nothing() -> None:
    pass


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
