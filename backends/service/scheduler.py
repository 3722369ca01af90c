"""Which job comes next: interactive before bulk, then by order, then first come first served.

Jobs that ask for different engines wait in different queues; a queue is only an order, what a job is
stands in the journal.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from flux_core.messages import Lane

_RANK = {Lane.INTERACTIVE: 0, Lane.BULK: 1}


@dataclass(frozen=True, slots=True)
class Ticket:
    """A place in a queue. `number` is the order of arrival."""

    job_id: str
    engine: str
    lane: Lane
    order: int
    number: int

    @property
    def sort_key(self) -> tuple[int, int, int]:
        return _RANK[self.lane], self.order, self.number


class JobQueue:
    """The jobs that wait."""

    def __init__(self) -> None:
        self._tickets: dict[str, Ticket] = {}
        self._arrival = asyncio.Event()

    def __len__(self) -> int:
        return len(self._tickets)

    def put(self, ticket: Ticket) -> None:
        """Adds a job, or gives one that waits another place."""
        self._tickets[ticket.job_id] = ticket
        self._arrival.set()

    def remove(self, job_id: str) -> bool:
        """Takes a job out; False if it does not wait."""
        return self._tickets.pop(job_id, None) is not None

    def positions(self) -> dict[str, int]:
        """How many jobs go before each job on its engine."""
        counts: dict[str, int] = {}
        positions: dict[str, int] = {}
        for ticket in sorted(self._tickets.values(), key=lambda ticket: ticket.sort_key):
            positions[ticket.job_id] = counts.get(ticket.engine, 0)
            counts[ticket.engine] = positions[ticket.job_id] + 1
        return positions

    async def take(self, engine: str) -> str:
        """Waits for the engine's next job and takes it out."""
        while True:
            waiting = [ticket for ticket in self._tickets.values() if ticket.engine == engine]
            if waiting:
                first = min(waiting, key=lambda ticket: ticket.sort_key)
                del self._tickets[first.job_id]
                return first.job_id
            self._arrival.clear()
            await self._arrival.wait()
