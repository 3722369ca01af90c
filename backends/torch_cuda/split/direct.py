"""Devices that reach each other's memory: rows are copied to where they are needed.

Beside something that is computed a copy engine does it, so that no product has to share the device with a
library's kernel; where everything waits for the rows, a kernel, which begins and ends sooner. A flag in the
taker's memory says that rows are there. Nobody asks whether a landing is free: what a rank gives next depends
on what the taker made of the last (see Passage.name).
"""

from __future__ import annotations

import contextlib
import importlib
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backends.torch_cuda.ops import nothing
from backends.torch_cuda.split.links import Links, Passage, Way

_LEAST_BYTES = 2**20
"""Of a room."""
_FLAGS_BYTES = 4096
"""Behind a room."""

_Move = tuple[Tensor, Tensor]
"""Contiguous rows, and as many evenly apart on this device or another."""


def linked(file: Path, rank: int, size: int, device: torch.device, way: Way) -> Links:
    """A rank's end of what `way_between` says; as Links."""
    return (DirectLinks if way == "direct" else Links)(file, rank, size, device, way)


class DirectLinks(Links):
    """One rank's end, of devices that reach each other's memory; as Links."""

    def __init__(self, file: Path, rank: int, size: int, device: torch.device, way: Way) -> None:
        super().__init__(file, rank, size, device, way)
        from backends.torch_cuda.kernels import flags

        self._flags = flags
        self._rooms: dict[str, list[_Room]] = {}  # the last is used; recordings may give to those before
        self._copies = torch.cuda.Stream(device, priority=-1)
        self._arrivals = torch.zeros(1, dtype=torch.int32, device=device)
        self._gone = torch.zeros(1, dtype=torch.int32).pin_memory()

    def meet(self) -> None:
        super().meet()
        with torch.inference_mode():
            ones = torch.ones((self.size - 1, 1), dtype=torch.uint8, device=self.device)
            passage = Passage("", [[1] * self.size] * self.size, [0] * self.size)
            for is_awaited in (False, True):
                landing = self.landing("", [self.size - 1] * self.size, (1,), ones).zero_()
                taken = torch.empty_like(ones)
                self.exchange(ones, taken, [1] * self.size, [1] * self.size)()  # everybody's is zero then
                self.give(passage, ones, landing, is_awaited)()
                is_there = bool(landing.eq(1).all())
                self.exchange(ones, taken, [1] * self.size, [1] * self.size)()
                rows = torch.full((self.size, 1), self.rank, dtype=torch.uint8, device=self.device)
                found = self.joined("", rows, [1] * self.size, is_awaited)()
                if not is_there or found.tolist() != [[*range(self.size)]]:
                    raise RuntimeError("what one device writes does not reach the other")

    def landing(self, name: str, rows: Sequence[int], shape: Sequence[int], like: Tensor) -> Tensor:
        size = prod(shape) * like.element_size()
        rooms = self._rooms.setdefault(name, [])
        if not rooms or rooms[-1].size < max(rows) * size:
            rooms.append(self._built(max(rows) * size))
        return rooms[-1].own[: rows[self.rank] * size].view(like.dtype).view(rows[self.rank], *shape)

    def give(
        self, passage: Passage, given: Tensor, landing: Tensor, is_awaited: bool = False
    ) -> Callable[[], None]:
        moves: list[_Move] = []
        start, row = 0, landing[:1].nbytes
        for taker, there in self._rooms[passage.name][-1].others.items():
            rows = given[start : start + passage.counts[self.rank][taker]]
            begin = passage.place(self.rank, taker) * row
            moves.append((rows, there[begin : begin + rows.nbytes].view(rows.dtype).view(rows.shape)))
            start += len(rows)
        return self._moved(passage.name, moves, is_awaited)

    def joined(
        self, name: str, rows: Tensor, counts: Sequence[int], is_awaited: bool = False
    ) -> Callable[[], Tensor]:
        own, shape = counts[self.rank], (self.size, rows.shape[1])
        landing = self.landing(name, counts, shape, rows)
        moves: list[_Move] = []
        start = own
        for taker, there in self._rooms[name][-1].others.items():
            count = counts[taker]
            there = there[: count * landing[:1].nbytes].view(rows.dtype).view(count, *shape)
            moves.append((rows[start : start + count], there[:, self.rank]))
            start += count
        arrive = self._moved(name, moves, is_awaited, (rows[:own], landing[:, self.rank]))

        def take() -> Tensor:
            arrive()
            return landing.flatten(1)

        return take

    def _moved(
        self, name: str, moves: Sequence[_Move], is_awaited: bool, own: _Move | None = None
    ) -> Callable[[], None]:
        """Begins to write what others get, in their order, and raises their flags; also what stays here."""
        room = self._rooms[name][-1]
        keep = nothing if own is None else partial(self._flags.copy, *own)
        if is_awaited:
            for taker, (rows, there) in enumerate(moves):
                self._flags.copy(rows, there, room.flags_there[taker : taker + 1], self._arrivals)
            keep()  # while the others' rows come
        else:
            self._copies.wait_stream(torch.cuda.current_stream(self.device))
            keep()  # before a product has all of the device
            with torch.cuda.stream(self._copies):
                for rows, there in moves:
                    room.copy(rows, there)
                self._flags.raise_flags(room.flags_there)

        def arrive() -> None:
            with torch.cuda.device(self.device):
                if not is_awaited:
                    torch.cuda.current_stream(self.device).wait_stream(self._copies)
                self._flags.await_flags(room.flags, self._gone)

        return arrive

    def abort(self) -> None:
        self._gone.fill_(1)
        super().abort()

    def _built(self, size: int) -> _Room:
        """A room on every rank, which all of them ask for at the same time."""
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("there is no room for others' rows while an evaluation is recorded")
        room = _Room(1 << (max(size, _LEAST_BYTES) - 1).bit_length(), self.device, self._gone)
        handle = torch.frombuffer(bytearray(room.handle), dtype=torch.uint8)
        given = handle.repeat(self.size - 1, 1).to(self.device)
        taken = torch.empty_like(given)
        self.exchange(given, taken, [1] * self.size, [1] * self.size)()
        others = [rank for rank in range(self.size) if rank != self.rank]
        handles = [bytes(each) for each in taken.tolist()]
        room.open(dict(zip(others, handles, strict=True)), self.rank)
        return room


