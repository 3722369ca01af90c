"""Copies tensors' bytes into memory of their own, with several threads and without mapping pages.

Reading a file with `pread` into the place where the bytes will stay costs half of copying them out of a
map: no page of the file enters this process, so its memory never shows a second copy, and a file that
shrinks under us is an error instead of a crash.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import Corrupt
from flux_core.weights.mapped import FileMap

PIECE_BYTES = 2**20
MAX_THREADS = 8


class Fetcher:
    """Threads that copy.

    Args:
        num_threads: How many; by default one for each processor, up to MAX_THREADS.
    """

    def __init__(self, num_threads: int | None = None) -> None:
        self.num_threads = num_threads or min(os.cpu_count() or 1, MAX_THREADS)
        self._pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix="fetch")
        self._rooms = threading.local()

    def into(self, data: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Fills `out` with `data`, both [bytes].

        Raises:
            Corrupt: The file has become shorter, or cannot be read any more.
        """
        if data.size <= PIECE_BYTES:
            _copy(data, out)
        else:
            self._each_piece(data.size, lambda at, end: _copy(data[at:end], out[at:end]))

    def floats_into(self, dtype: str, data: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Fills `out` [elements] with half-precision numbers of a file.

        Args:
            dtype: "BF16" or "F16".
            data: [2 * elements] bytes.
            out: Where their values go.

        Raises:
            Corrupt: As `into`.
        """

        def piece(at: int, end: int) -> None:
            words = self._scratch(end - at)
            _copy(data[at:end], words)
            target = out[at // 2 : end // 2]
            if dtype == "BF16":  # the upper half of the float32 of the same value
                np.left_shift(words.view("<u2"), 16, out=target.view(np.uint32), dtype=np.uint32)
            else:
                np.copyto(target, words.view("<f2"))

        self._each_piece(data.size, piece)

    def start(self, data: NDArray[np.uint8], out: NDArray[np.uint8]) -> Future[None]:
        """As `into`, in one thread and without waiting."""
        return self._pool.submit(_copy, data, out)

    def _each_piece(self, size: int, work: Callable[[int, int], None]) -> None:
        futures = [
            self._pool.submit(work, at, min(at + PIECE_BYTES, size)) for at in range(0, size, PIECE_BYTES)
        ]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:  # after an error nothing may write into `out` any more
                future.cancel()
            wait(futures)

    def _scratch(self, size: int) -> NDArray[np.uint8]:
        """Room that this thread uses again and again, so that it stays in the processor's cache."""
        room: NDArray[np.uint8] | None = getattr(self._rooms, "room", None)
        if room is None:
            self._rooms.room = room = np.empty(PIECE_BYTES, np.uint8)
        return room[:size]


def concatenated(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Arrays one after the other along the first axis; bytes of a file are read, not mapped."""
    out = np.empty((sum(len(array) for array in arrays), *arrays[0].shape[1:]), arrays[0].dtype)
    at = 0
    for array in arrays:
        _copy(array, out[at : at + len(array)])
        at += len(array)
    return out


def file_range(data: NDArray[Any]) -> tuple[FileMap, int] | None:
    """The file that an array of bytes is a view of, and at which byte; None for any other memory."""
    base: Any = data
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj  # pyright: ignore[reportUnknownMemberType]
    if not isinstance(base, FileMap) or not data.flags.c_contiguous:
        return None
    return base, data.ctypes.data - base.address


def _copy(data: NDArray[Any], out: NDArray[Any]) -> None:
    found = file_range(data)
    if found is None or not data.size or not hasattr(os, "preadv"):
        np.copyto(out, data)
        return
    file, offset = found
    left = out.reshape(-1).view(np.uint8).data
    while left:
        try:
            count = os.preadv(file.descriptor, [left], offset)
        except OSError as err:
            raise Corrupt(f"{file.path} cannot be read any more: {err}.", "Try again.") from None
        if not count:
            raise Corrupt(
                f"{file.path} became shorter while it was being read.",
                "Wait until whatever writes it is done, or download it again.",
            )
        left, offset = left[count:], offset + count
