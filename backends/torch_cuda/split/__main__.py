"""The process of a rank that follows: `python -m backends.torch_cuda.split`.

A thread reads the orders and ends the process as soon as nobody gives any; it begins before torch is
imported, which takes seconds.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from flux_core.machine import die_with_parent


def main() -> None:
    """Follows the process at the other end of stdin and stdout."""
    parser = argparse.ArgumentParser(description="Computes its share of another process's pictures.")
    parser.add_argument("--device", required=True)
    parser.add_argument("--meet", required=True, type=Path)
    parser.add_argument("--rank", required=True, type=int)
    parser.add_argument("--size", required=True, type=int)
    parser.add_argument("--way", required=True)
    options = parser.parse_args()
    die_with_parent()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # sent to the whole group, but meant for rank 0
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, waiting), name="orders", daemon=True).start()
    reports = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints goes to stderr
    from backends.torch_cuda.split.follower import follow

    follow(**vars(options), orders=waiting.get, reports=reports)


def _read(orders: BinaryIO, waiting: queue.SimpleQueue[bytes]) -> None:
    for line in orders:
        waiting.put(line)
    os._exit(0)  # rank 0 is gone; nobody waits for what this one does


if __name__ == "__main__":
    main()
