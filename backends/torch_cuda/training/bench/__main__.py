"""The two ends of `flowbrush bench family` that need torch; between them the command lines are run.

`python -m backends.torch_cuda.training.bench compose` writes exercises, once the judge is known to be one;
`measure` judges the pictures that came and prints the figures as JSON, with sheets beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError

from backends.torch_cuda.training import checkpoint, judge
from backends.torch_cuda.training.bench import exercises, figures
from backends.torch_cuda.training.data.compose import Composer
from backends.torch_cuda.training.data.feed import LABELS
from backends.torch_cuda.training.data.pack import Pack
from flux_core.errors import Corrupt, FluxError, ModelMissing

_MOST_ENCODED = 16


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("act", choices=("compose", "measure"))
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where exercises and sheets go")
    parser.add_argument("--count", type=int, default=40, help="prompts of a large section")
    parser.add_argument("--only", required=True, help="sections, with commas; may be none")
    parser.add_argument("--judge", type=Path, help="weights of the judge")
    parser.add_argument("--models", type=Path, action="append", default=[], help="with measure")
    arguments = parser.parse_args()
    try:
        pack = Pack.load(arguments.pack)
        found = _compose(pack, arguments) if arguments.act == "compose" else _measure(pack, arguments)
    except FluxError as err:
        found = {"error": {"message": err.message, "hint": err.hint}}
    sys.stdout.write(json.dumps(found) + "\n")
    return 1 if "error" in found else 0


def _compose(pack: Pack, arguments: argparse.Namespace) -> dict[str, object]:
    if arguments.judge is not None:
        _judge(arguments.judge)  # now, rather than when everything is painted
    arguments.folder.mkdir(parents=True, exist_ok=True)
    maker = exercises.Maker(pack, arguments.folder, arguments.count)
    for name, write in exercises.SECTIONS.items():
        if name in arguments.only.split(","):
            write(maker)
    maker.write()
    return {"exercises": len(maker.made)}


def _measure(pack: Pack, arguments: argparse.Namespace) -> dict[str, object]:
    wanted = [name for name in arguments.only.split(",") if name]
    asked = [one for one in exercises.read(arguments.folder) if one.section in wanted] if wanted else []
    out: dict[str, object] = {}
    if asked:
        composer = Composer(pack, exercises.CPU)
        answers = figures.Answers(arguments.folder, asked, composer, _judge(arguments.judge))
        out |= figures.measured(answers, (one.section for one in asked))
    if arguments.models:
        out["autoencoder"] = figures.autoencoder(
            pack, tuple(arguments.models), min(arguments.count, _MOST_ENCODED)
        )
    return out


def _judge(path: Path) -> judge.Judge:
    eye = judge.Judge(LABELS)
    if not path.is_file():
        raise ModelMissing(f"There is no judge at {path}.", "Train one: the stage judge of training.run.")
    try:
        eye.load_state_dict(checkpoint.load(path, torch.device("cpu"))[0])
    except (RuntimeError, ValueError, SafetensorError) as err:
        raise Corrupt(f"{path} is not a judge of this version.", "Train one again.") from err
    return eye


if __name__ == "__main__":
    sys.exit(main())
