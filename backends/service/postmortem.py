"""Why a process ended, in words, from evidence only.

A SIGKILL looks the same whoever sent it. Memory is named as the cause only if the kernel counted an
out-of-memory kill in this service's control group while the process lived.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections import deque
from pathlib import Path

_TAIL_BYTES = 16 * 1024
_MAX_LOG_BYTES = 1024 * 1024


def count_oom_kills(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """How often the kernel killed for want of memory here: in this control group, or on the machine."""
    with contextlib.suppress(OSError, ValueError):
        group = (proc / "self" / "cgroup").read_text().strip().splitlines()[-1].split("::", 1)[-1]
        return _counter(cgroups / group.lstrip("/") / "memory.events", "oom_kill")
    with contextlib.suppress(OSError, ValueError):
        return _counter(proc / "vmstat", "oom_kill")
    return 0


def explain_end(exit_code: int, oom_kills: int) -> str:
    """Says why a process ended.

    Args:
        exit_code: As subprocess gives it; negative is a signal.
        oom_kills: How many kills for want of memory were counted while it lived.
    """
    if exit_code >= 0:
        return f"it ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    if exit_code == -getattr(signal, "SIGKILL", 9) and oom_kills > 0:
        return f"the system killed it ({name}) because the memory ran out"
    return f"it was ended by {name}"


class EngineLog:
    """What an engine writes to stderr: bounded on disk (the last one or two MiB), the end in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0

    def begin(self, what: str) -> None:
        """Marks the start of a new process."""
        self._tail.clear()
        self._tail_bytes = 0
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._append(f"--- {stamp} {what}\n".encode())

    def write(self, chunk: bytes) -> None:
        """Takes what came, whole lines or not."""
        self._tail.append(chunk)
        self._tail_bytes += len(chunk)
        while self._tail_bytes - len(self._tail[0]) >= _TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft())
        self._append(chunk)

    def last_lines(self, count: int = 20) -> list[str]:
        """The last lines of the present process."""
        text = b"".join(self._tail)[-_TAIL_BYTES:].decode(errors="replace")
        return [line for line in text.replace("\r", "\n").splitlines() if line.strip()][-count:]

    def _append(self, chunk: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk must not stop an engine
            if self.path.exists() and self.path.stat().st_size > _MAX_LOG_BYTES:
                self.path.replace(self.path.with_suffix(".log.1"))
            with self.path.open("ab") as file:
                file.write(chunk)


def _counter(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    raise ValueError(f"{path} has no {name}")
