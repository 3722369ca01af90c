"""Runs pieces of the benchmark in this process: `python -m backends.torch_cuda.bench floor step`.

The last line of stdout is the results as JSON, with the cells of their table for who prints it; what is
measured is told on stderr as it comes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

from backends.torch_cuda.bench import (
    cached,
    cold,
    family,
    floor,
    loras,
    merge,
    offload,
    parts,
    pictures,
    profile,
    quality,
    sizes,
    step,
    two,
)
from backends.torch_cuda.bench.context import Bench, Piece
from backends.torch_cuda.bench.figures import Figure, Results, give_back, machine
from backends.torch_cuda.devices import prepare_products

PIECES: dict[str, Piece] = {
    "floor": floor.floor,
    "step": step.step,
    "profile": profile.profile,
    "vae": parts.vae,
    "t5": parts.t5,
    "dev": pictures.dev,
    "cached": cached.cached,
    "schnell": pictures.schnell,
    "kontext": pictures.kontext,
    "resolution": pictures.resolution,
    "memory": pictures.memory,
    "lora": loras.lora,
    "offload": offload.offload,
    "cold": cold.cold,
    "two": two.two,
    "quality": quality.quality,
    "family": family.family,
    "family-cache": cached.family_cache,
}
"""In the order in which they are run."""
_PROGRAM = "python -m backends.torch_cuda.bench"
NO_DEVICE = 3
"""The exit status where there is no CUDA device."""


def main() -> None:
    options = _options()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit(NO_DEVICE)
    device = torch.device(options.device, 0) if options.device == "cuda" else torch.device("cpu")
    prepare_products()  # the peer's, too, because a process has one choice
    wanted = sizes.SMALL if options.tiny else sizes.FULL
    sizes.put_into_catalog(wanted)
    results = Results(options.output, " ".join([_PROGRAM, *sys.argv[1:]]), machine(device))
    with tempfile.TemporaryDirectory(prefix="flowbrush-bench-") as base:
        bench = Bench(
            device=device,
            sizes=wanted,
            results=results,
            has_peer=options.peer == "diffusers",
            is_peer_compiled=options.compile,
            precisions=tuple(options.precision) if options.precision else _precisions(device),
            base=options.folder or Path(base),
        )
        for name in PIECES:
            if name in options.pieces or not options.pieces:
                run_piece(bench, name)
    run = results.as_json()
    table = {"columns": merge.COLUMNS, "rows": merge.rows(run)}
    sys.stdout.write(json.dumps(run | {"table": table}) + "\n")


def run_piece(bench: Bench, name: str) -> None:
    """One piece; where it fails, that is a figure, too, and the others go on."""
    try:
        PIECES[name](bench)
    except Exception as err:  # noqa: BLE001 # whatever a library of the peer's raises
        reason = f"failed: {type(err).__name__}: {(str(err).splitlines() or [''])[0]}"
        bench.results.add(Figure(name, name, "", None, note=reason))
        if bench.sizes is sizes.SMALL:
            raise
    give_back(bench.device)


def _precisions(device: torch.device) -> tuple[str, ...]:
    return ("bf16", "fp8") if device.type == "cuda" else ("fp32",)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pieces", nargs="*", choices=[*PIECES, []], help="all by default")
    parser.add_argument("--peer", choices=["none", "diffusers"], default="none")
    parser.add_argument("--compile", action="store_true", help="the peer's blocks compiled")
    parser.add_argument("--tiny", action="store_true", help="sizes for a processor")
    parser.add_argument("--device", choices=["cuda", "cpu"], default=None)
    parser.add_argument(
        "--precision", action="append", choices=["fp32", "bf16", "fp8"], help="may be given several times"
    )
    parser.add_argument("--folder", type=Path, help="where a whole model is written once and used again")
    parser.add_argument("--output", type=Path, help="where figures.json and figures.svg go")
    options = parser.parse_args()
    if options.device is None:
        options.device = "cuda" if torch.cuda.is_available() or not options.tiny else "cpu"
    return options


if __name__ == "__main__":
    main()
