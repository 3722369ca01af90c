"""Weights of leaves that lie on the host and come to the device, block by block, just before they are used.

Leaves are made as always and then hand their weights over, so what they compute with is the same to the bit.
Copies run on a stream of their own: a slot is filled when all that was computed from it is done, and computed
from when it is filled. The host never waits, unless memory could not be pinned.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from backends.torch_cuda.fetch import TorchFetcher
from backends.torch_cuda.leaves import Linear, LinearMaker
from backends.torch_cuda.offload.arena import ALIGNMENT
from backends.torch_cuda.offload.host import HostMemory
from backends.torch_cuda.offload.schedule import NUM_SLOTS, Belt, Bucket, total_bytes
from backends.torch_cuda.packed import PackedWeight

_ROOM_BETWEEN = 2**16  # bytes in a slot, for the alignment of its tensors


class Stream:
    """The way to one device of the weights of one part. It lives as long as one of them.

    Args:
        device: Where they are used.
        buckets: Of the layers that do not stay, in the order of use.
        num_slots: For them on the device.

    Attributes:
        copied_bytes: When all of them are used.
        was_recorded: Whether anything came during the last recording.
    """

    def __init__(self, device: torch.device, buckets: Sequence[Bucket], num_slots: int = NUM_SLOTS) -> None:
        self.device = device
        self.copied_bytes = total_bytes(buckets)
        self._number = {layer: i for i, bucket in enumerate(buckets) for layer in bucket.layers}
        self._loads: list[ReferenceType[_Load] | None] = [None] * len(buckets)
        self._num_slots = min(num_slots, len(buckets))
        self._belt = Belt(len(buckets), self._num_slots)
        self._slots: list[Tensor] = []
        self._copies = _Copies(device) if device.type == "cuda" else _CopiesAtOnce()
        self._current: int | None = None
        self._slot = 0
        self._is_recording = False
        self.was_recorded = False
        self._make_slots(max(bucket.size_bytes for bucket in buckets) + _ROOM_BETWEEN)

    def holding(self, make: LinearMaker) -> LinearMaker:
        """The maker of leaves whose weights are handed over where they do not stay."""

        def made(name: str, weight: nn.Parameter | PackedWeight, bias: nn.Parameter | None) -> Linear:
            leaf = make(name, weight, bias)
            if name in self._number:
                self._take(self._load(self._number[name]), leaf)
            return leaf

        return made

    def slot_with(self, load: _Load) -> int:
        """The slot in which a bucket lies for whatever is computed next; those after it are on their way."""
        if load.number != self._current:
            if self._current is None:
                self._fit_slots()
            slots = self._slots
            fetches = self._belt.use(load.number, is_last_round=self._is_recording)
            if fetches:
                self._copies.begin(is_first=self._is_recording and self._current is None)
            for fetch in fetches:
                reference = self._loads[fetch.bucket]
                found = reference() if reference is not None else None
                if found is not None:
                    self._copies.copy(found, slots[fetch.slot], fetch.slot)
            self._current, self._slot = load.number, self._belt.slot_of(load.number)
            self._copies.wait(self._slot)
        return self._slot

    def forget(self) -> None:
        """What comes next finds the slots empty and nobody copying; before slots are used by a recording."""
        self._current = None
        self._belt.clear()
        self._copies.end()

    @contextmanager
    def recorded(self) -> Generator[None]:
        """Surrounds what a CUDA graph records, after `forget`: it will bring itself all that is used."""
        self._is_recording, self._current = True, None
        self._belt.clear()
        self._copies.start()
        try:
            yield
        finally:
            self._is_recording, self.was_recorded = False, self._current is not None
            self._current = None
            self._belt.clear()
            if self.was_recorded:
                self._copies.end()

    def view(self, slot: int, piece: _Piece) -> Tensor:
        """A piece as it lies in a slot."""
        part = self._slots[slot][piece.offset : piece.offset + piece.memory.bytes.numel()]
        return part.view(piece.dtype).view(piece.shape)

    def _take(self, load: _Load, leaf: Linear) -> None:
        weight = leaf.weight
        if isinstance(weight, PackedWeight):
            weight.hand_over(load.keep)
            return
        del leaf.weight
        leaf.weight = StreamedWeight(tuple(weight.shape), load.keep(weight.data))

    def _load(self, number: int) -> _Load:
        reference = self._loads[number]
        load = reference() if reference is not None else None
        if load is None:
            load = _Load(self, number)
            self._loads[number] = ref(load)
        return load

    def _fit_slots(self) -> None:
        """Larger slots, should the layers' weights be larger than was known when they were made."""
        loads = [reference() for reference in self._loads if reference is not None]
        size = max(load.size_bytes for load in loads if load is not None)
        if size > self._slots[0].numel():
            self._make_slots(size)

    def _make_slots(self, size_bytes: int) -> None:
        with torch.inference_mode(False):  # so that they may be written to in any mode
            self._slots = [
                torch.empty(size_bytes, dtype=torch.uint8, device=self.device) for _ in range(self._num_slots)
            ]
        self._copies.fill(self._slots)


