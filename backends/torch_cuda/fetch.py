"""From a checkpoint's bytes to a torch tensor on its device, in its dtype, in aligned memory of its own.

Where nothing has to change, threads read the file straight into the tensor. Else they read small pieces
ahead into a ring of buffers (pinned, for a GPU) while this thread casts or sends the piece before.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor

from flux_core.weights.fetch import PIECE_BYTES, Fetcher
from flux_core.weights.tensors import RawTensor

_SMALL_BYTES = 2**18
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
        out = torch.empty(raw.shape, dtype=dtype, device=self.device)
        flat = out.reshape(-1)
        if raw.data.size < _SMALL_BYTES:
            buffer = torch.empty(flat.numel(), dtype=stored)
            self._fetcher.into(raw.data, buffer.view(torch.uint8).numpy())
            flat.copy_(buffer)
        elif stored == dtype and self.device.type == "cpu":
            self._fetcher.into(raw.data, flat.view(torch.uint8).numpy())
        else:
            self._stream(raw, stored, flat)
        return out

    def _stream(self, raw: RawTensor, stored: torch.dtype, flat: Tensor) -> None:
        """Piece by piece through the ring."""
        ring = self._ring or self._make_ring()
        starts = range(0, raw.data.size, PIECE_BYTES)
        pending: dict[int, Future[None]] = {}

        def read_ahead(number: int) -> None:
            if number < len(starts):
                piece = raw.data[starts[number] : starts[number] + PIECE_BYTES]
                buffer = ring[number % len(ring)]
                buffer.wait()
                pending[number] = self._fetcher.start(piece, buffer.bytes.numpy()[: piece.size])

        for number in range(len(ring)):
            read_ahead(number)
        at = 0
        for number in range(len(starts)):
            pending.pop(number).result()
            buffer = ring[number % len(ring)]
            count = min(PIECE_BYTES, raw.data.size - starts[number]) // stored.itemsize
            flat[at : at + count].copy_(buffer.bytes.view(stored)[:count], non_blocking=True)
            buffer.mark(self.device)
            at += count
            read_ahead(number + len(ring))

    def _make_ring(self) -> list[_Buffer]:
        is_cuda = self.device.type == "cuda"
        self._ring = [
            _Buffer(torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=is_cuda))
            for _ in range(_BUFFERS_PER_THREAD * self._fetcher.num_threads)
        ]
        return self._ring


@dataclass
class _Buffer:
    """Room for one piece, and the moment from which it may be overwritten."""

    bytes: Tensor
    sent: torch.cuda.Event | None = None

    def mark(self, device: torch.device) -> None:
        if device.type == "cuda":
            self.sent = torch.cuda.Event()
            self.sent.record(torch.cuda.current_stream(device))

    def wait(self) -> None:
        if self.sent is not None:
            self.sent.synchronize()
            self.sent = None
