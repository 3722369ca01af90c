"""What the machine is and has left: its processor and its memory.

Engines that compute on the processor, or share its memory, describe their device with it. What the
system cannot tell is replaced by something true and less precise, never guessed.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from pathlib import Path

import psutil

from flux_core.messages import Device

_PR_SET_PDEATHSIG = 1


def processor() -> Device:
    """The processor and the machine's memory, as a device to compute on."""
    memory = psutil.virtual_memory()
    return Device(
        name=processor_name(),
        kind="cpu",
        memory_total_bytes=memory.total,
        memory_free_bytes=memory.available,
    )


def processor_name() -> str:
    """As its maker calls it where the system tells, else the architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def peak_memory_bytes() -> int:
    """The most memory this process has held so far."""
    if os.name != "posix":
        return int(psutil.Process().memory_info().peak_wset)
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource  # where Linux is, it also counts what the parent held before the program began

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def die_with_parent() -> None:
    """Has the kernel end this process with its parent; elsewhere only the end of its stdin can tell it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