class StreamedWeight(PackedWeight):
    """A plain weight that is not on the device all the time: called like a packed one, decoded by nothing.

    Args:
        shape: [rows, ...].
        find: Gives it, on the device.
    """

    def __init__(self, shape: tuple[int, ...], find: Callable[[], Tensor]) -> None:
        nn.Module.__init__(self)
        self.scheme = ""
        self.shape = shape
        self.find = find

    def forward(self, dtype: torch.dtype) -> Tensor:
        return self.find().to(dtype)

    def rows(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        return self.find()[index].to(dtype)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One tensor of a bucket: where it lies on the host, and where it comes to lie in a slot."""

    memory: HostMemory
    offset: int
    dtype: torch.dtype
    shape: torch.Size


@dataclass(eq=False)
class _Load:
    """What a bucket holds, once its leaves are made. It lives as long as one of its leaves."""

    stream: Stream
    number: int
    pieces: list[_Piece] = field(default_factory=list[_Piece])
    size_bytes: int = 0

    def keep(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Moves a tensor to the host; what it gives finds it on the device."""
        raw = tensor.contiguous().view(-1).view(torch.uint8)
        memory = HostMemory(raw.numel(), tensor.device)
        memory.bytes.copy_(raw, non_blocking=memory.is_pinned)
        piece = _Piece(memory, self.size_bytes, tensor.dtype, tensor.shape)
        self.pieces.append(piece)
        self.size_bytes += -(-raw.numel() // ALIGNMENT) * ALIGNMENT
        views: dict[int, Tensor] = {}

        def find() -> Tensor:
            slot = self.stream.slot_with(self)
            if slot not in views:
                with torch.inference_mode(False):
                    views[slot] = self.stream.view(slot, piece)
            return views[slot]

        return find


class _CopiesAtOnce:
    """Copies on a processor: done when the call returns."""

    def fill(self, slots: Sequence[Tensor]) -> None: ...

    def start(self) -> None: ...

    def end(self) -> None: ...

    def begin(self, is_first: bool) -> None: ...

    def copy(self, load: _Load, slot: Tensor, number: int) -> None:
        for piece in load.pieces:
            slot[piece.offset : piece.offset + piece.memory.bytes.numel()].copy_(piece.memory.bytes)

    def wait(self, number: int) -> None: ...


class _Copies(_CopiesAtOnce):
    """Copies to a GPU beside what it computes.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._used = torch.cuda.Event()
        self._started = torch.cuda.Event()
        self._arrived: dict[int, torch.cuda.Event] = {}
        self._pieces: TorchFetcher | None = None  # through which memory goes that is not pinned

    def fill(self, slots: Sequence[Tensor]) -> None:
        """Makes known the slots, whose memory is not to be given away while something is copied there."""
        for number, slot in enumerate(slots):
            slot.record_stream(self._stream)
            self._arrived[number] = torch.cuda.Event()

    def start(self) -> None:
        """The first copies of a recording need to wait for nothing but this moment."""
        self._started.record(torch.cuda.current_stream(self._device))

    def end(self) -> None:
        """What is computed next waits for all copies."""
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def begin(self, is_first: bool) -> None:
        """Copies that follow wait for all that was computed so far, or from `start` on."""
        if not is_first:
            self._used.record(torch.cuda.current_stream(self._device))
        self._stream.wait_event(self._started if is_first else self._used)

    def copy(self, load: _Load, slot: Tensor, number: int) -> None:
        with torch.cuda.stream(self._stream):
            for piece in load.pieces:
                memory = piece.memory
                target = slot[piece.offset : piece.offset + memory.bytes.numel()]
                if not memory.is_pinned and torch.cuda.is_current_stream_capturing():
                    raise RuntimeError("copies from memory that is not pinned cannot be recorded")
                if memory.is_pinned:
                    target.copy_(memory.bytes, non_blocking=True)
                else:
                    self._pieces = self._pieces or TorchFetcher(self._device)
                    self._pieces.into(memory.bytes.numpy(), target)
            self._arrived[number].record(self._stream)

    def wait(self, number: int) -> None:
        """What is computed next waits for a slot to be full."""
        torch.cuda.current_stream(self._device).wait_event(self._arrived[number])
