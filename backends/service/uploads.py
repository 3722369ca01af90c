"""Pictures on their way in over HTTP: whole, or going on where a broken transfer stopped."""

from __future__ import annotations

import asyncio
import re
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import Request
from starlette.requests import ClientDisconnect

from backends.service.blobs import BlobStore
from backends.service.refusals import Refused
from flux_core.errors import ConnectionLost

_SILENCE_S = 30.0  # an upload that says nothing for so long is over, for now
_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")


@dataclass(frozen=True, slots=True)
class _Part:
    offset: int
    end: int | None  # first byte after the part; None if the sender did not say
    total_bytes: int | None


class Uploads:
    """Takes uploads, one at a time for each blob."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def receive(self, sha256: str, request: Request) -> int | None:
        """Reads a request's body into the store.

        Returns:
            None when the blob is complete, else how many of its bytes are here.

        Raises:
            Refused: The name or the range makes no sense, or does not fit what is here.
            Corrupt: The whole is not what its name says.
            ConnectionLost: The sender went away; what came is kept.
        """
        part = _part_of(request)
        if self._blobs.has(sha256):
            return None
        lock = self._locks.setdefault(sha256, asyncio.Lock())
        async with lock:
            if self._blobs.has(sha256):
                return None
            return await self._receive(sha256, part, request)

    async def _receive(self, sha256: str, part: _Part, request: Request) -> int | None:
        upload = await asyncio.to_thread(self._blobs.open_upload, sha256, part.offset, part.total_bytes)
        try:
            async for piece in _pieces(request):
                upload.write(piece)
                if part.end is not None and upload.received_bytes > part.end:
                    raise Refused("The upload is longer than it says.", "Send exactly the announced range.")
            if part.total_bytes is not None and upload.received_bytes < part.total_bytes:
                return upload.received_bytes
            await asyncio.to_thread(upload.finish)
            return None
        finally:
            upload.close()


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    pieces = request.stream()
    while True:
        try:
            async with asyncio.timeout(_SILENCE_S):
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        except (ClientDisconnect, TimeoutError) as err:
            message = "The upload stopped before it was complete."
            raise ConnectionLost(message, "Go on where it stopped.") from err
        yield piece


def _part_of(request: Request) -> _Part:
    given = request.headers.get("content-range")
    if given is None:
        length = request.headers.get("content-length", "")
        total_bytes = int(length) if re.fullmatch(r"\d{1,15}", length) else None
        return _Part(0, total_bytes, total_bytes)
    match = _RANGE.fullmatch(given)
    if match is None:
        raise Refused(f"{given[:60]!r} is not a range.", "Use: bytes FIRST-LAST/TOTAL.")
    first, last, total_bytes = (int(part) for part in match.groups())
    if not first <= last < total_bytes:
        raise Refused(f"{given[:60]!r} is not a range.", "Use: bytes FIRST-LAST/TOTAL.")
    return _Part(first, last + 1, total_bytes)
