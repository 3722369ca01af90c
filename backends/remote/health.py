"""How the service is, in one word, from what it said last and when.

The window shows this in one line. It is worked out from the time of the last sign of life and the
state in it, so asking costs nothing and never blocks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from backends.remote.connection import LOST_AFTER_S

STALLED_AFTER_S = 20.0


class Health(StrEnum):
    """The service's state as a person would say it."""

    CONNECTING = "connecting"  # nothing was heard yet
    LOADING = "loading"  # the engine starts
    READY = "ready"
    BUSY = "busy"
    ENGINE_DIED = "engine_died"  # the next job starts a new one
    STALLED = "stalled"  # connected, but silent for 20 s
    LOST = "lost"  # not reachable, or silent for 45 s


@dataclass(frozen=True, slots=True)
class HealthReport:
    """A state, and what is known beyond it (why an engine died, why the connection broke)."""

    health: Health
    detail: str = ""


class HealthWatch:
    """Remembers the last sign of life; may be told and asked from any thread."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._heard_at = now()
        self._last = HealthReport(Health.CONNECTING)

    def heard(self, state: str = "", detail: str = "") -> None:
        """The service gave a sign of life; with a state, that is its state now."""
        with self._lock:
            self._heard_at = self._now()
            if state:
                self._last = HealthReport(Health(state), detail)

    def lost(self, reason: str) -> None:
        """The connection broke."""
        with self._lock:
            self._last = HealthReport(Health.LOST, reason)

    def silence_s(self) -> float:
        """Seconds since the last sign of life."""
        with self._lock:
            return self._now() - self._heard_at

    def report(self) -> HealthReport:
        """The state now."""
        silence_s = self.silence_s()
        with self._lock:
            last = self._last
        if last.health in (Health.LOST, Health.CONNECTING) and silence_s <= LOST_AFTER_S:
            return last
        if silence_s > LOST_AFTER_S:
            return HealthReport(Health.LOST, last.detail or f"Nothing was heard for {silence_s:.0f} s.")
        if silence_s > STALLED_AFTER_S:
            return HealthReport(Health.STALLED, f"Nothing was heard for {silence_s:.0f} s.")
        return last
