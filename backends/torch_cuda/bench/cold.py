"""The first picture of a process: from its start to PNG bytes, with the weights in the page cache.

`cold` starts a program of its own for each measurement (`first_picture.py`), and shares only files with it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from backends.torch_cuda.bench.context import Bench
from backends.torch_cuda.bench.figures import Figure


def cold(bench: Bench) -> None:
    """Two first pictures in each precision; the second counts: the first may read the disk, and compile."""
    base, small = bench.models_dir(), "small" if bench.sizes.side_px < 1024 else "full"
    for name in bench.precisions:
        what = f"first picture after process start, {bench.sizes.num_steps} steps, {name}"
        for turn in ("first", "again"):
            started = time.time()
            command = [sys.executable, "-m", "backends.torch_cuda.bench.first_picture"]
            command += [str(base), name, small, str(bench.device)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                bench.results.add(Figure("cold", what, "s", None, note=reason))
                break
            told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in told["seconds"].items())
            note = f"imports and device {told['ready'] - started:.2f}, {stages}"
            if turn == "first":
                note += "; the file may have come from the disk, bytecode and kernels from their compilers"
            bench.results.add(
                Figure("cold", f"{what}, {turn}", "s", told["done"] - started, reach=8.0, note=note)
            )
