"""From a checkpoint's bytes to a torch tensor on its device, in its dtype, in aligned memory of its own.

For the processor, threads read the file straight into the tensor, widening half precision on the way.
For a GPU they read pieces ahead into a ring of pinned buffers while the pieces before are being sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flux_core.weights.fetch import Fetcher
from flux_core.weights.tensors import RawTensor, TensorSource

_PIECE_BYTES = 2**23
_SENDING = 2  # buffers whose bytes are on their way to the device
_WAITING = 2  # that were read and wait for it


class TorchFetcher:
    """Makes tensors for one device.

    Args:
        device: Where they go.
        num_threads: That read; by default as many as processors, within reason.
        after: The tensor that will probably be asked for after the one of a name; None where nobody knows. It
            is read ahead, so that threads have work while a tensor ends and the next begins.
    """

    def __init__(
        self,
        device: torch.device,
        num_threads: int | None = None,
        after: Callable[[str], RawTensor | None] = lambda name: None,
    ) -> None:
        self.device = device
        self._fetcher = Fetcher(num_threads)
        self._after = after
        self._ring: list[_Buffer] = []
        self._reads: deque[_Read] = deque()
        self._count = 0  # pieces that were begun
        self._next: RawTensor | None = None
        self._next_at = 0

    def plain(self, raw: RawTensor, stored: torch.dtype, dtype: torch.dtype) -> Tensor:
        """A plain tensor.

        Args:
            raw: Its bytes.
            stored: Their dtype.
            dtype: That it shall have.

        Raises:
            Corrupt: The file became shorter, or cannot be read any more.
        """
        if self.device.type == "cuda":
            out = torch.empty(raw.shape, dtype=dtype, device=self.device)
            self._send(raw, stored, out.reshape(-1))
            return out
        if dtype == torch.float32 and raw.dtype in ("BF16", "F16"):
            out = torch.empty(raw.shape, dtype=dtype)
            self._fetcher.floats_into(raw.dtype, raw.data, out.reshape(-1).numpy())
            return out
        out = torch.empty(raw.shape, dtype=stored)
        self._fetcher.into(raw.data, out.reshape(-1).view(torch.uint8).numpy())
        return out.to(dtype)

    def codes(self, raw: RawTensor) -> Tensor:
        """The bytes of a quantised tensor: [rows, row_bytes] uint8."""
        rows = replace(raw, dtype="U8", shape=(raw.num_rows, raw.data.size // max(raw.num_rows, 1)))
        return self.plain(rows, torch.uint8, torch.uint8)

    def into(self, data: NDArray[np.uint8], out: Tensor) -> None:
        """Bytes of the host's memory, to a tensor [bytes] of the GPU, on the current stream."""
        self._send(RawTensor("", "U8", data.shape, data), torch.uint8, out)

    def _send(self, raw: RawTensor, stored: torch.dtype, flat: Tensor) -> None:
        """Piece by piece through the ring; the GPU casts."""
        if not raw.data.size:
            return
        if not (self._reads and self._reads[0].begins(raw)):
            self._drop()
            self._next, self._next_at = raw, 0
        at = 0
        try:
            while at < raw.data.size:
                self._read_ahead()
                read = self._reads.popleft()
                read.future.result()
                piece = read.buffer.bytes[: read.size].view(stored)
                start, count = at // stored.itemsize, read.size // stored.itemsize
                if flat.dtype != stored:  # or the processor would cast
                    piece = piece.to(self.device, non_blocking=True)
                flat[start : start + count].copy_(piece, non_blocking=True)
                read.buffer.mark()
                at += read.size
        except BaseException:
            self._drop()  # the next tensor's pieces go into the same buffers
            raise

    def _read_ahead(self) -> None:
        """Keeps the threads busy: the rest of this tensor, then the ones that will be asked for next."""
        ring = self._ring or self._make_ring()
        # The buffers left out are still being sent; to use one of them would be to wait for the device.
        while self._next is not None and len(self._reads) < len(ring) - _SENDING:
            raw, start = self._next, self._next_at
            size = min(_PIECE_BYTES, raw.data.size - start)
            buffer = ring[self._count % len(ring)]
            buffer.wait()
            future = self._fetcher.start(raw.data[start : start + size], buffer.bytes.numpy()[:size])
            self._reads.append(_Read(raw.name, start, raw.data.size, size, buffer, future))
            self._count += 1
            self._next_at += size
            while self._next is not None and self._next_at >= self._next.data.size:
                self._next, self._next_at = self._after(self._next.name), 0

    def _drop(self) -> None:
        """Forgets what was read ahead, when nothing is being written any more."""
        for read in self._reads:
            read.future.cancel()
        wait([read.future for read in self._reads])
        self._reads.clear()
        self._next = None

    def _make_ring(self) -> list[_Buffer]:
        self._ring = [
            _Buffer(torch.empty(_PIECE_BYTES, dtype=torch.uint8, pin_memory=torch.cuda.is_available()))
            for _ in range(self._fetcher.num_threads + _WAITING + _SENDING)
        ]
        return self._ring


class Ahead:
    """A source that can tell what comes after a tensor, if tensors are asked for in its order.

    Args:
        tensors: The source.
    """

    def __init__(self, tensors: TensorSource) -> None:
        self._tensors = tensors
        self._order = list(tensors.names())
        self._places = {name: place for place, name in enumerate(self._order)}
        self._kept: dict[str, RawTensor] = {}  # a stacked tensor would else be stacked twice

    def read(self, name: str) -> RawTensor:
        """As TensorSource.read."""
        place = self._places.get(name, 0)
        self._kept = {each: raw for each, raw in self._kept.items() if self._places[each] >= place}
        return self._kept[name] if name in self._kept else self._tensors.read(name)

    def after(self, name: str) -> RawTensor | None:
        """The next tensor that has any bytes; None after the last."""
        for following in self._order[self._places[name] + 1 :]:
            raw = self._kept[following] = self._tensors.read(following)
            if raw.data.size:
                return raw
        return None


@dataclass
class _Buffer:
    """Room for one piece, and the moment from which it may be overwritten."""

    bytes: Tensor
    sent: torch.cuda.Event | None = None
    is_sent: bool = True

    def mark(self) -> None:
        if torch.cuda.is_available():
            self.sent = self.sent or torch.cuda.Event()
            self.sent.record()
            self.is_sent = False

    def wait(self) -> None:
        if self.sent is not None and not self.is_sent:
            self.sent.synchronize()
        self.is_sent = True


@dataclass(frozen=True, slots=True)
class _Read:
    """A piece of a tensor on its way into a buffer.

    Attributes:
        name: Of the tensor.
        start, size: Of the piece, in bytes.
        total: Of the tensor, in bytes.
    """

    name: str
    start: int
    total: int
    size: int
    buffer: _Buffer
    future: Future[None]

    def begins(self, raw: RawTensor) -> bool:
        """Whether it is the first piece of a tensor."""
        return self.name == raw.name and self.start == 0 and self.total == raw.data.size
