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
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
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
from backends.torch_cuda.recording import Pauses, Recording, Tape, shape_of, with_arrays
from flux_core.ops import HeadStream

MAX_GRAPHS = 6
"""Of one method. They share one pool of memory, so another costs little more than its arrays."""

MAX_GRAPHS_IN_TIME = 2
"""Of a method that is called now and then; modulations keep 2 MB a step."""

MIN_FREE_SHARE = 0.1
"""Of a device's memory; a recording keeps what its step needed."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_NOTHING_LEFT = object()


class _Known(Enum):
    """What is known of a kind of call that was not recorded yet."""

    NEW = "there was none that mattered"
    MET = "the next one is recorded"


_NEW, _MET = _Known.NEW, _Known.MET
_Kept = OrderedDict[tuple[str, Hashable], "Recording | _Known | None"]
"""By kind of call, the method's name and the shapes; None of one that cannot be recorded."""


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
        self._tape = Tape(device)
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
        self._tape.clear()
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
        same = [each for each in graphs if each[0] == method.__name__]
        if len(same) > (MAX_GRAPHS if is_urgent else MAX_GRAPHS_IN_TIME):
            del graphs[same[0]]
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
        inputs = [array.clone() for array in arrays]
        args, kwargs = with_arrays((args, kwargs), iter(inputs))
        call = partial(method, *args, **kwargs)
        make = partial(Recording, call, inputs, self._tape, [*self.streams], pauses)
        try:
            return self.aside(make).result()
        except RuntimeError as err:
            _log.info("What could not be recorded runs without a graph: %s", err)
            return None


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


def _begin_recorder(device: torch.device, here: _Here) -> None:
    """Begins the thread that records; no method of Graphs, which the thread would keep alive."""
    here.is_recorder = True
    if device.type == "cuda":
        with suppress(RuntimeError):
            free_and_total_bytes(device)  # cuBLAS warns of a thread that has asked nothing of a device
