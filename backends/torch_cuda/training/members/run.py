"""Command line of the bundled family's members: `python -m backends.torch_cuda.training.members.run --help`.

Stages: judge, fast, fill, kontext, schnell, canny, depth, redux, clip, estimator, export, evaluate; each
leaves a checkpoint and its file, so a run may be cut anywhere and goes on. All but clip and estimator start
from the base that ships. The stage warm only compiles, in a process beside the first ones.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from backends.torch_cuda.training.members.plan import MemberPlan
from backends.torch_cuda.training.members.stages import MemberRun
from backends.torch_cuda.training.run import is_done, prepare_torch, show_log
from backends.torch_cuda.training.stages import BUNDLED

STAGES = (
    *("judge", "fast", "fill", "kontext", "schnell", "canny", "depth", "redux", "clip", "estimator"),
    *("export", "evaluate"),
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", default=",".join(STAGES), help="comma-separated, in order; or warm")
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--base", type=Path, default=BUNDLED, help="folder of the base, if not the one that ships"
    )
    parser.add_argument("--start", type=Path, help="folder of models whose members go on learning")
    parser.add_argument("--plan", type=Path, help="JSON with fields of MemberPlan to replace")
    parser.add_argument("--deadline-s", type=float, default=1e9, help="seconds from now")
    parser.add_argument("--deadline-at", type=float, help="the same in seconds since 1970")
    parser.add_argument("--workers", type=int, default=12, help="processes that sample, for each material")
    parser.add_argument("--log", default="log.txt", help="name of the log in --out")
    arguments = parser.parse_args()
    show_log(arguments.out, arguments.log)
    prepare_torch()
    names = tuple(arguments.stages.split(","))
    if unknown := set(names) - {*STAGES, "warm"}:
        raise SystemExit(f"There are no stages {sorted(unknown)}. Choose from {', '.join(STAGES)}, warm.")
    deadline_s = arguments.deadline_s
    if arguments.deadline_at is not None:
        deadline_s = arguments.deadline_at - time.time()
    run = MemberRun(
        MemberPlan.read(arguments.plan), arguments.pack, arguments.work, arguments.out, deadline_s,
        bundled=arguments.base, num_workers=arguments.workers, start=arguments.start,
    )  # fmt: skip
    failed: list[str] = []
    try:
        for index, name in enumerate(names):
            run.left = names[index:]
            if not is_done(run, name):
                failed.append(name)
    finally:
        run.source.close()
    if failed:
        logging.getLogger("training").info("failed: %s", ", ".join(failed))
        raise SystemExit(f"Failed: {', '.join(failed)}; see the log.")


if __name__ == "__main__":
    main()
