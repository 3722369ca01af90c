"""A process that paints one picture: `cold` starts it and looks at the clock.

It begins as an engine's process does, and imports no torch before that.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from backends.torch_cuda import start


def main() -> None:
    """Paints one picture and tells when the engine was ready and it was done (Unix time)."""
    base, name, size, device = sys.argv[1:]
    with start.begun():
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
