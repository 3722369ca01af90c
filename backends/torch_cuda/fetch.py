"""From a checkpoint's bytes to a torch tensor on its device, in its dtype, in aligned memory of its own.

For the processor, threads read the file straight into the tensor, widening half precision on the way.
For a GPU they read pieces ahead into a ring of pinned buffers while the piece before is being sent.
"""

from __future__ import annotations

from concurrent.futures import Future, wait
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flux_core.weights.fetch import Fetcher
from flux_core.weights.tensors import RawTensor

_PIECE_BYTES = 2**22
_BUFFERS_PER_THREAD = 2


class TorchFetcher:
    """Makes tensors for one device.

    Args:
        device: Where they go.
        num_threads: That read; by default as many as processors, within reason.
    """

    def __init__(self, device: torch.device, num_threads: int | None = None) -> None:
        self.device = device
        self._fetcher = Fetcher(num_threads)
        self._ring: list[_Buffer] = []

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

    def _send(self, raw: RawTensor, stored: torch.dtype, flat: Tensor) -> None:
        """Piece by piece through the ring; the GPU casts."""
        ring = self._ring or self._make_ring()
        starts = range(0, raw.data.size, _PIECE_BYTES)
        pending: dict[int, Future[None]] = {}

        def read_ahead(number: int) -> None:
            if number < len(starts):
                piece = raw.data[starts[number] : starts[number] + _PIECE_BYTES]
                buffer = ring[number % len(ring)]
                buffer.wait()
                pending[number] = self._fetcher.start(piece, buffer.bytes.numpy()[: piece.size])

        try:
            for number in range(len(ring)):
                read_ahead(number)
            at = 0
            for number in range(len(starts)):
                pending.pop(number).result()
                buffer = ring[number % len(ring)]
                count = min(_PIECE_BYTES, raw.data.size - starts[number]) // stored.itemsize
                piece = buffer.bytes.view(stored)[:count].to(self.device, non_blocking=True)
                buffer.mark()
                flat[at : at + count].copy_(piece)
                at += count
                read_ahead(number + len(ring))
        finally:
            for future in pending.values():
                future.cancel()
            wait(pending.values())  # after an error: the next tensor's pieces go into the same buffers

    def _make_ring(self) -> list[_Buffer]:
        self._ring = [
            _Buffer(torch.empty(_PIECE_BYTES, dtype=torch.uint8, pin_memory=torch.cuda.is_available()))
            for _ in range(_BUFFERS_PER_THREAD * self._fetcher.num_threads)
        ]
        return self._ring


@dataclass
class _Buffer:
    """Room for one piece, and the moment from which it may be overwritten."""

    bytes: Tensor
    sent: torch.cuda.Event | None = None

    def mark(self) -> None:
        if torch.cuda.is_available():
            self.sent = torch.cuda.Event()
            self.sent.record()

    def wait(self) -> None:
        if self.sent is not None:
            self.sent.synchronize()
            self.sent = None
