"""Copies tensors' bytes into memory of their own, with several threads and without mapping pages.

Reading a file with `pread` into the place where the bytes will stay costs half of copying them out of a
map: no page of the file enters this process, so its memory never shows a second copy, and a file that
shrinks under us is an error instead of a crash.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import Corrupt
from flux_core.weights.mapped import FileMap

PIECE_BYTES = 2**22
MAX_THREADS = 8


class Fetcher:
    """Threads that copy.

    Args:
        num_threads: How many; by default one for each processor, up to MAX_THREADS.
    """

    def __init__(self, num_threads: int | None = None) -> None:
        self.num_threads = num_threads or min(os.cpu_count() or 1, MAX_THREADS)
        self._pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix="fetch")

    def into(self, data: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Fills `out` with `data`, both [bytes].

        Raises:
            Corrupt: The file has become shorter, or cannot be read any more.
        """
        if data.size <= PIECE_BYTES:
            _copy(data, out)
            return
        bounds = range(0, data.size, PIECE_BYTES)
        futures = [self.start(data[at : at + PIECE_BYTES], out[at : at + PIECE_BYTES]) for at in bounds]
        for future in futures:
            future.result()

    def start(self, data: NDArray[np.uint8], out: NDArray[np.uint8]) -> Future[None]:
        """As `into`, in one thread and without waiting."""
        return self._pool.submit(_copy, data, out)


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
