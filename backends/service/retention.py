"""What may be forgotten, and when.

A result stays until its client has acknowledged it. After that it stays for a while, as long as all
pictures together stay within a bound; what was acknowledged first goes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backends.service.blobs import BlobInfo
from backends.service.journal import Entry

DAY_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Retention:
    """How long acknowledged jobs stay, how much may stay, and how long a picture may wait for its job."""

    acknowledged_s: float = 7 * DAY_S
    unused_blob_s: float = 3600.0
    max_bytes: int = 20 * 10**9


@dataclass(frozen=True, slots=True)
class Removal:
    """Jobs and blobs that may go now."""

    job_ids: tuple[str, ...]
    blobs: tuple[str, ...]


def blobs_of(entry: Entry) -> frozenset[str]:
    """Every blob that a job needs or made."""
    made = entry.record.finished.images if entry.record.finished else ()
    return frozenset((*entry.record.request.blobs, *(image.sha256 for image in made)))


def plan_removal(
    entries: Sequence[Entry], blobs: Mapping[str, BlobInfo], now: float, rule: Retention
) -> Removal:
    """Decides what may go at time `now` (seconds since the epoch)."""
    acknowledged = sorted(
        (entry for entry in entries if entry.acknowledged_at is not None),
        key=lambda entry: entry.acknowledged_at or 0.0,
    )
    users: dict[str, int] = dict.fromkeys(blobs, 0)
    for entry in entries:
        for sha256 in blobs_of(entry):
            users[sha256] = users.get(sha256, 0) + 1
    total_bytes = sum(info.size_bytes for info in blobs.values())
    jobs: list[str] = []
    for entry in acknowledged:
        is_old = now - (entry.acknowledged_at or 0.0) > rule.acknowledged_s
        if not is_old and total_bytes <= rule.max_bytes:
            break
        jobs.append(entry.record.job_id)
        for sha256 in blobs_of(entry):
            users[sha256] -= 1
            if users[sha256] == 0 and sha256 in blobs:
                total_bytes -= blobs[sha256].size_bytes
    unused = (
        sha256
        for sha256, info in blobs.items()
        if users[sha256] == 0 and now - info.used_at > rule.unused_blob_s
    )
    return Removal(tuple(jobs), tuple(sorted(unused)))