class _Room:
    """Memory of this rank that others write into, and theirs that this one writes into.

    Args:
        size: Bytes, without the flags behind them: one for each giver, in order of the ranks.
        device: Of this rank.
        gone: What whoever waits for a flag looks at; is kept as long as there are flags.

    Attributes:
        own: [size] uint8.
        handle: What others open it with.
        flags: [N - 1] int32, raised by the others when their rows are here.
        others: Other ranks' rooms [size] uint8, by rank.
        flags_there: [N - 1] int64, the addresses of this rank's flags in other ranks' rooms.
    """

    flags: Tensor
    flags_there: Tensor

    def __init__(self, size: int, device: torch.device, gone: Tensor) -> None:
        self._cuda: Any = importlib.import_module("cuda.bindings.runtime")
        self.size = size
        self.others: dict[int, Tensor] = {}
        self._device = device
        with torch.cuda.device(device):
            address, self._opened = self._allocated(size + _FLAGS_BYTES), list[int]()
            weakref.finalize(self, _let_go, self._cuda, device, address, self._opened, gone).atexit = False
            self._whole = torch.as_tensor(_Bytes(address, size + _FLAGS_BYTES), device=device)
            self._whole[size:] = 0
            torch.cuda.current_stream(device).synchronize()  # before anybody raises a flag
            self.handle = bytes(self._checked(self._cuda.cudaIpcGetMemHandle(address)).reserved)
        self.own = self._whole[:size]

    def open(self, handles: dict[int, bytes], rank: int) -> None:
        """Finds other ranks' rooms, which have the same size.

        Args:
            handles: By rank.
            rank: This one.
        """
        with torch.cuda.device(self._device):
            for other, handle in handles.items():
                wanted = self._cuda.cudaIpcMemHandle_t()
                wanted.reserved = handle
                flag = self._cuda.cudaIpcMemLazyEnablePeerAccess
                address = int(self._checked(self._cuda.cudaIpcOpenMemHandle(wanted, flag)))
                self._opened.append(address)
                self.others[other] = torch.as_tensor(_Bytes(address, self.size))
        self.flags = self._whole[self.size :].view(torch.int32)[: len(handles)]
        flags = [
            there.data_ptr() + self.size + 4 * (rank - (rank > other)) for other, there in self.others.items()
        ]
        self.flags_there = torch.tensor(flags, dtype=torch.int64, device=self._device)

    def copy(self, rows: Tensor, there: Tensor) -> None:
        """As kernels.flags.copy, by a copy engine, in the current stream."""
        cuda, stream = self._cuda, torch.cuda.current_stream(self._device).cuda_stream
        kind, places = cuda.cudaMemcpyKind.cudaMemcpyDefault, (there.data_ptr(), rows.data_ptr())
        width, pitch = rows.stride(0) * rows.itemsize, there.stride(0) * rows.itemsize
        if width == pitch:
            self._checked(cuda.cudaMemcpyAsync(*places, rows.nbytes, kind, stream))
        else:
            given = places[0], pitch, places[1], width, width, len(rows)
            self._checked(cuda.cudaMemcpy2DAsync(*given, kind, stream))

    def _allocated(self, size: int) -> int:
        """The address of so many bytes beside torch's own; raises torch.OutOfMemoryError."""
        code, address = self._cuda.cudaMalloc(size)
        if int(code) != 0:
            torch.cuda.empty_cache()  # torch keeps what it does not need
            code, address = self._cuda.cudaMalloc(size)
        if int(code) != 0:
            self._cuda.cudaGetLastError()  # or torch takes it for its own
            raise torch.OutOfMemoryError(f"CUDA out of memory: {size} bytes for what other devices write")
        return int(address)

    def _checked(self, answer: Sequence[Any]) -> Any:
        """What a call of CUDA's gave beside its code; raises RuntimeError if that is an error's."""
        code, *found = answer
        if int(code) != 0:
            raise RuntimeError(f"CUDA error: {code.name}")
        return found[0] if found else None


class _Bytes:
    """Memory that torch did not allocate."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


def _let_go(cuda: Any, device: torch.device, address: int, opened: Sequence[int], gone: Tensor) -> None:
    """Gives memory back that nobody writes into any more."""
    with torch.cuda.device(device):
        gone.fill_(1)
        with contextlib.suppress(RuntimeError):  # what failed on the device is told elsewhere
            torch.cuda.synchronize(device)
        for each in opened:
            cuda.cudaIpcCloseMemHandle(each)
        cuda.cudaFree(address)
