"""`flowbrush serve`, or the bare service, with a catalog in which every model but Fill can do every task.

What a row of the real catalog can do depends on which engines and bundled models there are; the fake
engine paints whatever it is asked for, and the tests of requests should not wait for a model.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from flux_core.catalog import lookup
from flux_core.request import Task


def widen() -> None:
    """Lets every model do every task, in this process; Fill stays as it is, to be refused."""
    for name, spec in lookup.MODELS.items():
        if not spec.is_fill:
            lookup.MODELS[name] = replace(spec, tasks=tuple(Task))


if __name__ == "__main__":
    widen()
    if sys.argv[1:2] == ["serve"]:
        from desktop.commands.main import main

        main(sys.argv[1:])
    else:
        from backends.service.__main__ import main as serve

        sys.exit(serve())
