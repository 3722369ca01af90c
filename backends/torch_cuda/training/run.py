"""Trains the bundled model, stage by stage: `python -m backends.torch_cuda.training.run --help`.

Stages: judge, autoencoder or adopt (the autoencoder that ships), text, flow, distil, export, evaluate.
Each leaves a checkpoint in the work folder and starts from what is there, so a run may be cut anywhere
and goes on; a deadline ends it in time. The stages warm and warm_autoencoder only compile, beside the others.
"""

from __future__ import annotations

import argparse
import gc
import logging
import time
from pathlib import Path

import torch

from backends.torch_cuda.training.plan import Plan
from backends.torch_cuda.training.stages import Run

_LOG = logging.getLogger("training")
STAGES = (
    *("warm", "warm_autoencoder", "mend", "judge", "autoencoder", "adopt", "base"),
    *("text", "flow", "distil", "export", "evaluate"),
)
FROM_NOTHING = "judge,autoencoder,text,flow,distil,export,evaluate"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", default=FROM_NOTHING, help=f"comma-separated, in order: {STAGES}")
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plan", type=Path, help="JSON with fields of Plan to replace")
    parser.add_argument("--deadline-s", type=float, default=1e9, help="seconds from now")
    parser.add_argument("--deadline-at", type=float, help="the same in seconds since 1970")
    parser.add_argument("--workers", type=int, default=13, help="processes that sample scenes")
    parser.add_argument("--log", default="log.txt", help="name of the log in --out")
    arguments = parser.parse_args()
    show_log(arguments.out, arguments.log)
    prepare_torch()
    names = arguments.stages.split(",")
    if unknown := set(names) - set(STAGES):
        raise SystemExit(f"There are no stages {sorted(unknown)}. Choose from {', '.join(STAGES)}.")
    deadline_s = arguments.deadline_s
    if arguments.deadline_at is not None:
        deadline_s = arguments.deadline_at - time.time()
    plan = Plan.read(arguments.plan)
    run = Run(plan, arguments.pack, arguments.work, arguments.out, deadline_s, num_workers=arguments.workers)
    try:
        failed = [name for name in names if not is_done(run, name)]
    finally:
        run.source.close()
    if failed:
        raise SystemExit(f"Failed: {', '.join(failed)}; see the log.")


def show_log(out: Path, name: str) -> None:
    """Logs to the terminal and to a file in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(relativeCreated)8d %(message)s",
        handlers=[logging.StreamHandler(), logging.FileHandler(out / name)],
    )


def prepare_torch() -> None:
    """Settings of torch that training is fastest with."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.suppress_errors = True  # what cannot be compiled is slow, not lost


def is_done(run: Run, name: str) -> bool:
    """Runs a stage; one that fails is told, and the next ones take what there is."""
    _LOG.info("--- %s (%.0f s left)", name, run.left_s)
    try:
        getattr(run, name)()
    except Exception:  # a lent machine's time is too dear to lose what other stages can still give
        _LOG.exception("%s failed", name)
        return False
    finally:
        gc.collect()
        if run.device.type == "cuda":
            torch.cuda.empty_cache()
    return True


if __name__ == "__main__":
    main()
