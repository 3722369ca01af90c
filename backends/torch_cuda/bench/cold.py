"""The first picture of a process: from its start to PNG bytes, with the weights in the page cache.

`cold` starts this module as a program of its own for each measurement, and shares nothing with it but files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from backends.torch_cuda.bench.context import Bench
from backends.torch_cuda.bench.figures import Figure


def cold(bench: Bench) -> None:
    """Two first pictures in each precision; the second counts, since the first may read the disk."""
    base, small = bench.models_dir(), "small" if bench.sizes.side_px < 1024 else "full"
    for name in bench.precisions:
        what = f"first picture after process start, {bench.sizes.num_steps} steps, {name}"
        for turn in ("first", "again"):
            started = time.time()
            command = [sys.executable, "-m", "backends.torch_cuda.bench.cold"]
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
                note += "; the file may have come from the disk"
            bench.results.add(
                Figure("cold", f"{what}, {turn}", "s", told["done"] - started, reach=8.0, note=note)
            )


def main() -> None:
    """Paints one picture and tells when the engine was ready and it was done (Unix time)."""
    base, name, size, device = sys.argv[1:]
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    from backends.torch_cuda.bench import sizes
    from backends.torch_cuda.engine import TorchEngine
    from flux_core.request import Precision, build_request

    wanted = sizes.FULL if size == "full" else sizes.SMALL
    sizes.put_into_catalog(wanted)
    engine = TorchEngine(device, (Path(base),))
    ready = time.time()
    request = build_request(
        model=wanted.spec.model,
        prompt="a picture",
        width_px=wanted.side_px,
        height_px=wanted.side_px,
        num_steps=wanted.num_steps,
        precision=Precision(name),
    )
    result = engine.run(request, lambda sha256: b"", lambda message: None, lambda: False)
    sys.stdout.write(json.dumps({"ready": ready, "done": time.time(), "seconds": result.seconds}) + "\n")


if __name__ == "__main__":
    main()
