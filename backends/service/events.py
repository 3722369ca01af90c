"""What clients hear: every state change exactly once, and of the rest only the newest.

A stream reads state changes from the journal, so a slow or lost client misses nothing and costs no
memory. Progress and previews are kept one per job and stream; a newer one replaces one that was not
sent yet, and previews go out at most three times a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator

from backends.service.journal import Journal
from flux_core.messages import JobEvent, ServiceHealth

HEARTBEAT_S = 5.0
PREVIEW_INTERVAL_S = 1 / 3


class Inbox:
    """What one stream has still to send."""

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self.progress: dict[str, JobEvent] = {}
        self.previews: dict[str, JobEvent] = {}
        self.is_closed = False


class EventHub:
    """Hands news to every open stream."""

    def __init__(self, journal: Journal, health: Callable[[], ServiceHealth]) -> None:
        self._journal = journal
        self._health = health
        self._inboxes: set[Inbox] = set()
        self._newest = Inbox()  # what a stream that opens now starts with

    def wake(self) -> None:
        """Something changed in the journal or in the service's health."""
        for inbox in self._inboxes:
            inbox.news.set()

    def say(self, event: JobEvent) -> None:
        """Passes progress or a preview on; it replaces one of the same job that was not sent yet."""
        for inbox in (self._newest, *self._inboxes):
            kept = inbox.previews if event.kind == "preview" else inbox.progress
            kept[event.job_id] = event
            inbox.news.set()

    def forget(self, job_id: str) -> None:
        """A job ended: what was not sent about its progress is of no interest any more."""
        for inbox in (self._newest, *self._inboxes):
            inbox.progress.pop(job_id, None)
            inbox.previews.pop(job_id, None)

    def close(self) -> None:
        """Ends every stream."""
        for inbox in self._inboxes:
            inbox.is_closed = True
            inbox.news.set()

    async def stream(self, since: int) -> AsyncIterator[str]:
        """Server-sent events after change number `since`, until the hub closes.

        First "start" with the number of the last change, then "job" (a JobEvent; only state changes
        carry an id) and "health" (a ServiceHealth: when it changes, and as a heartbeat).
        """
        if since > self._journal.last_seq:
            since = 0  # another journal than the one the client knows
        with self._inbox() as inbox:
            yield _sse("start", f'{{"seq":{self._journal.last_seq}}}')
            said, said_at, preview_at = None, 0.0, 0.0
            while not inbox.is_closed:
                inbox.news.clear()
                while rows := self._journal.events_after(since):
                    for row in rows:
                        yield _sse("job", row.model_dump_json(exclude_none=True), row.seq)
                        since = row.seq
                health, now = self._health(), time.monotonic()
                if health != said or now - said_at >= HEARTBEAT_S:
                    yield _sse("health", health.model_dump_json())
                    said, said_at = health, now
                while inbox.progress:
                    yield _sse("job", _pop_oldest(inbox.progress).model_dump_json(exclude_none=True))
                if inbox.previews and now - preview_at >= PREVIEW_INTERVAL_S:
                    preview_at = now
                    for _ in range(len(inbox.previews)):
                        if inbox.previews:
                            yield _sse("job", _pop_oldest(inbox.previews).model_dump_json(exclude_none=True))
                wait_s = said_at + HEARTBEAT_S - now
                if inbox.previews:
                    wait_s = min(wait_s, max(0.01, preview_at + PREVIEW_INTERVAL_S - now))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await inbox.news.wait()

    @contextlib.contextmanager
    def _inbox(self) -> Iterator[Inbox]:
        inbox = Inbox()
        inbox.progress.update(self._newest.progress)
        inbox.previews.update(self._newest.previews)
        self._inboxes.add(inbox)
        try:
            yield inbox
        finally:
            self._inboxes.discard(inbox)


def _pop_oldest(events: dict[str, JobEvent]) -> JobEvent:
    return events.pop(next(iter(events)))


def _sse(name: str, data: str, number: int | None = None) -> str:
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {name}\ndata: {data}\n\n"
